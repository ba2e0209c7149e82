"""Self-attention over local blocks (Parmar et al. 2018, 1-D local attention), and a cache that holds no more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_bpd.models.attention import Attention, CacheSlots, KeyValueCache


def window_start(position: int, local_block: int) -> int:
    """The first position that ``position`` sees: where the local block before its own begins."""
    return max(0, (position // local_block - 1) * local_block)


class LocalAttention(Attention):
    """Causal self-attention of each position to its own local block, up to itself, and to the whole block before.

    Args:
        d_model: Width of the residual stream.
        heads: Attention heads.
        dropout: Probability on attention weights.
        local_block: Positions of a local block.
    """

    def __init__(self, d_model: int, heads: int, dropout: float, local_block: int) -> None:
        super().__init__(d_model, heads, dropout, cross=False)
        self.local_block = local_block

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = True) -> Tensor:
        """Self-attention over whole rows x [B, T, D], any T; takes memory in proportion to T."""
        assert mask is None
        assert causal
        rows, length, width = x.shape
        block = self.local_block
        if length <= block:
            return super().forward(x, None, causal=True)
        # Zeros at the end complete the last block: no position before them sees them.
        padded = F.pad(self.query_key_value(x), (0, 0, 0, -length % block))
        blocks = padded.view(rows, -1, block, 3 * width)

        # The first block has none before it. All others see two blocks, by one mask, as rows of their own.
        query, key, value = self._split(blocks[:, 0], 3).unbind(0)
        first = self._attend(query, key, value, None, causal=True)
        queries = self._split(blocks[:, 1:, :, :width].flatten(0, 1), 1)[0]
        pairs = torch.cat((blocks[:, :-1, :, width:], blocks[:, 1:, :, width:]), 2)
        key, value = self._split(pairs.flatten(0, 1), 2).unbind(0)
        seen = torch.ones(block, 2 * block, dtype=torch.bool, device=x.device).tril_(block)
        others = self._attend(queries, key, value, seen)
        return torch.cat((first, others.view(rows, -1, width)), 1)[:, :length]


@dataclass(frozen=True)
class WindowSlots(CacheSlots):
    """Where one call's tokens go in a cache of a window; ``places`` and ``first`` are places in that cache."""

    begin: int
    """cache places before this one are not attended over, nor are those from ``extent`` on"""
    positions: Tensor | int
    """the new tokens' positions in their rows, int64 [B or 1, T]; that of the first where it is the same in all rows"""


