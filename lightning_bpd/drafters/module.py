"""What training, storage and decoding know of a drafter with parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_bpd.drafters.losses import HeadLosses
from lightning_bpd.interfaces import Drafter, Reading, SequenceModel, TokenRows

# A token with this bias or less has probability 0. Converted Marian models use -10,000, which bfloat16 rounds up.
FORBIDDEN_BIAS = -9_000.0


class Widths(Protocol):
    """The widths of a base, from which the shape of its drafter follows."""

    @property
    def d_model(self) -> int:
        """Width of the hidden states."""

    @property
    def feed_forward(self) -> int:
        """Hidden units of the feed-forward layers."""


class Base(SequenceModel[Any], Protocol):
    """What a drafter with parameters reads of its base."""

    @property
    def architecture(self) -> Widths:
        """The widths of the base."""

    @property
    def output_weight(self) -> Tensor:
        """The vocabulary projection, [V, D]."""

    @property
    def output_bias(self) -> Tensor | None:
        """The bias of the logits, [V], or None."""


class TrainedDrafter(nn.Module, ABC):
    """The parameters of a drafter: heads 2 to k, which predict the tokens 2 to k positions ahead, and maybe head 1.

    Head i at position t has seen the hidden state before token t, so p_1 (head 1) predicts token t, and head i predicts
    token t + i - 1. A drafter may propose ``candidates`` only, which makes proposals and losses cheaper.

    Args:
        shape: What it was built from: a dataclass of plain data with ``block_size`` and ``build``.
        candidates: The most tokens that are proposed; None for all.

    Attributes:
        shape: The shape.
        block_size: k.
        first: The number of the first head that has parameters: 2 if p_1 is the base itself, else 1.
        candidates: int64 [C], the distinct tokens that are proposed, in rising order, if the shape has candidates; the
            first token ids before ``choose_candidates``.
    """

    candidates: Tensor
    first = 2

    def __init__(self, shape: Any, candidates: int | None) -> None:
        super().__init__()
        self.shape = shape
        self.block_size: int = shape.block_size
        self._most_candidates = candidates
        if candidates is not None:
            self.register_buffer("candidates", torch.arange(candidates))

    @abstractmethod
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
        """Compute the losses of a range of heads over a batch, with gradients for the drafter and the base.

        Args:
            base: The base, whose projection maps to the vocabulary.
            reading: What the base computed of the batch.
            rows: Target rows, int64 [B, T] and [B].
            which: Numbers of heads, from 1; head 1 is p_1.
            weights: [n], the weight of each head of ``which`` in the loss, on the CPU; equal by default.
            temperature: With a temperature, heads learn the base's distribution instead of the tokens of ``rows``.
            divisor: Scalar by which each head's summed loss is divided; by default the head's number of targets.
        """

    @abstractmethod
    def drafter(self, base: Base) -> Drafter:
        """Return a drafter for decoding with the weights as they are at its first proposal."""

    def model(self, base: Base) -> SequenceModel[Any]:
        """Return p_1: the base, unless the drafter has a head 1 of its own."""
        return base

    def choose_candidates(self, counts: Tensor, bias: Tensor | None = None) -> None:
        """Take the most frequent tokens as candidates, if the shape has candidates.

        Args:
            counts: int64 [V], the count of each token in the training data.
            bias: [V], the bias of the base's logits. A token that the bias forbids does not become a candidate.
        """
        if self._most_candidates is None:
            return
        order = counts.argsort(descending=True, stable=True)
        if bias is not None:
            order = order[bias.to(order.device)[order] > FORBIDDEN_BIAS]
        self.candidates = order[: self._most_candidates].sort().values.to(self.candidates.device)

    def candidates_of(self, vocabulary: int) -> Tensor | None:
        """Return the candidates, or None if they do not restrict a vocabulary of this size."""
        restricted = self._most_candidates is not None and len(self.candidates) < vocabulary
        return self.candidates if restricted else None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # The number of candidates depends on the training data. Earlier versions repeated candidates to fill the list.
        name = f"{prefix}candidates"
        if self._most_candidates is not None and name in state_dict:
            state_dict[name] = state_dict[name].unique()
            self.candidates = torch.empty_like(state_dict[name], device=self.candidates.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
