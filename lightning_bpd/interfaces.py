"""The words that decoding, models, tasks and training share (floor 0).

Shape legend, used in every docstring: B rows, S source length, T tokens fed in one call, L output length,
K block size, V vocabulary size, D model width.
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
        """Forget all past ``lengths[b]`` (int64 [B], at most the current lengths), per row, without copying."""

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was (int64 [B']): keeps, repeats or drops rows."""


State = TypeVar("State", bound=DecodeState)


class SequenceModel(Protocol[State]):
    """All that decoding knows of a model."""

    bos_id: int
    """fed as the first token of every row"""
    eos_id: int
    """ends a row"""

    @property
    def max_length(self) -> int | None:
        """The longest row that the model can decode, in tokens; None where there is no limit."""

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> State:
        """Encode each source once and preallocate a cache for ``max_length`` tokens a row.

        ``rows`` (int64 [B]) names the source row that each decoded row belongs to; None means one row a
        source, in order.
        """

    def step(self, tokens: Tensor, state: State) -> Tensor:
        """Append ``tokens`` (int64 [B, T], any T >= 1) to the rows; returns their hidden states [B, T, D]."""

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to logits [..., V]: the shared vocabulary projection."""


@dataclass(frozen=True)
class DecodeResult:
    """What a decoder returns, rows in the order of the source."""

    tokens: Tensor
    """int64 [B, L], padded at the right; the end token is included where the row reached it"""
    lengths: Tensor
    """int64 [B]"""
    scores: Tensor | None
    """[B], float: of beam search, the log-probability of the row divided by its length penalty"""
    calls: int
    """decoder calls made for the whole batch"""

    def rows(self) -> list[list[int]]:
        """The tokens of each row as Python integers, without padding."""
        return [row[:length] for row, length in zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)]
