"""The mean loss of all tokens, exact on any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

# Sums of batches are kept as integers of this many parts of one nat: integer sums do not depend on their order.
PARTS = 2**20


class TokenLoss(Metric):
    """Sum of losses over number of tokens, in nats a token."""

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
        if not torch.isfinite(loss_sum):
            # No integer stands for it; a negative count of tokens that no later batch can mend makes it NaN.
            self.tokens -= 2**60
            return
        self.parts += torch.round(loss_sum.double() * PARTS).long()
        self.tokens += tokens

    def compute(self) -> Tensor:
        """Nats a token, float64 scalar; NaN when a batch's loss was not finite."""
        if self.tokens < 0:
            return torch.tensor(torch.nan, dtype=torch.float64)
        return self.parts.double() / PARTS / self.tokens
