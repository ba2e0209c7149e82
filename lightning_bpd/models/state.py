"""What an encoder-decoder remembers of each row between two calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from itertools import chain

import torch
from torch import Tensor

from lightning_bpd.interfaces import Memory
from lightning_bpd.models.attention import Attention, KeyValueCache
from lightning_bpd.rows import Rows, StaticRows


def encoded_tensors(states: Tensor, mask: Tensor | None, layers: Iterable[Attention]) -> list[Tensor]:
    """Compute what attention to a source needs.

    Args:
        states: The encoded source, [B, S, D].
        mask: bool [B, 1, 1, S]; None if nothing is padding.
        layers: The attention of each layer to the source.

    Returns:
        The states, the keys and the values of each layer, [B, H, S, D / H], and the mask if there is one.
    """
    keys_values = [layer.source(states) for layer in layers]
    return [states, *chain.from_iterable(keys_values), *([] if mask is None else [mask])]


def memory_of(states: Tensor, mask: Tensor | None) -> Memory:
    """Return an encoder's states [B, S, D] and their mask, bool [B, 1, 1, S] or None, for drafters."""
    return Memory(states, None if mask is None else mask[:, 0, 0])


class EncoderDecoderState:
    """Cached self-attention of each row, and keys and values of each source (a DecodeState)."""

    row_source: list[tuple[Tensor, Tensor]]
    """each layer's keys and values for its cross-attention, [N, H, S, D / H]; B / N neighbouring rows share them"""
    row_mask: Tensor | None
    """bool [N, 1, 1, S]"""

    def __init__(
        self,
        cache: KeyValueCache,
        source: list[tuple[Tensor, Tensor]],
        source_mask: Tensor | None,
        rows: Tensor | None,
        memory: Memory,
    ) -> None:
        self.cache = cache
        self.memory = memory
        self._source = source
        self._source_mask = source_mask
        self.row_source, self.row_mask = source, source_mask
        self._sharing = 1
        if rows is None:
            self._rows = torch.arange(len(source[0][0]), device=source[0][0].device)
            return
        self._rows = rows
        # Rows that share a source when decoding starts, such as beams, mostly stay together.
        self._sharing = len(rows) // len(source[0][0])
        self._find_source()

    @classmethod
    def of_source(cls, encoded: Sequence[Tensor], cached: Rows, rows: Tensor | None) -> EncoderDecoderState:
        """Begin rows with an empty cache.

        Args:
            encoded: What ``encoded_tensors`` returned.
            cached: The rows of the cache.
            rows: int64 [B], the source of each row; None for one row a source, in order.
        """
        states, *rest = encoded
        mask = rest.pop() if len(rest) % 2 else None
        source = list(zip(rest[::2], rest[1::2], strict=True))
        like = rest[0]  # under autocast narrower than the residual stream
        cache = KeyValueCache(len(source), cached, like.size(1), like.size(3), like)
        return cls(cache, source, mask, rows, memory_of(states, mask))

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tokens in each row's cache."""
        return self.cache.rows.lengths

    def rewind(self, lengths: Tensor) -> None:
        """Forget the tokens of each row past ``lengths[b]`` (int64 [B])."""
        rows = self.cache.rows
        if isinstance(rows, StaticRows):
            rows.rewind(lengths)
        else:
            rows.rewind(lengths.tolist())

    def reorder(self, rows: Tensor) -> None:
        """Replace row i by row ``rows[i]`` (int64 [B'])."""
        self.cache.reorder(rows)
        before, self._rows = self._rows, self._rows[rows]
        # Beams mostly swap rows within one source, which changes nothing here.
        if not torch.equal(self._rows, before):
            self._find_source()

    # As tensors of fixed shapes, for compiled decoding

    def tensors(self) -> list[Tensor]:
        """All that the state holds, each tensor contiguous: the rows' lengths aside, which ``rewind`` tells.

        The caches of all layers, [2, B, H, capacity, D / H], come first, then the keys and values of all layers for the
        source, [B, H, S, D / H], and bool [B, 1, 1, S] for more than one row.
        """
        mask = [] if self.row_mask is None else [self.row_mask]
        first = self.row_source[0][0]
        if len(first) > 1 and self.row_mask is None:
            mask = [torch.ones(len(first), 1, 1, first.size(2), dtype=torch.bool, device=first.device)]
        parts = *self.cache.entries, *chain.from_iterable(self.row_source), *mask
        return [part.contiguous() for part in parts]

    def with_tensors(self, tensors: Sequence[Tensor]) -> EncoderDecoderState:
        """Return a state that holds these tensors, whose number of rows and capacity may be others."""
        layers = len(self.row_source)
        state = copy(self)
        state.cache = copy(self.cache)
        state.cache.entries = list(tensors[:layers])
        state.cache.rows = StaticRows(self.cache.rows, tensors[0].size(-2))
        source = tensors[layers : 3 * layers]
        state.row_source = list(zip(source[::2], source[1::2], strict=True))
        state.row_mask = tensors[3 * layers] if len(tensors) > 3 * layers else None
        return state

    def _find_source(self) -> None:
        """Gather keys and values once for neighbouring rows that share them."""
        indices = self._rows
        if self._sharing > 1 and len(indices) % self._sharing == 0:
            groups = indices.view(-1, self._sharing)
            if bool((groups == groups[:, :1]).all()):
                indices = groups[:, 0]
        sources = len(self._source[0][0])
        if len(indices) == sources and bool((indices == torch.arange(sources, device=indices.device)).all()):
            self.row_source, self.row_mask = self._source, self._source_mask
            return
        self.row_source = [
            (key.index_select(0, indices), value.index_select(0, indices)) for key, value in self._source
        ]
        self.row_mask = None if self._source_mask is None else self._source_mask[indices]
