"""The mean loss per token, exact on any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bpd.metrics.sums import Sums, ratio, scalar

# Parts of a nat. Sums of batches are kept as integer numbers of parts: integer sums do not depend on their order.
PARTS = 2**20
# Subtracted from the number of tokens for a loss that is not finite: more than a corpus has, and no sum overflows.
BAD = 2**44


class TokenLoss(Sums):
    """Sum of losses over number of tokens, in nats per token."""

    higher_is_better = False

    def update(self, loss_sum: Tensor, tokens: Tensor | int) -> None:
        """Add a batch: the sum of its tokens' losses (float scalar, nats) and their number."""
        loss_sum = loss_sum.detach().cpu()  # some accelerators have no float64
        if torch.isfinite(loss_sum):
            self.add(round(float(loss_sum) * PARTS), tokens)
        else:
            # No integer can hold this loss. A negative count of tokens marks it, and no later batch makes it positive.
            self.add(0, -BAD)

    def compute(self) -> Tensor:
        """Return nats per token, float64 scalar; NaN if a batch's loss was not finite, or without tokens."""
        parts, tokens = self.sums.tolist()
        return scalar(ratio(parts / PARTS, tokens))


class Perplexity(TokenLoss):
    """e to the power of the loss in nats per token."""

    def compute(self) -> Tensor:
        """Return a float64 scalar, at least 1."""
        return super().compute().exp()
