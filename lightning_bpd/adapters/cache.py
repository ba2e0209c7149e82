"""A key-value cache for Hugging Face models, in which each row grows and rewinds by itself."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from lightning_bpd.rows import Rows, Slots, reordered


def cache_name(stack: nn.Module) -> str:
    """Return the name of the argument by which a stack of layers takes its cache.

    transformers 5.24 renamed it, and 5.40 drops the old name. The code that comes with a base may use either name.
    """
    old = "past_key_values"
    return old if old in inspect.signature(stack.forward).parameters else "cache"


class RowCache(Cache):
    """Self-attention keys and values, preallocated and written at explicit positions of each row.

    The library's own caches have one length for all rows. If 16 rows accept blocks of different sizes, cropping such a
    cache to the slowest row and feeding the other rows again takes three times as long. Leaving rejected entries in
    place behind a mask, which families that take ``position_ids`` allow, takes 1.1 times as long. A single row takes
    the same time by all three (benchmarks/hugging_face_rewinding.py).

    Args:
        rows: B.
        max_length: Tokens that a row can hold.
        device: The model's device.
    """

    def __init__(self, rows: int, max_length: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self.rows = Rows(rows, max_length, device)
        self._entries: dict[int, tuple[Tensor, Tensor]] = {}
        self._slots: Slots | None = None

    def begin(self, tokens: int) -> Slots:
        """Return the slots of ``tokens`` more tokens in every row, which the next call of the model writes."""
        self._slots = self.rows.take(tokens)
        return self._slots

    def end(self, tokens: int) -> None:
        """Count the ``tokens`` tokens that the model has written in each row."""
        self.rows.append(tokens)
        self._slots = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values [B, H, T, width]; return all that may be attended to (Cache)."""
        assert self._slots is not None, "the adapter begins each call"
        if layer_idx not in self._entries:
            self._entries[layer_idx] = (self._preallocated(key_states), self._preallocated(value_states))
        keys, values = self._entries[layer_idx]
        self._slots.write(keys, key_states)
        self._slots.write(values, value_states)
        return self._slots.read(keys), self._slots.read(values)

    def _preallocated(self, like: Tensor) -> Tensor:
        # Zeros, not uninitialised memory: a hidden NaN times a weight of zero would still be NaN.
        return like.new_zeros(like.size(0), like.size(1), self.rows.capacity, like.size(3))

    @property
    def bytes_per_token(self) -> int:
        """The bytes that a token of one row takes in all layers that have been written."""
        both = (each for entry in self._entries.values() for each in entry)
        return sum(each.nbytes // (each.size(0) * each.size(2)) for each in both)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the longest row's tokens before this call (Cache)."""
        return max(self.rows.counts)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return how many entries ``update`` returns, and the position of the first (Cache)."""
        return max(self.rows.counts) + query_length, 0

    def reorder(self, rows: Tensor) -> None:
        """Replace row i by row ``rows[i]`` (int64 [B'])."""
        filled = max(self.rows.counts)
        for layer, (keys, values) in self._entries.items():
            self._entries[layer] = (reordered(keys, rows, filled), reordered(values, rows, filled))
        self.rows.reorder(rows)
