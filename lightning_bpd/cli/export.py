"""export: from a checkpoint to a finished model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_bpd.faults import damaged
from lightning_bpd.metrics import chrf_signature
from lightning_bpd.saved.translation import load_checkpoint
from lightning_bpd.tracking.provenance import provenance


def export(checkpoint: str, output: str, base: str | None = None) -> None:
    """Make a finished model, one folder, of a checkpoint.

    Args:
        checkpoint: Such as runs/default/checkpoints/best.ckpt.
        output: Folder to write; a finished model that is already there is replaced.
        base: The finished model that the heads of a frozen-base run were trained on, if it has moved since.
    """
    translator = load_checkpoint(checkpoint, base=base)
    translator.save(Path(output), {**checkpoint_metrics(Path(checkpoint)), "provenance": provenance()})


def checkpoint_metrics(path: Path) -> dict[str, Any]:
    """What a checkpoint of this project says of itself.

    Returns:
        ``steps`` taken and ``epochs`` begun; ``validation`` metrics with ``bleu_signature``,
        ``chrf_signature`` and the ``decode`` settings, if the checkpoint is the best one of its run; and, if it was
        trained at all, ``training_seconds`` without validation, and target ``tokens_per_second`` over them.
    """
    with damaged(path, "give another checkpoint of this project"):
        return _metrics(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def _metrics(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    callbacks = checkpoint["callbacks"]
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
    metrics: dict[str, Any] = {"steps": checkpoint["global_step"], "epochs": epochs}
    best = callbacks.get("BestCheckpoint", {})
    if best.get("step") == checkpoint["global_step"]:
        metrics["validation"] = {name.removeprefix("val/"): value for name, value in best["metrics"].items()}
        metrics["bleu_signature"] = best["bleu_signature"]
        if "chrf" in metrics["validation"]:
            metrics["chrf_signature"] = chrf_signature()
        metrics["decode"] = best.get("decode")  # older checkpoints do not say
    speed = callbacks.get("Throughput", {"seconds": 0.0})
    if speed["seconds"] > 0:
        metrics["training_seconds"] = speed["seconds"]
        metrics["tokens_per_second"] = speed["tokens"] / speed["seconds"]
    return metrics
