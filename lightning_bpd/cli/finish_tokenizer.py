"""The end of a tokenizer's training: a finished tokenizer, curves, and what it does with the validation images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_bpd.callbacks.checkpoints import checkpoint_file
from lightning_bpd.callbacks.reconstructions import reconstructions
from lightning_bpd.cli.export import checkpoint_metrics
from lightning_bpd.codecs.image_tokenizers import TrainedTokenizer
from lightning_bpd.files import write_atomically
from lightning_bpd.measuring.generated_images import ImageJudge, ImageMeasures
from lightning_bpd.saved.finished_model import CHECKPOINT_KEY
from lightning_bpd.tracking.curves import draw_curves
from lightning_bpd.tracking.provenance import provenance

logger = logging.getLogger(__name__)

# Images that are shown.
SHOWN = 24


def finish_tokenizer(trainer: pl.Trainer, console: Console) -> None:
    """Write ``tokenizer``, ``reconstructions.png`` and ``curves.png`` to the run's folder and print the result.

    The tokenizer is that of the best checkpoint, or of the last when training never validated. Rank 0 calls it.
    """
    folder = Path(trainer.default_root_dir)
    checkpoint = checkpoint_file(trainer, "best")
    if not checkpoint.is_file():
        checkpoint = checkpoint_file(trainer, "last")
    if not checkpoint.is_file():
        logger.warning("No training step was taken, so there is no finished tokenizer.")
        return
    module: Any = trainer.lightning_module
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    metrics = checkpoint_metrics(checkpoint)
    tokenizer = checkpoint_tokenizer(checkpoint)
    training = {"regime": module.regime, "seed": module.seed}
    tokenizer.save(folder / "tokenizer", {**metrics, "training": training, "provenance": provenance()})
    draw_curves(
        folder / "metrics.csv", folder / "curves.png", "PSNR (dB)", "val/psnr", "squared error an intensity"
    )
    module.network.load_state_dict(tokenizer.network.state_dict())
    module.eval()
    write_atomically(folder / "reconstructions.png", reconstructions(module, data, SHOWN), durable=False)
    last = checkpoint_metrics(checkpoint_file(trainer, "last"))
    console.print(results(last, metrics, tokenizer, *_judged(tokenizer, data, trainer.strategy.root_device)))
    if module.collapsed is not None:
        console.print(Text(f"Careful: {module.collapsed}."), soft_wrap=True)
    for line in (
        f"Finished tokenizer: {folder}/tokenizer",
        f"Reconstructions: {folder}/reconstructions.png",
        f"Curves: {folder}/curves.png",
        f"Train on its codes: give the data --data.tokenizer {folder}/tokenizer",
    ):
        console.print(Text(line), soft_wrap=True)


def checkpoint_tokenizer(path: Path) -> TrainedTokenizer:
    """The tokenizer of a training checkpoint: averaged weights where averaging was on."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    weights = {
        name.removeprefix("network."): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
    return TrainedTokenizer.rebuild(checkpoint[CHECKPOINT_KEY]["image_tokenizer"], weights)


def _judged(tokenizer: TrainedTokenizer, data: Any, device: torch.device) -> tuple[float, ImageMeasures]:
    """The accuracy of a classifier on the validation images, and its measures of their reconstructions."""
    judge = ImageJudge.of(data, device=device)
    validation = data.part("validation")
    tokenizer.to(device)
    reconstructed = tokenizer.decode(tokenizer.encode(validation.images))
    return judge.accuracy, judge.measure(reconstructed, validation.labels)


def results(
    last: dict[str, Any],
    best: dict[str, Any],
    tokenizer: TrainedTokenizer,
    real_accuracy: float,
    measures: ImageMeasures,
) -> Table:
    """A table of the tokenizer's shape and quality, and of the time of training."""
    table = Table("", "", title="Result", show_header=False, title_justify="left")
    table.add_row("grid", f"{' x '.join(map(str, tokenizer.grid))} codes of {tokenizer.vocabulary}")
    labels = {
        "psnr": "validation PSNR (dB)",
        "codebook_use": "share of codes used",
        "codebook_perplexity": "perplexity of the codes",
    }
    for name, label in labels.items():
        if name in best.get("validation", {}):
            table.add_row(label, f"{best['validation'][name]:.2f}")
    accuracy = f"{measures.class_accuracy:.3f} (of the images themselves {real_accuracy:.3f})"
    table.add_row("class accuracy of reconstructions", accuracy)
    table.add_row("Fréchet distance, our classifier", f"{measures.frechet_distance:.3g}")
    table.add_row("best after", f"{best['steps']:,} of {last['steps']:,} steps")
    table.add_row("training time", f"{last['training_seconds']:.0f} s, validation not counted")
    return table
