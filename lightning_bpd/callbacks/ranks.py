"""The share of each rank in what callbacks write and gather."""

from __future__ import annotations

from typing import TypeVar

import pytorch_lightning as pl
import torch.distributed

Part = TypeVar("Part")


def writes(trainer: pl.Trainer) -> bool:
    """Whether this rank writes files; false in a trial run."""
    return trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]  # set outside its constructor


def shows(trainer: pl.Trainer) -> bool:
    """Whether this rank shows results of the running validation: it writes files, and the validation is part of fit."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking and writes(trainer)


def gathered(trainer: pl.Trainer, own: Part) -> list[Part]:
    """The objects of all ranks, in the order of the ranks. All ranks must call this."""
    parts = [own] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(parts, own)
    return parts
