"""Accuracy, exact on any number of processes."""

from __future__ import annotations

from torch import Tensor

from lightning_bpd.metrics.sums import Sums, ratio, scalar


class Accuracy(Sums):
    """Correct predictions over all predictions, 0-1."""

    higher_is_better = True

    def update(self, correct: Tensor | int, total: Tensor | int) -> None:
        """Add a batch: the number of correct predictions, and of all predictions."""
        self.add(correct, total)

    def compute(self) -> Tensor:
        """Return a float64 scalar; NaN without predictions."""
        return scalar(ratio(*self.sums.tolist()))
