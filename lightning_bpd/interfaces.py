"""The words that decoding, models, tasks and training share (floor 0).

Shape legend, used in every docstring: B rows, S source length, T tokens fed in one call, L output length,
K block size, I iterations, V vocabulary size, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor


class InputError(ValueError):
    """Something that the user gave is wrong. The message says what, where, and what to do about it.

    The command line prints it as one line, without a traceback, and exits with 2.
    """


class TokenRows(NamedTuple):
    """Rows of token ids, padded at the right. What lies past a row's length is never looked at."""

    tokens: Tensor
    """int64 [B, L]"""
    lengths: Tensor
    """int64 [B], each at least 1"""


class ParallelBatch(NamedTuple):
    """A batch of sentence pairs. Both sides end with their end token; neither starts with a start token."""

    source: TokenRows
    target: TokenRows
    index: Tensor  # type: ignore[assignment]
    """int64 [B], the position of each pair in its corpus"""


class DecodeState(Protocol):
    """What a model remembers of each row between two calls: encoded source and key-value cache."""

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tokens that each row's cache holds."""

    def rewind(self, lengths: Tensor) -> None:
        """Forget all past ``lengths[b]`` (int64 [B], on any device, at most the current lengths), without copying."""

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was (int64 [B']): keeps, repeats or drops rows."""


State = TypeVar("State", bound=DecodeState)


class SequenceModel(Protocol[State]):
    """All that decoding knows of a model."""

    bos_id: int
    """fed as the first token of every row"""
    eos_id: int
    """ends a row; negative where no token does, and every row has ``max_length`` tokens"""

    @property
    def max_length(self) -> int | None:
        """The longest row that the model can decode, in tokens; None where there is no limit."""

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> State:
        """Encode each source once and preallocate a cache for ``max_length`` tokens a row.

        It may exceed ``SequenceModel.max_length``: blocks are fed whole, and what lies past a row's end is dropped.

        ``rows`` (int64 [B]) names the source row that each decoded row belongs to; None means one row a
        source, in order.
        """

    def step(self, tokens: Tensor, state: State) -> Tensor:
        """Append ``tokens`` (int64 [B, T], any T >= 1) to the rows; returns their hidden states [B, T, D]."""

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to logits [..., V]: the shared vocabulary projection."""


class VerifiedBlock(NamedTuple):
    """One model call over a block of every row, and how much of it was accepted."""

    tokens: Tensor
    """int64 [B, K]: the block that was fed; its first token was certain, the others were proposals"""
    hidden: Tensor
    """[B, K, D]: what the model made of each token"""
    logits: Tensor
    """[B, K, V]: p_1 of the token after each token"""
    accepted: Tensor
    """int64 [B]: how many tokens of the block stay, 1..K"""


class Proposal(NamedTuple):
    """What a drafter thinks comes after the next token."""

    tokens: Tensor
    """int64 [B, K - 1]"""
    probabilities: Tensor | None = None
    """[B, K - 1, V], for acceptance rules that weigh them; None where the tokens are certain choices"""


class Drafter(Protocol):
    """Proposes the tokens of a block. Knows the model's hidden states, never its cache."""

    @property
    def block_size(self) -> int:
        """The largest block that can be proposed, p_1's own token included."""

    def start(self, source: TokenRows, max_length: int) -> None:
        """Begin with new rows, one a source, each of at most ``max_length`` tokens."""

    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        """``count`` (at least 1) tokens that come after ``following`` (int64 [B]).

        ``following`` is the certain next token, which comes after the last accepted token of ``verified``. A drafter
        with a memory of its own forgets what ``verified`` did not accept.
        """

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was (int64 [B'])."""


class Acceptance(Protocol):
    """The rule by which p_1 accepts what was proposed."""

    name: str
    """as it is written in configurations, such as ``exact`` or ``top-2``"""

    def decide(self, tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """How much of a block stays, and what comes after it.

        Args:
            tokens: int64 [B, K], the block; its first token is certain.
            logits: [B, K, V], p_1 of the token after each token.

        Returns:
            How many tokens are accepted, int64 [B], 1..K; and the next token, int64 [B], which p_1 gives after the
            last of them.
        """


@dataclass(frozen=True)
class DecodeResult:
    """What a decoder returns, rows in the order of the source."""

    tokens: Tensor
    """int64 [B, L], padded at the right; the end token is included where the row reached it"""
    lengths: Tensor
    """int64 [B]"""
    scores: Tensor | None
    """[B], float: of beam search, the log-probability of the row divided by its length penalty"""
    calls: Tensor
    """int64 [B]: decoder calls that each row took part in"""
    accepted: Tensor | None = None
    """int64 [B, I]: of blockwise decoding, the accepted block size of each iteration; 0 after a row's last one"""

    def rows(self) -> list[list[int]]:
        """The tokens of each row as Python integers, without padding."""
        return [row[:length] for row, length in zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)]