class WindowCache(KeyValueCache):
    """A key-value cache for local attention, whose size does not depend on the length of the rows.

    A ring: position p of a row lies in place p modulo ``capacity``. A token that is written takes the place of the one
    ``capacity`` positions before it, for good. So ``capacity`` is a window and room for what may be rewound: after
    rows were made longer by no more than ``capacity - 2 * local_block + 1`` tokens, they can be rewound to any length
    that they had on the way.

    Args:
        layers: Number of layers.
        rows: Number of rows.
        heads: Attention heads.
        max_length: The most tokens of a row.
        width: Width of a head.
        like: A tensor of the cache's dtype and device.
        local_block: Positions of a local block.
        furthest: The most tokens that are ever rewound at once.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        heads: int,
        max_length: int,
        width: int,
        like: Tensor,
        local_block: int,
        furthest: int,
    ) -> None:
        capacity = 2 * local_block + max(local_block, furthest)
        super().__init__(layers, rows, heads, min(capacity, max_length), width, like)
        self.max_length, self.local_block = max_length, local_block
        # The most tokens that each row ever had: what it holds of older positions was written over.
        self._longest = [0] * rows

    @property
    def capacity(self) -> int:
        """Places of a row."""
        return self.entries.size(4)

    def slots(self, tokens: int) -> WindowSlots:
        """Slots for ``tokens`` more tokens in every row, at most ``local_block``."""
        capacity, block = self.capacity, self.local_block
        shortest, longest = min(self._counts, default=0), max(self._counts, default=0)
        if tokens > block:
            raise ValueError(
                f"{tokens} tokens at once are more than a local block of {block}: feed them in parts"
            )
        if longest + tokens > self.max_length:
            raise ValueError(
                f"the cache was made for {self.max_length} tokens a row, this call needs {longest + tokens}"
            )
        if shortest == longest:
            first, last = longest % capacity, (longest + tokens - 1) % capacity
            begin, extent = window_start(longest, block) % capacity, last + 1
            if begin <= last:
                mask = None if tokens == 1 else self._band(longest, tokens)
                return WindowSlots(None, first, extent, mask, begin, longest)
            # The window lies around the ring's end.
            positions = torch.arange(longest, longest + tokens, device=self.entries.device)[None]
            mask = self._mask(positions, 0, capacity)
            if first <= last:
                return WindowSlots(None, first, capacity, mask, 0, longest)
            begin, extent = 0, capacity
        else:
            positions = self.lengths[:, None] + torch.arange(tokens, device=self.entries.device)
            begin, extent = 0, min(longest + tokens, capacity)
            mask = self._mask(positions, begin, extent)
        rows = torch.arange(len(self._counts), device=positions.device)[:, None]
        return WindowSlots((rows, positions % capacity), None, extent, mask, begin, positions)

    def _band(self, position: int, tokens: int) -> Tensor:
        """``_mask`` in few operations, for equally long rows and a window whose places lie side by side.

        The first of the tokens is at ``position``, and the first place is that of the first position that it sees.
        """
        block, before = self.local_block, position - window_start(position, self.local_block)
        mask = self.entries.new_full((1, 1, tokens, before + tokens), -torch.inf).triu_(before + 1)
        own = block - position % block  # tokens that are in the first one's local block
        if own < tokens and position >= block:
            mask[:, :, own:, :block] = -torch.inf
        return mask

    def _mask(self, positions: Tensor, begin: int, extent: int) -> Tensor:
        """What tokens at ``positions`` [B or 1, T] may look at, [B or 1, 1, T, extent - begin]: 0, else -inf."""
        # Each place holds one position that a token could see: this far before the token.
        places = torch.arange(begin, extent, device=positions.device)
        distance = (positions[:, None, :, None] - places) % self.capacity
        block = self.local_block
        # From the second block on a window begins with the block before; the first block's begins with the row.
        reach = torch.minimum(positions, positions % block + block)[:, None, :, None]
        mask = self.entries.new_zeros(distance.shape)
        return mask.masked_fill_(distance > reach, -torch.inf)

    def write(self, layer: int, keys_values: Tensor, slots: CacheSlots) -> tuple[Tensor, ...]:
        """Store one layer's new keys and values [2, B, H, T, width]; returns all that may be attended to."""
        assert isinstance(slots, WindowSlots)
        entries = self.entries[layer]
        if slots.places is None:
            assert slots.first is not None
            entries[:, :, :, slots.first : slots.first + keys_values.size(3)] = keys_values
        else:
            rows, places = slots.places
            entries[:, rows, :, places] = keys_values.permute(1, 3, 0, 2, 4)
        return entries[:, :, :, slots.begin : slots.extent].unbind(0)

    def append(self, tokens: int) -> None:
        """Every row now holds ``tokens`` more tokens."""
        super().append(tokens)
        self._longest = list(map(max, self._longest, self._counts))

    def rewind(self, lengths: Tensor) -> None:
        """Forget all past ``lengths[b]`` (int64 [B], best on the CPU).

        Raises:
            ValueError: A row had more tokens, or what it would see next was written over.
        """
        wanted = lengths.tolist()
        for row, (length, longest) in enumerate(zip(wanted, self._longest, strict=False)):
            if window_start(length, self.local_block) < longest - self.capacity:
                raise ValueError(
                    f"row {row} had {longest} tokens and cannot be rewound to {length}: the cache keeps the last "
                    f"{self.capacity}, and local blocks of {self.local_block} need more of them"
                )
        super().rewind(lengths)

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was (int64 [B'])."""
        super().reorder(rows)
        if len(set(self._longest)) > 1:
            self._longest = [self._longest[row] for row in rows.tolist()]
        else:
            self._longest = self._longest[:1] * len(rows)
