"""The targets of each head at each position."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_bpd.interfaces import TokenRows


def shifted_targets(rows: TokenRows, block_size: int) -> tuple[Tensor, Tensor]:
    """Return the targets of heads 1 to k at every position.

    Position t has read the start token and the first t tokens of its row (counted from 0), so head i predicts
    token t + i - 1. The end token is an ordinary target, and there are no targets after it.

    Args:
        rows: Target rows, int64 [B, T] and [B].
        block_size: k.

    Returns:
        Targets, int64 [B, T, k], a view without copies, and a mask of the targets that exist, bool [B, T, k]. The
        other targets are padding.
    """
    length = rows.tokens.size(1)
    targets = F.pad(rows.tokens, (0, block_size - 1)).unfold(1, block_size, 1)
    device = rows.lengths.device
    positions = torch.arange(length, device=device)[:, None] + torch.arange(block_size, device=device)
    return targets, positions < rows.lengths[:, None, None]
