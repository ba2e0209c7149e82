"""The mean loss per token, exact on any number of processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

# Parts of a nat. Sums of batches are kept as integer numbers of parts: integer sums do not depend on their order.
PARTS = 2**20
# Subtracted from the number of tokens for a loss that is not finite: more than a corpus has, and no sum overflows.
BAD = 2**44


class TokenLoss(Metric):
    """Sum of losses over number of tokens, in nats per token."""

    full_state_update = False
    higher_is_better = False
    parts: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("parts", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, loss_sum: Tensor, tokens: Tensor | int) -> None:
        """Add a batch: the sum of its tokens' losses (float scalar, nats) and their number."""
        loss_sum = loss_sum.detach().cpu()  # some accelerators have no float64
        if not torch.isfinite(loss_sum):
            # No integer can hold this loss. A negative count of tokens marks it, and no later batch makes it positive.
            self.tokens = self.tokens - BAD
            return
        # Never in place: spawned ranks start with states that share their memory.
        self.parts = self.parts + round(float(loss_sum) * PARTS)
        self.tokens = self.tokens + tokens

    def compute(self) -> Tensor:
        """Return nats per token, float64 scalar; NaN if a batch's loss was not finite, or without tokens."""
        parts, tokens = int(self.parts), int(self.tokens)
        return torch.tensor(parts / PARTS / tokens if tokens > 0 else math.nan, dtype=torch.float64)


class Perplexity(TokenLoss):
    """e to the power of the loss in nats per token."""

    def compute(self) -> Tensor:
        """Return a float64 scalar, at least 1."""
        return super().compute().exp()
