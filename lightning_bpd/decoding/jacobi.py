"""Speculative Jacobi decoding: a drafter without training for any autoregressive model (arXiv 2410.01699).

A call over a block tells, besides how much of the block stays, what the model would say at the positions after that,
given the block's own tokens. Those choices are the next proposals. With the noise of ``Sampled``, which is that of the
position in every call, a choice changes only where the distribution did, so proposals agree far more often than with
fresh noise (arXiv 2510.24211); and with the exact rule the output is token for token that of plain sampling.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_bpd.decoding.samplers import GUESS_STREAM, uniform
from lightning_bpd.interfaces import (
    Drafter,
    InputError,
    Memory,
    Proposal,
    Sampler,
    TokenRows,
    VerifiedBlock,
    check_range,
)

Guess = Literal["left", "above", "random"]


class JacobiDrafter:
    """Proposes the model's choices of the call before, and guesses for the positions after them (Drafter).

    Args:
        window: The tokens of a block, the certain one included.
        guess: What a position is taken for that no call has predicted yet: the token at its left, the token above it
            in a grid, or any token.
        row_length: Tokens of a row of the grid, for ``above``.
        carry: Whether the choices of the call before are proposed; without them all proposals are guesses.
        first: A drafter that guesses in the place of ``guess``, as far as its blocks reach.
        distributions: Whether proposals come with the distributions that they were drawn from, which the speculative
            rule needs; guesses are certain.

    Raises:
        InputError: The window is out of range, or ``above`` does not know the grid.
    """

    def __init__(
        self,
        window: int = 16,
        guess: Guess = "left",
        row_length: int | None = None,
        carry: bool = True,
        first: Drafter | None = None,
        distributions: bool = False,
    ) -> None:
        check_range(2, 1024, window=window)
        if guess not in ("left", "above", "random"):
            raise InputError(f"unknown guess {guess!r}: choose left, above or random")
        if guess == "above" and (row_length is None or row_length < 1):
            raise InputError(
                "the guess above needs a grid of tokens, which this model has not: choose left or random"
            )
        self.window, self.guess, self.row_length = window, guess, row_length
        self.carry, self.first, self.distributions = carry, first, distributions

    @property
    def block_size(self) -> int:
        """The window."""
        return self.window

    def start(self, source: TokenRows, max_length: int, sampler: Sampler, memory: Memory) -> None:
        """Begin with new rows (Drafter.start)."""
        self.sampler = sampler
        lengths = source.lengths
        # What is known or supposed of each row. Blocks extend past the end of a row.
        self.tokens = torch.zeros(
            len(lengths), max_length + 2 * self.window, dtype=torch.long, device=lengths.device
        )
        if self.first is not None:
            self.first.start(source, max_length, sampler, memory)

    def reorder(self, rows: Tensor) -> None:
        """Let row i become what row ``rows[i]`` was (Drafter.reorder)."""
        self.tokens = self.tokens[rows]
        if self.first is not None:
            self.first.reorder(rows)

    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        """Propose what the call chose past the accepted tokens, then guesses (Drafter.propose)."""
        known = verified.tokens.size(1)
        ahead = torch.arange(count, device=following.device)
        # The choice after block token j is for position positions + j. The first proposal comes after ``following``.
        index = verified.accepted[:, None] + ahead
        chosen = (index < known) & self.carry
        choices = verified.choices.gather(1, index.clamp(max=known - 1))
        after = verified.positions + verified.accepted
        guesses = self._guesses(verified, following, count, after)
        # The row so far: the block, whose rejected tokens are replaced, the certain token, and the proposals.
        block = verified.positions[:, None] + torch.arange(known - 1, device=following.device)
        self.tokens.scatter_(1, block, verified.tokens[:, 1:])
        self.tokens.scatter_(1, after[:, None] - 1, following[:, None])
        for place in range(count):
            position = after[:, None] + place
            guess = guesses[:, place : place + 1] if place < guesses.size(1) else self._neighbour(position)
            token = torch.where(chosen[:, place : place + 1], choices[:, place : place + 1], guess)
            self.tokens.scatter_(1, position, token)
        proposed = self.tokens.gather(1, after[:, None] + ahead)
        if not self.distributions:
            return Proposal(proposed)
        certain = F.one_hot(proposed, verified.logits.size(2)).double()
        drawn = self.sampler.probabilities(verified.logits)
        if drawn is None:
            return Proposal(proposed, certain)
        drawn = drawn.gather(1, index.clamp(max=known - 1)[..., None].expand(-1, -1, drawn.size(2)))
        return Proposal(proposed, torch.where(chosen[..., None], drawn, certain))

    def _guesses(self, verified: VerifiedBlock, following: Tensor, count: int, after: Tensor) -> Tensor:
        """Guesses that do not depend on the tokens before, int64 [B, n], n at most ``count``."""
        if self.first is not None:
            return self.first.propose(verified, following, min(count, self.first.block_size - 1)).tokens
        if self.guess == "random":
            seed = getattr(self.sampler, "seed", 0)
            position = after[:, None] + torch.arange(count, device=after.device)
            noise = uniform(seed, verified.rows[:, None], position, torch.zeros_like(position), GUESS_STREAM)
            return (noise * verified.logits.size(2)).long()
        return following[:, None][:, :0]

    def _neighbour(self, position: Tensor) -> Tensor:
        """The token at the left, or above, of positions [B, 1]; the first row has nothing above it."""
        left = position - 1
        if self.guess == "above" and self.row_length is not None:
            above = position - self.row_length
            left = torch.where(above >= 0, above, left)
        return self.tokens.gather(1, left.clamp(min=0))


def row_length(model: object) -> int | None:
    """The tokens of a row of the model's grid; None if its tokens are in no grid."""
    grid = getattr(model, "grid", None)
    if grid is not None:
        # A colour image has the channels of a cell side by side.
        return grid[-1] if len(grid) == 2 else grid[-2] * grid[-1]
    shape = getattr(model, "architecture", None)
    if hasattr(shape, "width") and hasattr(shape, "channels"):
        return shape.width * shape.channels  # type: ignore[union-attr]
    return None
