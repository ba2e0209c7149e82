"""A decoder layer that also serves groups of mask tokens, many in one pass of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_bpd.models.attention import Attention
from lightning_bpd.models.encoder_decoder import Architecture, DecoderLayer


class Groups(NamedTuple):
    """Which mask tokens follow which real tokens.

    A group belongs to a real token, its anchor. Its mask token of depth d (1, 2, ...) stands d positions after the
    anchor. The anchors of depth d + 1 are the first of those of depth d.
    """

    anchors: Tensor
    """int64 [B, A], the index of each anchor among the row's real tokens"""
    counts: Sequence[int]
    """the number of anchors at each depth from 1 on, at most A and not rising"""

    def of_all_depths(self) -> Tensor:
        """Return the anchor of each mask token, int64 [B, G], depth by depth."""
        return torch.cat([self.anchors[:, :count] for count in (0, *self.counts)], 1)

    def every(self, length: int) -> Tensor:
        """Return the index of each of ``length`` real tokens, int64 [B, length]."""
        return torch.arange(length, device=self.anchors.device).expand(len(self.anchors), -1)

    @classmethod
    def all(cls, rows: int, length: int, depths: int, device: torch.device) -> Groups:
        """Return the groups of all real tokens, of at most ``depths`` mask tokens inside their rows."""
        anchors = torch.arange(length, device=device).expand(rows, -1)
        return cls(anchors, [length - depth for depth in range(1, depths + 1) if depth < length])


class GroupAttention(Attention):
    """Self-attention in which a mask token sees the tokens up to its anchor and its group up to itself."""

    def of_groups(self, x: Tensor, length: int, groups: Groups) -> Tensor:
        """Attend within rows of ``length`` real tokens, then mask tokens depth by depth, x [B, length + G, D]."""
        query, key, value = self._split(self.query_key_value(x), 3).unbind(0)
        dropout = self.dropout if self.training else 0.0
        asked, keys, values = (each[..., :length, :] for each in (query, key, value))
        attended = F.scaled_dot_product_attention(asked, keys, values, dropout_p=dropout, is_causal=True)
        if groups.counts:
            of_masks = torch.stack((query, key, value))[..., length:, :]
            mixed = self._attend_in_groups(of_masks, keys, values, groups)
            attended = torch.cat((attended, mixed), 2)
        return self.output(attended.transpose(1, 2).flatten(2))

    def _attend_in_groups(self, of_masks: Tensor, key: Tensor, value: Tensor, groups: Groups) -> Tensor:
        """Attend from mask tokens [3, B, H, G, W] to real tokens [B, H, T, W] and to mask tokens of the same group."""
        query, own_key, own_value = of_masks.unbind(0)
        counts, length = groups.counts, key.size(2)
        query = query * query.size(3) ** -0.5
        visible = torch.arange(length, device=key.device) <= groups.of_all_depths()[:, :, None]
        scores = [(query @ key.mT).masked_fill(~visible[:, None], -torch.inf)]
        starts = [sum(counts[:depth]) for depth in range(len(counts) + 1)]
        of_depth = [slice(start, start + count) for start, count in zip(starts, counts, strict=False)]
        for depth, keys in enumerate(of_depth):
            # Mask tokens of smaller depth do not see this one. The others are groups that have this depth, in order.
            hidden = query.new_full((*query.shape[:2], starts[depth]), -torch.inf)
            seen = [
                (query[..., asked, :] * own_key[..., keys, :][..., :count, :]).sum(-1)
                for asked, count in zip(of_depth[depth:], counts[depth:], strict=True)
            ]
            scores.append(torch.cat((hidden, *seen), 2)[..., None])
        shares = torch.cat(scores, 3).softmax(3)
        mixed = shares[..., :length] @ value
        parts = list(mixed.split(list(counts), 2))
        for depth, values in enumerate(of_depth):
            for later in range(depth, len(counts)):
                own = shares[..., of_depth[later], length + depth, None]
                parts[later] = parts[later] + own * own_value[..., values, :][..., : counts[later], :]
        return torch.cat(parts, 2)


class GroupLayer(DecoderLayer):
    """A decoder layer whose self-attention knows groups."""

    self_attention: GroupAttention

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.self_attention = GroupAttention(
            architecture.d_model, architecture.heads, architecture.attention_dropout, cross=False
        )

    def of_groups(
        self, x: Tensor, length: int, groups: Groups, memory: Tensor, memory_mask: Tensor | None
    ) -> Tensor:
        """Map rows of real tokens and mask tokens, x [B, length + G, D], which attend to the memory [B, S, D]."""
        around = self.self_residual
        x = around.after(x, self.self_attention.of_groups(around.before(x), length, groups))
        return self._rest(x, *self.cross_attention.source(memory), memory_mask)
