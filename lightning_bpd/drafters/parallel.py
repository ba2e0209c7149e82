"""A small Transformer that proposes all tokens of a block in one pass.

It reads what the base computed of the prefix and of the source, and puts a mask token at each position to be proposed
(ParallelSpec, arXiv 2410.05589; P-EAGLE, arXiv 2602.01469). Each proposal is corrected by the one before it, with a
table of low rank (the Markov head of DSpark).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_bpd.drafters.correction import Correction
from lightning_bpd.drafters.group_losses import Batch, group_losses
from lightning_bpd.drafters.groups import GroupLayer, Groups
from lightning_bpd.drafters.losses import HeadLosses
from lightning_bpd.drafters.module import Base, TrainedDrafter
from lightning_bpd.drafters.parallel_decoding import ParallelProposer
from lightning_bpd.drafters.shape import DrafterShape
from lightning_bpd.interfaces import InputError, Memory, Reading, TokenRows
from lightning_bpd.kernels.dropout import dropout
from lightning_bpd.kernels.linear import Linear
from lightning_bpd.models.encoder_decoder import Architecture
from lightning_bpd.models.positions import sinusoids

# Training on a share of the anchors keeps at least this share of them at every depth (P-EAGLE, section 3).
LEAST_KEPT = 0.2


@dataclass(frozen=True)
class ParallelDraft(DrafterShape):
    """The shape of a ``ParallelDrafter``, and how it is trained.

    Args:
        block_size: k, the most tokens of a block: the certain token and k - 1 proposals.
        layers: Transformer layers.
        attention_heads: Attention heads; divides the width of the base.
        feed_forward: Hidden units of the feed-forward layers; twice the width of the base by default.
        correction: Rank of the table by which each proposal is corrected by the token before it; 0 for none.
        base_layers: Numbers of decoder layers of the base, from 1, whose outputs it reads beside the last hidden state.
        memory: Whether it attends to what the base computed of the source.
        candidates: At most this many tokens are proposed, the most frequent ones; None for all.
        dropout: Probability of dropout in training.
        decay: A proposal counts this much of the proposal before it in the loss, if no ``head_weights`` are given.
        kept: Share of the groups of each depth that are trained at the next depth, drawn at random; 1 for all.
    """

    block_size: int = 8
    layers: int = 1
    attention_heads: int = 4
    feed_forward: int | None = None
    correction: int = 64
    base_layers: list[int] | None = None
    memory: bool = True
    candidates: int | None = None
    dropout: float = 0.0
    decay: float = 0.8
    kept: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("block_size", 2), ("layers", 1), ("attention_heads", 1), ("correction", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("feed_forward", "candidates"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if not all(type(layer) is int for layer in self.base_layers or ()):
            raise InputError(f"base_layers must be numbers of layers, such as [2, 4], not {self.base_layers}")
        for name in ("decay", "kept"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} must be above 0 and at most 1, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be at least 0 and less than 1, not {self.dropout}")

    def loss_weights(self) -> list[float]:
        """Return weights that fall by ``decay`` from one head to the next; p_1 counts as much as the first proposal."""
        return [self.decay ** max(head - 1, 0) for head in range(self.block_size)]

    def build(self, base: Base) -> ParallelDrafter:
        """Make a drafter for a base, with random weights."""
        return ParallelDrafter(base, self)


class ParallelDrafter(TrainedDrafter):
    """One or two Transformer layers over the prefix, and k - 2 mask tokens.

    The input at position t is made of the base's hidden state before token t and of token t, which the base is certain
    of. Its output predicts token t + 1. The output of the mask token d positions further predicts token t + d + 1.

    Args:
        base: The base, of which only widths and the size of the vocabulary are used.
        shape: The shape.

    Raises:
        InputError: The shape does not fit the base.
    """

    shape: ParallelDraft

    def __init__(self, base: Base, shape: ParallelDraft) -> None:
        super().__init__(shape, shape.candidates)
        width, vocabulary = base.architecture.d_model, len(base.output_weight)
        if width % shape.attention_heads:
            raise InputError(
                f"attention_heads {shape.attention_heads} does not divide the width of the base, {width}: change it"
            )
        self.architecture = Architecture(
            d_model=width,
            heads=shape.attention_heads,
            feed_forward=shape.feed_forward or 2 * width,
            dropout=shape.dropout,
            norm="pre",
        )
        # Typed by their elements, because a ModuleList does not tell them.
        self.layers: Iterable[GroupLayer] = nn.ModuleList(  # type: ignore[assignment]
            GroupLayer(self.architecture) for _ in range(shape.layers)
        )
        self.hidden_norm, self.token_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.hidden_input = Linear(width * (1 + len(shape.base_layers or ())), width)
        self.token_input = Linear(width, width, bias=False)
        self.masks = nn.Parameter(torch.randn(shape.block_size - 2, width))
        # Attention to the memory has something to see even if a source is empty.
        self.nothing = nn.Parameter(torch.zeros(1, 1, width))
        self.norm = nn.LayerNorm(width)
        self.correction = Correction(vocabulary, shape.correction) if shape.correction else None
        self._positions = torch.empty(0, width)

    # Inputs, also of decoding

    def positions(self, length: int, like: Tensor) -> Tensor:
        """Return position vectors of at least ``length`` positions, [>= length, D], on the device of ``like``."""
        if length > len(self._positions):
            with torch.inference_mode(False):
                # Of few different lengths, because compiled code knows the length.
                length = 1 << max(length, 1023).bit_length()
                self._positions = sinusoids(length, self.architecture.d_model)
        if (self._positions.device, self._positions.dtype) != (like.device, like.dtype):
            with torch.inference_mode(False):
                self._positions = self._positions.to(like)
        return self._positions

    def of_hidden(self, hidden: Tensor) -> Tensor:
        """Map the base's hidden states [..., D] to the first part of the inputs of real tokens.

        The outputs of ``base_layers`` follow in the last dimension.
        """
        states = hidden.to(self.nothing.dtype).unflatten(-1, (-1, self.architecture.d_model))
        return self.hidden_input(self.hidden_norm(states).flatten(-2))

    def of_tokens(self, embedded: Tensor) -> Tensor:
        """Map rows of the base's vocabulary projection [..., D], which stand for tokens, to the second part."""
        return self.token_input(self.token_norm(embedded.to(self.nothing.dtype)))

    def seen(self, memory: Memory, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the memory that the layers attend to, [B, S, D], and its mask, bool [B, 1, 1, S] or None.

        The tokens of a prompt are read as those of the row are, with rows of the vocabulary projection ``weight``.
        """
        states = memory.states.to(self.nothing.dtype)
        nothing = self.nothing.expand(len(states), -1, -1)
        if not self.shape.memory:
            return nothing, None
        if memory.tokens is not None:
            states = self.of_hidden(states) + self.of_tokens(F.embedding(memory.tokens, weight))
        states = torch.cat((nothing, states), 1)
        if memory.inside is None:
            return states, None
        return states, F.pad(memory.inside, (1, 0), value=True)[:, None, None]

    # Training

    def losses(
        self,
        base: Base,
        reading: Reading,
        rows: TokenRows,
        which: range,
        weights: Tensor | None = None,
        temperature: float | None = None,
        divisor: Tensor | None = None,
    ) -> HeadLosses:
        """Compute the losses of p_1 and of the proposals (TrainedDrafter.losses)."""
        depths = which.stop - 3
        groups = self._groups(rows.lengths, rows.tokens.size(1), depths)
        batch = Batch.of(base, reading, rows, depths, self.correction, groups)
        outputs = partial(self._outputs, base, reading, batch.rows.tokens, groups)
        shares = torch.ones(len(which)) if weights is None else weights
        return group_losses(self, batch, outputs, which, shares, temperature, divisor)

    def _groups(self, lengths: Tensor, length: int, depths: int) -> Groups:
        """The groups to train; all of them in validation."""
        kept = self.shape.kept if self.training else 1.0
        if kept == 1:
            return Groups.all(len(lengths), length, depths, lengths.device)
        # In random order, those with the most proposals inside their row first.
        order = torch.rand(len(lengths), length, device=lengths.device)
        order = order + (torch.arange(length, device=lengths.device) >= lengths[:, None] - 2)
        shares = [max(kept**depth, LEAST_KEPT) for depth in range(1, depths + 1)]
        return Groups(order.argsort(1), [math.ceil(share * length) for share in shares])

    def _outputs(self, base: Base, reading: Reading, tokens: Tensor, groups: Groups) -> Tensor:
        """The outputs of all real tokens, then of all mask tokens, [B, T + G, D]."""
        length = tokens.size(1)
        embedded = F.embedding(tokens, base.output_weight.detach())
        x = self.of_hidden(reading.hidden) + self.of_tokens(embedded)
        positions = self.positions(length + self.block_size, x)
        x = x + positions[:length]
        if groups.counts:
            depth = torch.arange(len(groups.counts), device=x.device).repeat_interleave(
                torch.tensor(groups.counts, device=x.device)
            )
            x = torch.cat((x, self.masks[depth] + positions[groups.of_all_depths() + depth + 1]), 1)
        x = dropout(x, self.shape.dropout, self.training)
        memory, mask = self.seen(reading.memory, base.output_weight.detach())
        for layer in self.layers:
            x = layer.of_groups(x, length, groups, memory, mask)
        return self.norm(x).to(reading.hidden.dtype)

    # Decoding

    def drafter(self, base: Base) -> ParallelProposer:
        """Return a drafter with these weights (TrainedDrafter.drafter)."""
        return ParallelProposer(self, base.output_weight, base.output_bias)
