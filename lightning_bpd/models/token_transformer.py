"""A decoder-only Transformer that generates grids of tokens, one or several in a pass.

With regions it is PAR (arXiv 2412.15119), which with one region is plain autoregression in raster order, as LlamaGen
(arXiv 2406.06525). With position queries it fills a grid in any order (LPD, arXiv 2507.01957).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_bpd.interfaces import InputError, Memory, Reading, TokenRows, Vocabularies
from lightning_bpd.kernels.dropout import add_dropped, dropout
from lightning_bpd.kernels.linear import Linear, linear
from lightning_bpd.models.attention import KeyValueCache
from lightning_bpd.models.rotary import rotate, rotations
from lightning_bpd.network import Network, NetworkShape
from lightning_bpd.orders import Groups, consecutive, order_of, regions
from lightning_bpd.rows import Blocks, Causal, Rows, Slots, Visible


@dataclass(frozen=True)
class TokenShape(NetworkShape):
    """The shape of the network, and how it was trained to fill a grid.

    Args:
        d_model: Width of the residual stream.
        heads: Attention heads; divides ``d_model``.
        decoder_layers: Number of layers.
        feed_forward: Hidden width of the feed-forward layers, which are gated (SwiGLU).
        dropout: Probability on embeddings and on each sublayer's output.
        class_dropout: Share of the training images whose class is hidden, for guidance.
        order: In what order the grid is filled: "regions", where cells at the same place of all regions are predicted
            together (PAR); "consecutive", raster order in groups of as many neighbours; or "queries", any order.
        regions: n, the number of regions, or of neighbours; 1 is one token in a pass, in raster order.
        sequential_start: Whether the first cell of each region is predicted in a pass of its own.
        bidirectional: Whether the tokens of a group see one another.
        transition: What the first group is predicted from, beside the last single token: n - 1 learned vectors, one
            shared vector, or copies of the single tokens with a vector added.
        zero_rotary: Whether the rotation of class and transition tokens is a product with zero, as in the released
            weights of LlamaGen and PAR, and not the identity.
    """

    kind: ClassVar[str] = "labelled images"

    d_model: int = 768
    heads: int = 12
    decoder_layers: int = 12
    feed_forward: int = 2048
    dropout: float = 0.1
    class_dropout: float = 0.1
    order: Literal["regions", "consecutive", "queries"] = "regions"
    regions: int = 1
    sequential_start: bool = True
    bidirectional: bool = True
    transition: Literal["learned", "shared", "copied"] = "learned"
    zero_rotary: bool = False

    def __post_init__(self) -> None:
        if self.d_model % self.heads or (self.d_model // self.heads) % 2:
            raise InputError(
                f"d_model {self.d_model} over heads {self.heads} is not an even number: change one of them"
            )
        if self.transition == "copied" and not self.sequential_start:
            raise InputError("copied transition tokens need single tokens: leave sequential_start true")
        if self.order == "queries" and self.regions != 1:
            raise InputError("a network with position queries has no regions of its own: leave regions out")

    @property
    def layers(self) -> int:
        """The number of layers."""
        return self.decoder_layers

    def build(self, vocabularies: Vocabularies) -> TokenTransformer:
        """Make a network for classes and a grid of tokens."""
        return TokenTransformer(self, vocabularies)

    def groups(self, grid: Sequence[int]) -> Groups:
        """The order that the network was trained for. Raises InputError if it does not fit the grid."""
        divide = consecutive if self.order == "consecutive" else regions
        return divide(grid, self.regions, self.sequential_start)


class Layer(nn.Module):
    """Self-attention and a gated feed-forward layer, each after an RMS norm."""

    def __init__(self, shape: TokenShape) -> None:
        super().__init__()
        width = shape.d_model
        self.heads, self.dropout = shape.heads, shape.dropout
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.query_key_value = Linear(width, 3 * width, bias=False)
        self.output = Linear(width, width, bias=False)
        self.feed_forward_norm = nn.RMSNorm(width, eps=1e-5)
        self.gate_up = Linear(width, 2 * shape.feed_forward, bias=False)
        self.down = Linear(shape.feed_forward, width, bias=False)

    def forward(
        self, x: Tensor, table: Tensor, mask: Tensor | None, causal: bool, cached: Any = None
    ) -> Tensor:
        """Map x [B, T, D].

        Args:
            x: The residual stream.
            table: Rotations, [T, W / 2, 2] or [B, 1, T, W / 2, 2], for heads of width W.
            mask: What is added to attention scores, or None.
            causal: Whether each position sees those before it, without a mask.
            cached: Cache, number of the layer and slots, when decoding.
        """
        rows, length, _ = x.shape
        parts = self.query_key_value(self.attention_norm(x)).view(rows, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, table), rotate(key, table)
        if cached is not None:
            cache, number, slots = cached
            key, value = cache.write(number, torch.stack((key, value)), slots)
        attended = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
        attended = self.output(attended.transpose(1, 2).flatten(2))
        x = add_dropped(x, attended, self.dropout, self.training)
        gate, up = self.gate_up(self.feed_forward_norm(x)).chunk(2, -1)
        return add_dropped(x, self.down(F.silu(gate) * up), self.dropout, self.training)


class TokenState:
    """Cached keys and values of each row (a DecodeState), and how far its canvas is."""

    def __init__(self, cache: KeyValueCache, classes: Tensor) -> None:
        self.cache, self.classes = cache, classes
        self.passes = 0
        self.previous: Tensor | None = None
        """int64 [B, Q], the cells that the pass before predicted"""
        self.memory = Memory(classes[:, None], None)

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tokens in each row's cache."""
        return self.cache.rows.lengths

    def rewind(self, lengths: Tensor) -> None:
        """Forget the tokens of each row past ``lengths[b]`` (int64 [B])."""
        rows = self.cache.rows
        assert isinstance(rows, Rows)
        rows.rewind(lengths.tolist())

    def reorder(self, rows: Tensor) -> None:
        """Replace row i by row ``rows[i]`` (int64 [B'])."""
        self.cache.reorder(rows)
        self.classes = self.classes[rows]
        self.previous = None if self.previous is None else self.previous[rows]


