"""export: from a checkpoint to a finished model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_bpd.tasks.translation import load_checkpoint
from lightning_bpd.tracking.provenance import provenance


def export(checkpoint: str, output: str) -> None:
    """Make a finished model, one folder, of a checkpoint.

    Args:
        checkpoint: Such as runs/default/checkpoints/best.ckpt.
        output: Folder to write; a finished model that is already there is replaced.
    """
    translator = load_checkpoint(checkpoint)
    translator.save(Path(output), {**checkpoint_metrics(Path(checkpoint)), "provenance": provenance()})


def checkpoint_metrics(path: Path) -> dict[str, Any]:
    """What a checkpoint of this project says of itself.

    Returns:
        ``steps`` and ``epochs`` taken; ``validation`` metrics with their ``bleu_signature``, if the checkpoint is the
        best one of its run; ``training_seconds`` and ``tokens_per_second``.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    callbacks = checkpoint["callbacks"]
    metrics: dict[str, Any] = {"steps": checkpoint["global_step"]}
    best = callbacks.get("BestCheckpoint", {})
    if best.get("step") == checkpoint["global_step"]:
        metrics["validation"] = {name.removeprefix("val/"): value for name, value in best["metrics"].items()}
        metrics["bleu_signature"] = best["bleu_signature"]
    if speed := callbacks.get("Throughput"):
        metrics["training_seconds"] = speed["seconds"]
        metrics["training_tokens"] = speed["tokens"]
    return metrics
