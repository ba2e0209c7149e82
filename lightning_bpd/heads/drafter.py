"""Block heads as decoding sees them: a drafter, and head 1 in the base's place."""

from __future__ import annotations

from typing import Generic

import torch
from torch import Tensor

from lightning_bpd.heads.block_heads import BlockHeads
from lightning_bpd.interfaces import InputError, Proposal, SequenceModel, State, TokenRows, VerifiedBlock
from lightning_bpd.linear import linear


class HeadDrafter:
    """Proposes what heads 2 to k find most probable at the last accepted token.

    Args:
        heads: The heads.
        weight: The base's vocabulary projection, [V, D].
    """

    def __init__(self, heads: BlockHeads, weight: Tensor) -> None:
        self.heads = heads
        self.candidates = None if heads.shape.candidates is None else heads.candidates
        self.weight = weight.detach() if self.candidates is None else weight.detach()[self.candidates]

    @property
    def block_size(self) -> int:
        """The largest block that can be proposed."""
        return self.heads.block_size

    def start(self, source: TokenRows, max_length: int) -> None:
        """Nothing to prepare: the hidden states say all."""

    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        """``count`` tokens that come after ``following`` (Drafter.propose)."""
        rows = torch.arange(len(following), device=following.device)
        return Proposal(self.proposals(verified.hidden[rows, verified.accepted - 1], count))

    def reorder(self, rows: Tensor) -> None:
        """Nothing is remembered of the rows."""

    @torch.no_grad()
    def proposals(self, hidden: Tensor, count: int) -> Tensor:
        """The tokens of heads 2 to ``count`` + 1, int64 [..., count], from hidden states [..., D].

        Raises:
            InputError: There are fewer heads.
        """
        best = linear(self.heads(hidden, range(2, count + 2)), self.weight).argmax(-1)
        return best if self.candidates is None else self.candidates[best]


class FirstHead(Generic[State]):
    """A model whose predictions go through a learned head 1; all else is the model's own.

    Args:
        model: The base.
        heads: Heads with a learned first one.

    Raises:
        InputError: Head 1 is the identity, which needs no wrapping.
    """

    def __init__(self, model: SequenceModel[State], heads: BlockHeads) -> None:
        if heads.first != 1:
            raise InputError("these heads have no learned head 1: decode with the base itself")
        self.model = model
        self.heads = heads
        self.bos_id = model.bos_id
        self.eos_id = model.eos_id

    @property
    def max_length(self) -> int | None:
        """The longest row that the model can decode, in tokens; None where there is no limit."""
        return self.model.max_length

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> State:
        """Encode each source once and preallocate a cache (SequenceModel.start)."""
        return self.model.start(source, rows, max_length)

    def step(self, tokens: Tensor, state: State) -> Tensor:
        """Append tokens (int64 [B, T]) to the rows; returns the base's hidden states [B, T, D]."""
        return self.model.step(tokens, state)

    def project(self, hidden: Tensor) -> Tensor:
        """The base's hidden states [..., D] to head 1's logits [..., V]."""
        return self.model.project(self.heads(hidden, range(1, 2)).squeeze(-2))
