"""Samples of each validation, and the predictions of a test set."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_bpd.callbacks.ranks import gathered, shows
from lightning_bpd.codecs.images import to_png
from lightning_bpd.files import write_atomically
from lightning_bpd.measuring.arms import spread
from lightning_bpd.measuring.panels import ImagePanels, draw_panels
from lightning_bpd.tracking.weights_and_biases import wandb_loggers

logger = logging.getLogger(__name__)


class Samples(Callback):
    """After each validation, shows some rows in the run's folder and in W&B.

    Text goes to ``samples.md`` and a table, images to the picture ``samples.png``. The module keeps its last validation
    output of each row in ``validation_outputs`` (position in the corpus -> text or image).

    Args:
        count: Rows to show, spread evenly over the validation set.
    """

    def __init__(self, count: int = 10) -> None:
        self.count = count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the rows of this validation."""
        if not shows(trainer):
            return
        outputs: dict[int, Any] = getattr(pl_module, "validation_outputs", {})
        if not outputs:
            return
        sources = trainer.datamodule.sources("validation")  # type: ignore[attr-defined]
        references = trainer.datamodule.references("validation")  # type: ignore[attr-defined]
        chosen = spread(sorted(outputs), self.count)
        loggers = wandb_loggers(trainer)
        folder, step = Path(trainer.default_root_dir), trainer.global_step
        title = f"Validation samples after {step} steps"
        if not isinstance(sources[0], str):
            picture = folder / "samples.png"
            rows = [ImagePanels(f"image {i + 1}", sources[i], references[i], outputs[i], []) for i in chosen]
            draw_panels(rows, picture, title)
            for each in loggers:
                each.log_image("val/samples", [str(picture)], step=step)
            return
        columns = ["source", "reference", "output"]
        lines = [[sources[i], references[i], outputs[i]] for i in chosen]
        samples = (
            "".join(f"- {name}: {text}\n" for name, text in zip(columns, line, strict=True)) for line in lines
        )
        write_atomically(folder / "samples.md", "\n".join([f"# {title}", "", *samples]))
        for each in loggers:
            each.log_table("val/samples", columns, lines, step=step)


class Predictions(Callback):
    """Writes the predictions into the run's folder: ``predictions.txt``, a line for each row of the corpus.

    Images go to ``predictions/000000.png`` and so on. The module's ``predict_step`` returns position in the corpus ->
    text or image.
    """

    def __init__(self) -> None:
        self._outputs: dict[int, Any] = {}

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict[int, Any], *_: Any
    ) -> None:
        """Keep the outputs of this batch."""
        self._outputs |= outputs

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring the outputs of all ranks together and write them."""
        parts = gathered(trainer, self._outputs)
        outputs = {index: output for part in parts for index, output in sorted(part.items())}
        self._outputs = {}
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        if all(isinstance(output, str) for output in outputs.values()):
            path = folder / "predictions.txt"
            write_atomically(path, "".join(f"{outputs[index]}\n" for index in sorted(outputs)))
            logger.info("Wrote %d lines to %s", len(outputs), path)
            return
        for index, image in outputs.items():
            write_atomically(folder / "predictions" / f"{index:06}.png", to_png(image), durable=False)
        logger.info("Wrote %d images to %s", len(outputs), folder / "predictions")
