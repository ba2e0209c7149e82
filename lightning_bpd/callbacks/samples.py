"""Text for the eye: samples of each validation, and the predictions of a test set."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.distributed
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger

from lightning_bpd.files import write_atomically

logger = logging.getLogger(__name__)


class Samples(Callback):
    """After each validation of a model of text, shows some rows as ``samples.md`` in the run's folder and in W&B.

    The module keeps its last validation output of each row in ``validation_outputs`` (position in the corpus -> text).

    Args:
        count: Rows to show, spread evenly over the validation set.
    """

    def __init__(self, count: int = 10) -> None:
        self.count = count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the rows of this validation."""
        trial = trainer.sanity_checking or trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer.state.fn != "fit" or trial or not trainer.is_global_zero:
            return
        outputs: dict[int, str] = pl_module.validation_outputs  # type: ignore[assignment]
        sources = trainer.datamodule.sources("validation")  # type: ignore[attr-defined]
        references = trainer.datamodule.references("validation")  # type: ignore[attr-defined]
        if not isinstance(sources[0], str):
            return
        rows = [(sources[i], references[i], outputs[i]) for i in spread(sorted(outputs), self.count)]
        text = "\n".join(
            [f"# Validation samples after {trainer.global_step} steps", ""]
            + [
                f"- source: {source}\n- reference: {reference}\n- output: {output}\n"
                for source, reference, output in rows
            ]
        )
        write_atomically(Path(trainer.default_root_dir) / "samples.md", text)
        for each in trainer.loggers:
            if isinstance(each, WandbLogger):
                columns = ["source", "reference", "output"]
                each.log_table("val/samples", columns, [list(row) for row in rows], step=trainer.global_step)


class Predictions(Callback):
    """Writes what ``predict`` returns to ``predictions.txt`` in the run's folder, a line for each row of the corpus.

    The module's ``predict_step`` returns position in the corpus -> text.
    """

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict[int, str], *_: Any
    ) -> None:
        """Keep the texts of this batch."""
        self._texts |= outputs

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring the texts of all ranks together and write them."""
        parts: list[Any] = [self._texts]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, self._texts)
        texts = {index: text for part in parts for index, text in part.items()}
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "predictions.txt"
            write_atomically(path, "".join(f"{texts[index]}\n" for index in sorted(texts)))
            logger.info("Wrote %d lines to %s", len(texts), path)
        self._texts = {}


def spread(items: list[int], count: int) -> list[int]:
    """At most ``count`` of the items, in order and evenly spaced."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
