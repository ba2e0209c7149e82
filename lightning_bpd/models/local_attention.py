"""Self-attention over local blocks (Parmar et al. 2018, 1-D local attention)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_bpd.models.attention import Attention
from lightning_bpd.rows import Local


class LocalAttention(Attention):
    """Causal self-attention of each position to the whole block before its own, and to its own block up to itself.

    Args:
        d_model: Width of the residual stream.
        heads: Attention heads.
        dropout: Probability on attention weights.
        local_block: Positions of a local block.
    """

    def __init__(self, d_model: int, heads: int, dropout: float, local_block: int) -> None:
        super().__init__(d_model, heads, dropout, cross=False)
        self.visible = Local(local_block)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = True) -> Tensor:
        """Attend within whole rows x [B, T, D], any T, with memory in proportion to T."""
        assert mask is None
        assert causal
        rows, length, width = x.shape
        block = self.visible.block
        if length <= block:
            return super().forward(x, None, causal=True)
        # Zeros at the end complete the last block: no position before them sees them.
        padded = F.pad(self.query_key_value(x), (0, 0, 0, -length % block))
        blocks = padded.view(rows, -1, block, 3 * width)

        # The first block has no block before it. Each other block is a row that sees two blocks, with one mask for all.
        query, key, value = self._split(blocks[:, 0], 3).unbind(0)
        first = self._attend(query, key, value, None, causal=True)
        queries = self._split(blocks[:, 1:, :, :width].flatten(0, 1), 1)[0]
        pairs = torch.cat((blocks[:, :-1, :, width:], blocks[:, 1:, :, width:]), 2)
        key, value = self._split(pairs.flatten(0, 1), 2).unbind(0)
        positions = torch.arange(2 * block, device=x.device)
        mask = self.visible(positions[block:, None], positions)
        others = self._attend(queries, key, value, mask)
        return torch.cat((first, others.view(rows, -1, width)), 1)[:, :length]