class TokenTransformer(Network):
    """The network: a CanvasModel and, with one region, a SequenceModel of rows in raster order.

    The source of a row is one token, the label of its class; the label after the last is no class.

    An input slot holds the class, a transition token or the token of a cell, and is rotated by the place of its cell.
    Its output predicts the cell that has the slot's number in the order of the network.

    Args:
        shape: The network's shape.
        vocabularies: The classes, the tokens and the grid.

    Raises:
        InputError: The regions do not divide the grid.
    """

    def __init__(self, shape: TokenShape, vocabularies: Vocabularies) -> None:
        super().__init__()
        assert vocabularies.grid is not None
        self.architecture, self.vocabularies = shape, vocabularies
        self.grid = tuple(vocabularies.grid)
        self.bos_id, self.ends, self.output_bias = vocabularies.bos_id, frozenset(), None
        self.groups = shape.groups(self.grid)
        self.order = order_of(self.groups)
        """int64 [N], the cell that each slot predicts"""
        width, n = shape.d_model, shape.regions
        self.class_embedding = nn.Embedding(vocabularies.source_vocabulary + 1, width)
        self.token_embedding = nn.Embedding(vocabularies.target_vocabulary, width)
        special = {"learned": n - 1, "shared": min(n - 1, 1), "copied": min(n - 1, 1)}[shape.transition]
        self.transition = nn.Parameter(torch.randn(special, width) * 0.02) if special else None
        self.query = nn.Parameter(torch.randn(width) * 0.02) if shape.order == "queries" else None
        self.decoder: Iterable[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(shape) for _ in range(shape.decoder_layers)
        )
        self.decoder_norm = nn.RMSNorm(width, eps=1e-5)
        self.output = nn.Linear(width, vocabularies.target_vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        self._first = n if shape.sequential_start else 0
        cells = rotations(self.grid, width // shape.heads)
        none = torch.zeros_like(cells[:1])
        none[..., 0] = 0.0 if shape.zero_rotary else 1.0
        # The last entry is that of special tokens.
        self.register_buffer("rotations", torch.cat((cells, none)).float(), persistent=False)
        self.rotations: Tensor

    @property
    def output_weight(self) -> Tensor:
        """The vocabulary projection, [V, D]."""
        return self.output.weight

    @property
    def max_length(self) -> int:
        """N, the tokens of a grid."""
        return len(self.order)

    @property
    def longest_source(self) -> int:
        """1: the label."""
        return 1

    @property
    def visible(self) -> Visible:
        """What each slot may see."""
        shape = self.architecture
        if shape.regions == 1 or not shape.bidirectional:
            return Causal()
        return Blocks(self._first, shape.regions)

    # Whole grids, for training

    def read(self, source: TokenRows, target: Tensor) -> Reading:
        """Compute hidden states of rows in raster order, int64 [B, T], that begin with the start token."""
        self._check_raster()
        classes = self._classes(source.tokens[:, 0])
        x = torch.cat((classes[:, None], self.token_embedding(target[:, 1:])), 1)
        table = self._table(self._cells(torch.arange(target.size(1), device=target.device)))
        return Reading(self._whole(x, table, None, True), Memory(classes[:, None], None))

    def hidden(self, labels: Tensor, tokens: Tensor) -> Tensor:
        """Compute what predicts the tokens of whole grids, in the order of the network.

        Args:
            labels: int64 [B].
            tokens: int64 [B, N], in raster order.

        Returns:
            [B, N, D]; output i predicts ``tokens[:, order[i]]``.
        """
        if self.architecture.order == "queries":
            raise InputError(
                "a network with position queries needs an order for each grid: call ``hidden_of``"
            )
        slots = torch.arange(self.max_length, device=tokens.device)
        x = self._inputs(self._classes(labels), tokens, 0, self.max_length)
        visible = self.visible
        causal = isinstance(visible, Causal)
        mask = None if causal else visible(slots[:, None], slots[None])
        return self._whole(x, self._table(self._cells(slots)), mask, causal)

    def hidden_of(self, labels: Tensor, tokens: Tensor, order: Tensor, sizes: Sequence[int]) -> Tensor:
        """Compute what predicts the tokens of whole grids in any order, by position queries.

        Args:
            labels: int64 [B].
            tokens: int64 [B, N], in raster order.
            order: int64 [B, N], the cells of each grid in the order in which they are predicted.
            sizes: How many cells each pass predicts, the same for all grids.

        Returns:
            [B, N, D]; output i of a grid predicts ``tokens.gather(1, order)[:, i]``.
        """
        self._check_queries()
        assert self.query is not None
        rows, total = tokens.shape
        known = torch.cat((self._classes(labels)[:, None], self.token_embedding(tokens.gather(1, order))), 1)
        x = torch.cat((known, self.query.expand(rows, total, -1)), 1)
        special = order.new_full((rows, 1), total)
        table = self._table(torch.cat((special, order, order), 1))
        group = torch.repeat_interleave(torch.tensor(list(sizes))).to(order.device)
        # The class is known before the first group.
        groups = torch.cat((group.new_tensor([-1]), group, group))
        is_query = torch.arange(len(groups), device=order.device) > total
        mask = sees(is_query[:, None], groups[:, None], is_query[None], groups[None])
        return self._whole(x, table, mask, False)[:, total + 1 :]

    # One call after the other

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> TokenState:
        """Begin rows and preallocate a cache (SequenceModel.start).

        Raises:
            InputError: A source is not the label of a class.
        """
        labels = source.tokens[:, 0] if rows is None else source.tokens[rows, 0]
        classes = self._classes(labels)
        shape = self.architecture
        held = Rows(len(labels), max_length, labels.device, self.visible)
        like = self.output_weight
        if torch.is_autocast_enabled(like.device.type):
            like = like.to(torch.get_autocast_dtype(like.device.type))
        cache = KeyValueCache(
            shape.decoder_layers, held, shape.heads, shape.d_model // shape.heads, like.detach()
        )
        return TokenState(cache, classes)

    def step(self, tokens: Tensor, state: TokenState) -> Tensor:
        """Append tokens (int64 [B, T]) in raster order; return hidden states (SequenceModel.step)."""
        self._check_raster()
        is_start = tokens == self.bos_id
        embedded = self.token_embedding(tokens.masked_fill(is_start, 0))
        x = torch.where(is_start[..., None], state.classes[:, None], embedded)
        slots, mask = state.cache.slots(tokens.size(1))
        table = self._table(self._cells(slots.positions))
        hidden = self._cached(x, table, mask, state, slots)
        state.cache.rows.append(tokens.size(1))
        return hidden

    def project(self, hidden: Tensor) -> Tensor:
        """Project hidden states [..., D] to logits [..., V]."""
        return linear(hidden, self.output_weight)

    def begin(self, source: TokenRows) -> TokenState:
        """Start empty canvases (CanvasModel.begin)."""
        # Queries are in the cache during the pass that predicts their cells.
        queries = self.max_length + 1 if self.query is not None else 0
        return self.start(source, None, self.max_length + queries)

    def predict(self, canvas: Tensor, positions: Tensor, state: TokenState) -> Tensor:
        """Predict the cells of one pass (CanvasModel.predict)."""
        # What a pass predicted enters the cache in the next one, the same cells for all rows.
        if state.previous is not None and bool((canvas.gather(1, state.previous) < 0).any()):
            raise InputError(
                f"pass {state.passes - 1} of the plan did not keep all of its predictions, and this network goes on "
                "from all of them: take a plan that keeps what it predicts"
            )
        if self.query is not None:
            hidden = self._query(canvas, positions, state)
        else:
            self._check_order(positions, state)
            first = sum(map(len, self.groups[: state.passes]))
            x = self._inputs(state.classes, canvas, first, first + positions.size(1))
            slots, mask = state.cache.slots(positions.size(1))
            cells = self._cells(torch.arange(first, first + positions.size(1), device=canvas.device))
            hidden = self._cached(x, self._table(cells), mask, state, slots)
            state.cache.rows.append(positions.size(1))
        state.passes += 1
        state.previous = positions
        return self.project(hidden)

    def _query(self, canvas: Tensor, positions: Tensor, state: TokenState) -> Tensor:
        """Feed what became known in the pass before, and queries; only the known tokens stay in the cache."""
        assert self.query is not None
        rows, queries = positions.shape
        if state.previous is None:
            known, cells = state.classes[:, None], positions.new_full((rows, 1), self.max_length)
        else:
            known, cells = self.token_embedding(canvas.gather(1, state.previous)), state.previous
        new = cells.size(1)
        x = torch.cat((known, self.query.expand(rows, queries, -1)), 1)
        slots, _ = state.cache.slots(new + queries)
        before = slots.extent - new - queries
        # Groups: what was known before, what is known since, and what is predicted now.
        group = torch.tensor([0] * before + [1] * new + [2] * queries, device=canvas.device)
        is_query = group == 2
        mask = sees(is_query[before:, None], group[before:, None], is_query[None], group[None])
        hidden = self._cached(x, self._table(torch.cat((cells, positions), 1)), mask, state, slots)
        state.cache.rows.append(new + queries)
        state.cache.rows.rewind([before + new] * rows)  # type: ignore[arg-type]
        return hidden[:, new:]

    # Parts

    def _inputs(self, classes: Tensor, tokens: Tensor, first: int, end: int) -> Tensor:
        """Embed the slots from ``first`` to ``end`` for grids in raster order, [B, end - first, D]."""
        shape, n = self.architecture, self.architecture.regions
        # Slots up to the first group, and its own: class, single tokens, transition tokens.
        begin = self._first + n
        parts = []
        for slot in range(first, min(end, begin)):
            if slot == 0:
                parts.append(classes)
            elif slot <= self._first:
                parts.append(self.token_embedding(tokens[:, self.order[slot - 1]]))
            else:
                parts.append(self._transition(tokens, slot - self._first - 1))
        x = torch.stack(parts, 1) if parts else classes[:, None][:, :0]
        if end > begin:
            cells = self.order[max(first, begin) - n : end - n].to(tokens.device)
            x = torch.cat((x, self.token_embedding(tokens[:, cells])), 1)
        return x if shape.dropout == 0 else dropout(x, shape.dropout, self.training)

    def _transition(self, tokens: Tensor, number: int) -> Tensor:
        """The transition token of a number from 0, [B, D]."""
        assert self.transition is not None
        kind = self.architecture.transition
        vector = self.transition[number if kind == "learned" else 0]
        if kind == "copied":
            return self.token_embedding(tokens[:, self.order[number]]) + vector
        return vector.expand(len(tokens), -1)

    def _cells(self, slots: Tensor) -> Tensor:
        """The cell whose token each slot holds, of the shape of ``slots``; N for special tokens."""
        n, total = self.architecture.regions, self.max_length
        cells = torch.full((total + 1,), total, device=slots.device)
        order = self.order.to(slots.device)
        cells[1 : self._first + 1] = order[: self._first]
        cells[self._first + n : total] = order[self._first : total - n]
        # Blocks extend past the end of a grid; what follows is dropped.
        return cells[slots.clamp(max=total)]

    def _table(self, cells: Tensor) -> Tensor:
        """Rotations of cells, [T] or [B, T], for all heads."""
        table = self.rotations.to(self.output_weight.dtype)[cells]
        return table if cells.dim() == 1 else table[:, None]

    def _classes(self, labels: Tensor) -> Tensor:
        """Embed labels, of which some are hidden in training, [B, D]."""
        none = self.class_embedding.num_embeddings - 1
        # Asking a GPU would make the host wait; there the embedding itself fails.
        if labels.device.type == "cpu" and not bool(((labels >= 0) & (labels <= none)).all()):
            raise InputError(
                f"labels from {int(labels.min())} to {int(labels.max())} are not those of {none} classes: "
                f"give 0 to {none - 1}, or {none} for no class"
            )
        if self.training and self.architecture.class_dropout > 0:
            hidden = torch.rand(labels.shape, device=labels.device) < self.architecture.class_dropout
            labels = labels.masked_fill(hidden, none)
        return self.class_embedding(labels)

    def _whole(self, x: Tensor, table: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        for layer in self.decoder:
            x = layer(x, table, mask, causal)
        return self.decoder_norm(x)

    def _cached(
        self, x: Tensor, table: Tensor, mask: Tensor | None, state: TokenState, slots: Slots
    ) -> Tensor:
        for number, layer in enumerate(self.decoder):
            x = layer(x, table, mask, False, (state.cache, number, slots))
        return self.decoder_norm(x)

    def _check_raster(self) -> None:
        if self.architecture.regions > 1 or self.query is not None:
            raise InputError(
                "this network was not trained to predict one token after the other in raster order: fill its canvas "
                "by a plan, or train one with regions 1"
            )

    def _check_queries(self) -> None:
        if self.query is None:
            raise InputError(
                "this network was trained for one order: train one with order queries for any other"
            )

    def _check_order(self, positions: Tensor, state: TokenState) -> None:
        expected = self.groups[state.passes] if state.passes < len(self.groups) else ()
        if tuple(positions[0].tolist()) != expected or not bool((positions == positions[:1]).all()):
            raise InputError(
                f"pass {state.passes} predicts the cells {positions[0].tolist()[:8]}, and this network was trained to "
                f"predict {list(expected)[:8]}: take its own plan, or train one with order queries"
            )


def sees(query_asks: Tensor, query_group: Tensor, key_asks: Tensor, key_group: Tensor) -> Tensor:
    """What known tokens and position queries may see, bool, of arguments that broadcast with one another.

    A known token sees the known tokens of its own group and of those before. A query sees the known tokens of the
    groups before its own, and the queries of its own.

    Args:
        query_asks: Whether what attends is a position query, bool.
        query_group: Its group, int64.
        key_asks: Whether what is attended to is a position query, bool.
        key_group: Its group, int64.
    """
    known = ~key_asks & torch.where(query_asks, key_group < query_group, key_group <= query_group)
    return known | (query_asks & key_asks & (key_group == query_group))
