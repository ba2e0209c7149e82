"""The heads that predict several tokens ahead from one hidden state (Stern et al. 2018, section 6, figure 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_bpd.drafters.correction import Correction
from lightning_bpd.drafters.group_losses import Batch, group_losses
from lightning_bpd.drafters.head_drafter import FirstHead, HeadDrafter
from lightning_bpd.drafters.layer import HeadLayer
from lightning_bpd.drafters.losses import HeadLosses, head_losses
from lightning_bpd.drafters.module import Base, TrainedDrafter
from lightning_bpd.interfaces import InputError, Reading, SequenceModel, TokenRows


@dataclass(frozen=True)
class HeadShape:
    """The shape of the heads.

    Args:
        block_size: k, the number of heads; head i predicts the token i positions ahead.
        d_hidden: Hidden units of each head. By default, training takes the number of the base's feed-forward layers, as
            in the paper. Heads that are built without a base have 4 x d_model.
        second_matrix: Whether an output sees its own head's hidden units (per_head: parameters grow with k) or
            the hidden units of all heads (dense, as in the paper: parameters grow with k squared).
        first_head: Whether head 1 is the base itself (identity: the base's output is unchanged) or has parameters
            like the other heads (learned, as in the paper's code).
        candidates: Heads propose at most this many tokens, the most frequent ones, and are trained on these tokens
            only, which makes proposals and loss cheaper. A number as large as the vocabulary, or None, is no
            restriction.
        following: Whether heads see the certain next token, whose row of the vocabulary projection is a second input.
        correction: Rank of the table by which each proposal is corrected by the token before it; 0 for none.
    """

    block_size: int = 8
    d_hidden: int | None = None
    second_matrix: Literal["per_head", "dense"] = "per_head"
    first_head: Literal["identity", "learned"] = "identity"
    candidates: int | None = None
    following: bool = False
    correction: int = 0
    base_layers: ClassVar[None] = None  # as DrafterShape has them

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise InputError(f"block_size must be at least 1, not {self.block_size}")
        if self.d_hidden is not None and self.d_hidden < 1:
            raise InputError(f"d_hidden must be at least 1, not {self.d_hidden}")
        if self.candidates is not None and self.candidates < 1:
            raise InputError(f"candidates must be at least 1, not {self.candidates}")
        if self.second_matrix not in ("per_head", "dense"):
            raise InputError(f"unknown second_matrix {self.second_matrix!r}: choose per_head or dense")
        if self.first_head not in ("identity", "learned"):
            raise InputError(f"unknown first_head {self.first_head!r}: choose identity or learned")
        if self.correction < 0:
            raise InputError(f"correction must be at least 0, not {self.correction}")
        if self.first_head == "learned" and (self.following or self.correction):
            raise InputError("following and correction are for heads after p_1: choose first_head: identity")

    def loss_weights(self) -> None:
        """Return None: all heads count alike (DrafterShape.loss_weights)."""

    def build(self, base: Base) -> BlockHeads:
        """Make heads for a base, with as many hidden units as its feed-forward layers if the shape does not say."""
        shape = self if self.d_hidden is not None else replace(self, d_hidden=base.architecture.feed_forward)
        return BlockHeads(base.architecture.d_model, shape, len(base.output_weight))


class BlockHeads(TrainedDrafter):
    """k heads, each a feed-forward layer with a residual from the base's hidden state.

    The heads share the base's vocabulary projection, which they do not hold. They start as the identity: each head
    then returns the base's hidden state, so its first loss is that of the base's prediction.

    Args:
        d_model: D, the width of the base's hidden states.
        shape: The shape of the heads.
        vocabulary: V, for the correction.

    Attributes:
        shape: The shape, with ``d_hidden`` filled in.
    """

    shape: HeadShape

    def __init__(self, d_model: int, shape: HeadShape, vocabulary: int = 0) -> None:
        units = shape.d_hidden or 4 * d_model
        super().__init__(replace(shape, d_hidden=units), shape.candidates)
        self.first = 2 if shape.first_head == "identity" else 1
        heads = shape.block_size - self.first + 1
        seen = units * heads if shape.second_matrix == "dense" else units
        inputs = 2 * d_model if shape.following else d_model
        self.hidden_weight = nn.Parameter(torch.empty(heads, units, inputs))
        self.hidden_bias = nn.Parameter(torch.zeros(heads, units))
        self.output_weight = nn.Parameter(torch.zeros(heads, d_model, seen))
        self.output_bias = nn.Parameter(torch.zeros(heads, d_model))
        nn.init.normal_(self.hidden_weight, std=inputs**-0.5)
        self.correction = Correction(vocabulary, shape.correction) if shape.correction else None

    @property
    def layer(self) -> HeadLayer:
        """The parameters of the heads ``first`` to k."""
        return HeadLayer(self.hidden_weight, self.hidden_bias, self.output_weight, self.output_bias)

    def learned(self, heads: range) -> slice:
        """Return the slice of ``layer``'s heads that belong to a range of heads."""
        self.check(heads)
        return slice(max(heads.start - self.first, 0), max(heads.stop - self.first, 0))

    def check(self, heads: range) -> None:
        """Refuse a range that is not a range of these heads.

        Raises:
            InputError: The range is empty, has gaps, or reaches beyond 1..k.
        """
        if not heads or heads.step != 1 or heads.start < 1 or heads.stop > self.block_size + 1:
            raise InputError(
                f"there are no heads {heads.start} to {heads.stop - 1}: choose from heads 1 to {self.block_size}"
            )

    def forward(self, hidden: Tensor, heads: range | None = None, following: Tensor | None = None) -> Tensor:
        """Compute the outputs of a contiguous range of heads for each hidden state.

        With ``per_head``, only the heads of the range are computed.

        Args:
            hidden: [..., D], the base's hidden states.
            heads: Numbers of heads, from 1; ``first`` to k by default.
            following: [..., D], the rows of the vocabulary projection of the certain tokens, for heads that see them.

        Returns:
            [..., n, D], to be projected to the vocabulary like ``hidden``. Head 1 as identity gives ``hidden``.

        Raises:
            InputError: There are no such heads.
        """
        if heads is None:
            heads = range(self.first, self.block_size + 1)
            if not heads:
                return hidden.new_empty(*hidden.shape[:-1], 0, hidden.size(-1))
        learned = self.learned(heads)
        flat = hidden.reshape(-1, hidden.size(-1))
        outputs = [flat[:, None]] if heads.start < self.first else []
        if learned.start < learned.stop:
            layer = self.layer.of(learned)
            seen = flat if following is None else torch.cat((flat, following.reshape(flat.shape)), 1)
            outputs.append(layer.outputs(flat, layer.units(seen)))
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
        return joined.view(*hidden.shape[:-1], len(heads), hidden.size(-1))

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
        """Compute the losses of the heads (TrainedDrafter.losses)."""
        if self.shape.following or self.shape.correction:
            batch = Batch.of(base, reading, rows, which.stop - 3, self.correction)
            shares = torch.ones(len(which)) if weights is None else weights
            outputs = partial(self._outputs, batch, which)
            return group_losses(self, batch, outputs, which, shares, temperature, divisor)
        weight, bias = base.output_weight, base.output_bias
        return head_losses(
            self, reading.hidden, weight, rows, which, weights, temperature, bias=bias, divisor=divisor
        )

    def _outputs(self, batch: Batch, which: range) -> Tensor:
        """The outputs of heads 2 to the last of ``which``, head by head, [B, T + G, D]."""
        following = None
        if self.shape.following:
            following = F.embedding(batch.rows.tokens, batch.base.output_weight.detach())
        outputs = self(batch.hidden, range(2, which.stop), following)
        sizes = [outputs.size(1), *batch.groups.counts]
        return torch.cat([outputs[:, :size, head] for head, size in enumerate(sizes)], 1)

    def drafter(self, base: Base) -> HeadDrafter:
        """Return a drafter with these heads (TrainedDrafter.drafter)."""
        return HeadDrafter(self, base.output_weight, bias=base.output_bias)

    def model(self, base: Base) -> SequenceModel[Any]:
        """Return the base, with the predictions of head 1 if that is learned (TrainedDrafter.model)."""
        return FirstHead(base, self) if self.first == 1 else base
