"""A key-value cache for Hugging Face models whose rows advance and forget each by itself."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache


def cache_name(stack: nn.Module) -> str:
    """The name by which a stack of layers takes its cache.

    transformers 5.24 renamed it, and 5.40 drops the old name. The code that comes with a base may use either name.
    """
    old = "past_key_values"
    return old if old in inspect.signature(stack.forward).parameters else "cache"


@dataclass(frozen=True)
class Call:
    """Where one call's tokens go in the cache; the same for every layer."""

    positions: Tensor
    """int64 [B, T], the position of each new token in its row; [1, T] where all rows are equally long"""
    first: int | None
    """the position of the first new token where it is the same in all rows, else None"""
    extent: int
    """cache positions to attend over: the longest row's tokens, the new ones included"""

    def mask(self, dtype: torch.dtype, window: int | None = None) -> Tensor:
        """[B or 1, 1, T, extent], added to attention scores: 0 where attention is allowed, else -inf.

        Every family takes such a mask as it is. ``window`` is how many positions back a token may look, its own
        included.
        """
        keys = torch.arange(self.extent, device=self.positions.device)
        positions = self.positions[:, None, :, None]
        hidden = keys > positions
        if window is not None:
            hidden = hidden | (keys <= positions - window)
        return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, -torch.inf)


class RowCache(Cache):
    """Self-attention keys and values, preallocated and written at explicit positions of each row.

    The place of an entry is its token's position in the row, whatever the other rows hold. So forgetting is a change
    of numbers: what is forgotten is hidden by the mask, and later tokens are written over it.

    The library's own caches know one length for all rows. Cropping them to the slowest row and feeding the others again
    takes three times as long where 16 rows accept blocks of different sizes; leaving rejected entries in place behind a
    mask, which families that take ``position_ids`` allow, 1.1 times as long. One row alone takes the same by all three
    (benchmarks/hugging_face_rewinding.py).

    Args:
        rows: B.
        max_length: Tokens that a row can hold.
        device: Where the model is.
    """

    def __init__(self, rows: int, max_length: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self.max_length = max_length
        # On the host, where shapes are decided: nothing waits for a GPU to tell them.
        self.counts = [0] * rows
        self.device = device
        self._entries: dict[int, tuple[Tensor, Tensor]] = {}
        self._call: Call | None = None

    def begin(self, tokens: int) -> Call:
        """Make place for ``tokens`` more tokens in every row, which the next call of the model writes.

        Raises:
            ValueError: The cache is too short for them.
        """
        shortest, longest = min(self.counts), max(self.counts)
        extent = longest + tokens
        if extent > self.max_length:
            raise ValueError(
                f"the cache was made for {self.max_length} tokens a row, this call needs {extent}"
            )
        if shortest == longest:
            positions = torch.arange(longest, extent, device=self.device)[None]
            self._call = Call(positions, longest, extent)
        else:
            lengths = torch.tensor(self.counts, device=self.device)[:, None]
            self._call = Call(lengths + torch.arange(tokens, device=self.device), None, extent)
        return self._call

    def end(self, tokens: int) -> None:
        """The model has written ``tokens`` more tokens of each row."""
        self.counts = [count + tokens for count in self.counts]
        self._call = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values [B, H, T, width]; returns all that may be attended to (Cache)."""
        assert self._call is not None, "the adapter begins each call"
        if layer_idx not in self._entries:
            self._entries[layer_idx] = (self._room(key_states), self._room(value_states))
        entries = self._entries[layer_idx]
        call = self._call
        for room, new in zip(entries, (key_states, value_states), strict=True):
            if call.first is not None:
                room[:, :, call.first : call.extent] = new
            else:
                rows = torch.arange(len(new), device=new.device)[:, None]
                room[rows, :, call.positions] = new.transpose(1, 2)
        return entries[0][:, :, : call.extent], entries[1][:, :, : call.extent]

    def _room(self, like: Tensor) -> Tensor:
        # Zeros, not uninitialised memory: a hidden NaN times a weight of zero would still be NaN.
        return like.new_zeros(like.size(0), like.size(1), self.max_length, like.size(3))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The longest row's tokens before this call (Cache)."""
        return max(self.counts)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Entries that ``update`` returns, and the position of the first (Cache)."""
        return max(self.counts) + query_length, 0

    def rewind(self, counts: list[int]) -> None:
        """Forget all past ``counts[b]``.

        Raises:
            ValueError: A row holds fewer tokens.
        """
        known = self.counts
        if len(known) != len(counts) or any(not 0 <= c <= k for k, c in zip(known, counts, strict=True)):
            raise ValueError(f"cannot rewind rows of lengths {known} to {counts}")
        self.counts = counts

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was (int64 [B'])."""
        filled = max(self.counts)
        for layer, pair in self._entries.items():
            key, value = (_reordered(room, rows, filled) for room in pair)
            self._entries[layer] = (key, value)
        self.counts = [self.counts[row] for row in rows.tolist()]


def _reordered(room: Tensor, rows: Tensor, filled: int) -> Tensor:
    kept = room[:, :, :filled].index_select(0, rows)
    room = room[: len(rows)] if len(rows) <= len(room) else room.new_zeros(len(rows), *room.shape[1:])
    room[:, :, :filled] = kept
    return room
