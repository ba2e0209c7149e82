"""Accuracy, exact on any number of processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class Accuracy(Metric):
    """Correct predictions over all predictions, 0-1."""

    full_state_update = False
    higher_is_better = True
    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, correct: Tensor | int, total: Tensor | int) -> None:
        """Add a batch: the number of correct predictions, and of all predictions."""
        # Never in place: spawned ranks start with states that share their memory.
        self.correct = self.correct + correct
        self.total = self.total + total

    def compute(self) -> Tensor:
        """Return a float64 scalar; NaN without predictions."""
        correct, total = int(self.correct), int(self.total)
        return torch.tensor(correct / total if total > 0 else math.nan, dtype=torch.float64)
