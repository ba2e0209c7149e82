"""Integer sums, from which every metric is computed: order, batches and processes do not change a digit."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class Sums(Metric):
    """Integers that add up over all batches of all ranks.

    Args:
        count: The number of integers; by default two, such as a part and a whole.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(count, dtype=torch.long), dist_reduce_fx="sum")

    def add(self, *values: Tensor | int) -> None:
        """Add a batch's integers, one for each sum."""
        # Never in place: spawned ranks start with states that share their memory.
        self.sums = self.sums + torch.tensor([int(value) for value in values], device=self.sums.device)


def ratio(part: float, whole: int) -> float:
    """Divide; NaN unless ``whole`` is positive."""
    return part / whole if whole > 0 else math.nan


def scalar(value: float) -> Tensor:
    """Make a float64 scalar on the CPU, since some accelerators have no float64."""
    return torch.tensor(value, dtype=torch.float64)
