"""Loaders of batches for both text and images (floor 3)."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_bpd.datamodules.resume import next_position
from lightning_bpd.datamodules.token_batches import TokenBatchSampler
from lightning_bpd.interfaces import InputError, ParallelBatch


def rank_of(trainer: pl.Trainer | None) -> tuple[int, int]:
    """This process's rank and the number of processes that share the batches; 0 and 1 without a trainer.

    Raises:
        InputError: Lightning would divide the batches a second time.
    """
    if trainer is None:
        return 0, 1
    # Lightning has no public attribute for this.
    if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise InputError(
            "The batches are already divided among the processes; set trainer.use_distributed_sampler to false."
        )
    return trainer.global_rank, trainer.world_size


def place_in_epoch(sampler: TokenBatchSampler, trainer: pl.Trainer | None) -> None:
    """Set a sampler of training batches to the run's position: in a resumed run, the batch after its checkpoint.

    Raises:
        InputError: The batches were requested before the checkpoint was restored.
    """
    if trainer is None:
        return
    resumes_later = trainer.ckpt_path is not None and not trainer.fit_loop.is_resuming
    if resumes_later and not trainer.optimizers:
        raise InputError(
            "configure_optimizers asked for the number of training batches before the checkpoint was "
            "restored, so this run could not go on where it stopped: ask for "
            "trainer.estimated_stepping_batches when the schedule first needs it"
        )
    epoch, batch = next_position(trainer, len(sampler))
    # Lightning makes the first iterator, and workers read from it, before it calls set_epoch.
    sampler.set_epoch(epoch)
    sampler.start_at(batch)


def batch_loader(
    batches: Dataset[ParallelBatch], sampler: TokenBatchSampler, workers: int
) -> DataLoader[ParallelBatch]:
    """A loader over a dataset whose ``__getitems__`` makes a whole batch, prepared by ``workers`` processes."""
    return DataLoader(
        batches,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=torch.cuda.is_available(),
    )


def _unchanged(batch: Any) -> Any:
    """Return the batch that the dataset has made."""
    return batch
