"""What every training shares: its optimiser, its random numbers, and the loss of a step (floor 4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from lightning_bpd.training.optimisation import Schedule, with_schedule
from lightning_bpd.training.step_loss import StepLoss, seed_micro_batch


class Training(pl.LightningModule, ABC):
    """The skeleton of a training: an objective adds what it trains, and by which loss.

    The loss of an optimiser step is divided by the number of its targets, however they were split into
    micro-batches and ranks (``step_loss``). Random numbers (dropout) depend only on the seed, the epoch and the
    position of the micro-batch in it, so a resumed run repeats an uninterrupted one.

    Args:
        optimizer: Optimiser with its peak learning rate.
        schedule: Learning rate after the warm-up.
        warmup_steps: Optimiser steps of linear warm-up.
    """

    regime: ClassVar[str]
    """the objective in a word, for the titles of figures"""

    def __init__(self, optimizer: OptimizerCallable, schedule: Schedule, warmup_steps: int) -> None:
        super().__init__()
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.seed = torch.initial_seed()
        self.step_loss = StepLoss()

    @property
    def data(self) -> Any:
        """The data module of the running trainer."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    # An objective

    @abstractmethod
    def trained_parameters(self) -> Iterable[Any]:
        """The parameters that the optimiser gets, or its parameter groups."""

    @abstractmethod
    def summed_loss(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Log a micro-batch's losses.

        Returns:
            The loss to minimise, a scalar summed over the targets, and the number of targets.
        """

    # Training

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The configured optimiser with the schedule, stepped every optimiser step."""
        optimizer = self.make_optimizer(self.trained_parameters())
        return with_schedule(optimizer, self.schedule, self.warmup_steps, self.trainer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make this micro-batch's random numbers a function of its position alone."""
        seed_micro_batch(self, self.seed, batch_idx)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The micro-batch's share of the step's loss."""
        return self.step_loss.share(*self.summed_loss(batch, batch_idx))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn the accumulated gradients into those of the mean over all targets of all ranks."""
        self.step_loss.finish(self, optimizer)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
