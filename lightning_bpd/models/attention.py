"""Multi-head attention, with and without a key-value cache."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_bpd.kernels.linear import Linear
from lightning_bpd.rows import Rows, Slots, StaticRows, reordered


class KeyValueCache:
    """Keys and values of all layers, preallocated and written at explicit positions of each row.

    Args:
        layers: Number of layers.
        rows: Which tokens each row holds, and what they may see.
        heads: Attention heads.
        width: Width of a head.
        like: A tensor of the cache's dtype and device.
    """

    def __init__(self, layers: int, rows: Rows, heads: int, width: int, like: Tensor) -> None:
        self.rows: Rows | StaticRows = rows
        # Zeros, not uninitialised memory: a hidden NaN times a weight of zero would still be NaN.
        # Keys and values lie side by side, [layers, 2, B, H, capacity, width]: one copy writes both.
        self.entries: Tensor | list[Tensor] = like.new_zeros(
            layers, 2, len(rows.counts), heads, rows.capacity, width
        )

    def slots(self, tokens: int) -> tuple[Slots, Tensor | None]:
        """Return the slots of ``tokens`` more tokens in every row, and their mask if they need one."""
        slots, visible = self.rows.take(tokens), self.rows.visible
        return slots, None if slots.sees_all(visible) else slots.mask(visible, self.entries[0].dtype)

    def write(self, layer: int, keys_values: Tensor, slots: Slots) -> tuple[Tensor, ...]:
        """Store one layer's new keys and values [2, B, H, T, width]; return all that may be attended to."""
        entries = self.entries[layer]
        slots.write(entries, keys_values)
        return slots.read(entries).unbind(0)

    def reorder(self, rows: Tensor) -> None:
        """Replace row i by row ``rows[i]`` (int64 [B'])."""
        assert isinstance(self.rows, Rows)
        assert isinstance(self.entries, Tensor)
        self.entries = reordered(self.entries, rows, max(self.rows.counts, default=0))
        self.rows.reorder(rows)


class Attention(nn.Module):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2).

    Projections of one input are one matrix: query, key and value in self-attention; key and value in cross-attention.
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
        # Xavier for each stacked square matrix, as for separate layers.
        for layer in self.children():
            assert isinstance(layer, nn.Linear)
            for block in layer.weight.data.split(d_model):
                nn.init.xavier_uniform_(block)
            nn.init.zeros_(layer.bias)

    def _split(self, x: Tensor, parts: int) -> Tensor:
        """Reshape [B, T, parts * D] to [parts, B, H, T, D / H]."""
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
        """Attend within whole rows x [B, T, D]; mask bool [B, 1, 1, T] (True: visible) or None."""
        query, key, value = self._split(self.query_key_value(x), 3).unbind(0)
        return self._attend(query, key, value, mask, causal)

    def step(self, x: Tensor, cache: KeyValueCache, layer: int, slots: Slots, mask: Tensor | None) -> Tensor:
        """Write new tokens x [B, T, D] into the cache, and let them attend to it."""
        query_key_value = self._split(self.query_key_value(x), 3)
        key, value = cache.write(layer, query_key_value[1:], slots)
        return self._attend(query_key_value[0], key, value, mask)

    def source(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Compute keys and values [B, H, S, D / H] of the encoded source [B, S, D], for ``cross``."""
        key, value = self._split(self.key_value(memory), 2).unbind(0)
        return key, value

    def cross(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Let x [B, T, D] attend to keys and values of N sources, [N, H, S, D / H]; mask bool [N, 1, 1, S] or None.

        Each source belongs to B / N neighbouring rows, which become one row of B / N * T queries.
        """
        queries = self._split(self.query(x.reshape(key.size(0), -1, x.size(2))), 1)[0]
        return self._attend(queries, key, value, mask).view_as(x)
