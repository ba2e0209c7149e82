"""Multi-head attention, with and without a key-value cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_bpd.linear import Linear


@dataclass(frozen=True)
class CacheSlots:
    """Where one call's tokens go in the cache, and what they may look at; the same for every layer."""

    places: tuple[Tensor, Tensor] | None
    """each new token's row, int64 [B, 1], and position in it, int64 [B, T]; None where ``first`` says it all"""
    first: int | None
    """the position of the first new token where it is the same in all rows, else None"""
    extent: int
    """cache positions to attend over: the longest row's tokens, the new ones included"""
    mask: Tensor | None
    """[B or 1, 1, T, extent], added to attention scores: 0 where attention is allowed, else -inf; None for 0"""


class KeyValueCache:
    """Keys and values of all layers, preallocated and written at explicit positions of each row.

    Forgetting tokens costs nothing: later tokens are written over them, and until then the mask hides them.
    """

    def __init__(self, layers: int, rows: int, heads: int, max_length: int, width: int, like: Tensor) -> None:
        # Zeros, not uninitialised memory: a hidden NaN times a weight of zero would still be NaN.
        # Keys and values lie side by side, [layers, 2, B, H, length, width]: one copy writes both.
        self.entries = like.new_zeros(layers, 2, rows, heads, max_length, width)
        # On the host, where shapes are decided: nothing ever waits for a GPU to tell them.
        self._counts = [0] * rows

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tokens in each row."""
        return torch.tensor(self._counts, dtype=torch.long, device=self.entries.device)

    def slots(self, tokens: int) -> CacheSlots:
        """Slots for ``tokens`` more tokens in every row."""
        max_length = self.entries.size(4)
        shortest, longest = min(self._counts, default=0), max(self._counts, default=0)
        extent = longest + tokens
        if extent > max_length:
            raise ValueError(f"the cache was made for {max_length} tokens a row, this call needs {extent}")
        # Additive, as attention would make of a boolean mask again in each layer.
        if shortest == longest:
            if tokens == 1:
                return CacheSlots(None, longest, extent, None)
            mask = self.entries.new_full((1, 1, tokens, extent), -torch.inf).triu_(longest + 1)
            return CacheSlots(None, longest, extent, mask)
        lengths = self.lengths[:, None]
        positions = lengths + torch.arange(tokens, device=lengths.device)
        hidden = torch.arange(extent, device=lengths.device) > positions[:, None, :, None]
        mask = self.entries.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        rows = torch.arange(len(lengths), device=lengths.device)[:, None]
        return CacheSlots((rows, positions), None, extent, mask)

    def write(self, layer: int, keys_values: Tensor, slots: CacheSlots) -> tuple[Tensor, ...]:
        """Store one layer's new keys and values [2, B, H, T, width]; returns all that may be attended to."""
        entries = self.entries[layer]
        if slots.places is None:
            entries[:, :, :, slots.first : slots.extent] = keys_values
        else:
            rows, positions = slots.places
            entries[:, rows, :, positions] = keys_values.permute(1, 3, 0, 2, 4)
        return entries[:, :, :, : slots.extent].unbind(0)

    def append(self, tokens: int) -> None:
        """Every row now holds ``tokens`` more tokens."""
        self._counts = [count + tokens for count in self._counts]

    def rewind(self, lengths: Tensor) -> None:
        """Forget all past ``lengths[b]`` (int64 [B], best on the CPU)."""
        known, wanted = self._counts, lengths.tolist()
        if len(known) != len(wanted) or any(not 0 <= w <= k for k, w in zip(known, wanted, strict=True)):
            raise ValueError(f"cannot rewind rows of lengths {known} to {wanted}")
        self._counts = wanted

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was (int64 [B'])."""
        shortest, filled = min(self._counts, default=0), max(self._counts, default=0)
        kept = self.entries[..., :filled, :].index_select(2, rows)
        if len(rows) > self.entries.size(2):
            layers, both, _, heads, max_length, width = self.entries.shape
            self.entries = self.entries.new_zeros(layers, both, len(rows), heads, max_length, width)
        else:
            self.entries = self.entries[:, :, : len(rows)]
        self.entries[..., :filled, :] = kept
        if shortest == filled:
            self._counts = [filled] * len(rows)
        else:
            self._counts = [self._counts[row] for row in rows.tolist()]


class Attention(nn.Module):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2).

    The projections that read the same input are one matrix: query, key and value in self-attention; key and
    value in cross-attention.
    """

    def __init__(self, d_model: int, heads: int, dropout: float, cross: bool) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        if cross:
            self.query = Linear(d_model, d_model)
            self.key_value = Linear(d_model, 2 * d_model)
        else:
            self.query_key_value = Linear(d_model, 3 * d_model)
        self.output = Linear(d_model, d_model)
        self._initialise(d_model)

    def _initialise(self, d_model: int) -> None:
        # Xavier for each of the stacked square matrices by itself, as if they were separate layers.
        for layer in self.children():
            assert isinstance(layer, nn.Linear)
            for block in layer.weight.data.split(d_model):
                nn.init.xavier_uniform_(block)
            nn.init.zeros_(layer.bias)

    def _split(self, x: Tensor, parts: int) -> Tensor:
        """[B, T, parts * D] to [parts, B, H, T, D / H]."""
        rows, length, _ = x.shape
        return x.view(rows, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool = False
    ) -> Tensor:
        attend = partial(
            F.scaled_dot_product_attention,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
        )
        if query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled():
            # The CPU's backward pass in bfloat16 takes ten times as long as in float32 (torch 2.13).
            with torch.autocast("cpu", enabled=False):
                attended = attend(query.float(), key.float(), value.float()).to(query.dtype)
        else:
            attended = attend(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Self-attention over whole rows: x [B, T, D], mask bool [B, 1, 1, T] (True: look) or None."""
        query, key, value = self._split(self.query_key_value(x), 3).unbind(0)
        return self._attend(query, key, value, mask, causal)

    def step(self, x: Tensor, cache: KeyValueCache, layer: int, slots: CacheSlots) -> Tensor:
        """Self-attention of new tokens x [B, T, D] over the cache, which they are written to."""
        query_key_value = self._split(self.query_key_value(x), 3)
        key, value = cache.write(layer, query_key_value[1:], slots)
        return self._attend(query_key_value[0], key, value, slots.mask)

    def source(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, S, D / H] of the encoded source [B, S, D], for ``cross``."""
        key, value = self._split(self.key_value(memory), 2).unbind(0)
        return key, value

    def cross(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of x [B, T, D] to N sources' keys and values [N, H, S, D / H]; mask bool [N, 1, 1, S] or None.

        B / N neighbouring rows have each source to themselves: to it they are one row of B / N * T queries.
        """
        queries = self._split(self.query(x.reshape(len(key), -1, x.size(2))), 1)[0]
        return self._attend(queries, key, value, mask).view_as(x)
