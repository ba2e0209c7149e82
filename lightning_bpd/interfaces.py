"""The words that decoding, models, tasks and training share (floor 0).

Shape legend, used in every docstring: B rows, S source length, T tokens fed in one call, L output length,
K block size, I iterations, V vocabulary size, D model width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


class InputError(ValueError):
    """Something that the user gave is wrong. The message says what, where, and what to do about it.

    The command line prints it as one line, without a traceback, and exits with 2.
    """


# More of anything that is counted on the command line is a slip of the keyboard.
MOST = 1_000_000


def check_range(least: int, most: int = MOST, **values: float | None) -> None:
    """Raise InputError, naming the option, for a value that is not from ``least`` to ``most``; None is not given."""
    for name, value in values.items():
        if value is not None and not least <= value <= most:
            bound = f"at least {least}" if value < least else f"at most {most:,}"
            raise InputError(f"{name} must be {bound}, not {value}")


class TokenRows(NamedTuple):
    """Rows of token ids, padded at the right. What lies past a row's length is never looked at."""

    tokens: Tensor
    """int64 [B, L]"""
    lengths: Tensor
    """int64 [B], each at least 1"""


class Grid(NamedTuple):
    """The size of images, and of the small images from which they are made."""

    height: int
    width: int
    channels: int
    levels: int
    scale: int
    """height and width of an image over those of the small one"""


class Vocabularies(NamedTuple):
    """All that a network knows of its tokens."""

    source_vocabulary: int
    target_vocabulary: int
    bos_id: int
    """fed as the first token of every target row"""
    eos_id: int | None = None
    """ends a target row; None if no token does"""
    image: Grid | None = None
    """the size of images, if tokens are intensities"""
    grid: tuple[int, ...] | None = None
    """the sides of a grid of tokens that is generated for a class: height, width, and depth if a place has several"""


class ParallelBatch(NamedTuple):
    """A batch of sentence pairs. Both sides end with their end token; neither starts with a start token."""

    source: TokenRows
    target: TokenRows
    index: Tensor  # type: ignore[assignment]
    """int64 [B], the position of each pair in its corpus"""

    @property
    def target_tokens(self) -> Tensor:
        """The number of target tokens, a scalar."""
        return self.target.lengths.sum()


class LabelledTokens(NamedTuple):
    """A batch of images as tokens, each with the label of its class."""

    labels: Tensor
    """int64 [B], 0 to the number of classes - 1"""
    tokens: Tensor
    """int64 [B, N], the tokens of each image's grid in raster order"""
    index: Tensor  # type: ignore[assignment]
    """int64 [B], the position of each image in its part of the data"""

    @property
    def target_tokens(self) -> Tensor:
        """The number of target tokens, a scalar."""
        return self.labels.new_tensor(self.tokens.numel())


class Memory(NamedTuple):
    """What a model computed of each source before the first token of its row.

    Of an encoder-decoder, these are the states of the encoder. Of a decoder-only model, these are the hidden states of
    the prompt, without its last token.
    """

    states: Tensor
    """[B, S, D]; S may be 0"""
    inside: Tensor | None
    """bool [B, S], which states are no padding; None if all are"""
    tokens: Tensor | None = None
    """int64 [B, S], the token of the prompt that follows each state; None for an encoder-decoder"""


class Reading(NamedTuple):
    """What a model computed of whole rows in one teacher-forced call."""

    hidden: Tensor
    """[B, T, D], the hidden state before each target token"""
    memory: Memory


class DecodeState(Protocol):
    """What a model remembers of each row between two calls: encoded source and key-value cache."""

    @property
    def memory(self) -> Memory:
        """What the model computed of the source of each row; as it was at the start, before any ``reorder``."""

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tokens that each row's cache holds."""

    def rewind(self, lengths: Tensor) -> None:
        """Forget all past ``lengths[b]`` (int64 [B], on any device, at most the current lengths), without copying."""

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was (int64 [B']): keeps, repeats or drops rows."""


State = TypeVar("State", bound=DecodeState)


class StaticState(DecodeState, Protocol):
    """A state whose tensors can be given to a compiled function.

    Models (``StaticModel``) and drafters whose attribute ``compiles`` is true have such a state; a drafter may have
    none, or has it as the attribute ``state`` once it has started.
    """

    def tensors(self) -> list[Tensor]:
        """Return all tensors that the state holds, in an order of its own; the rows' lengths aside.

        Caches have five dimensions, [2, B, H, capacity, width], and change in place; the others hold what the model
        computed of the sources, [B, H, S, width], or bool [B, 1, 1, S].
        """

    def with_tensors(self, tensors: Sequence[Tensor]) -> StaticState:
        """Return a state that holds these tensors. Its lengths are those that ``rewind`` gives, on the device."""


class StaticModel(Protocol):
    """A model whose calls can be compiled: its attribute ``compiles`` is true, and its states are static."""

    def encoded(self, source: TokenRows) -> list[Tensor]:
        """Compute what does not depend on decoded tokens: all of ``start`` that is worth compiling.

        When it is compiled, several rows are taken for padded, a single row for unpadded.
        """

    def start(
        self, source: TokenRows, rows: Tensor | None, max_length: int, encode: Encode | None = None
    ) -> StaticState:
        """Begin rows (SequenceModel.start); ``encode`` takes the place of ``encoded``."""


# Takes a model and sources; returns what the model's ``encoded`` returns.
Encode: TypeAlias = "Callable[[StaticModel, TokenRows], list[Tensor]]"


class SequenceModel(Protocol[State]):
    """All that decoding knows of a model."""

    bos_id: int
    """fed as the first token of every row"""

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a row; empty if no token does, and every row then has ``max_length`` tokens."""

    @property
    def max_length(self) -> int | None:
        """The longest row that the model can decode, in tokens; None if there is no limit."""

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> State:
        """Encode each source once and preallocate a cache for ``max_length`` tokens per row.

        ``max_length`` may exceed ``SequenceModel.max_length``: blocks are fed whole, and tokens past the end of a row
        are dropped.

        ``rows`` (int64 [B]) is the index of the source of each decoded row; None means one row per source, in order.
        """

    def step(self, tokens: Tensor, state: State) -> Tensor:
        """Append ``tokens`` (int64 [B, T], any T >= 1) to the rows; returns their hidden states [B, T, D].

        Outputs of other layers may follow in the last dimension, for a drafter that reads them.
        """

    def project(self, hidden: Tensor) -> Tensor:
        """Map hidden states [..., D], what follows them aside, to logits [..., V]: the shared vocabulary projection."""


class Sampler(ABC):
    """Turns logits into tokens, for the model and for its drafter alike.

    Configurations name a sampler of your own, a subclass, by its import path.

    The chosen token is the argmax of ``scores``. For greedy decoding the scores are the logits. For sampling they are
    transformed logits plus noise that depends on the seed, the row, the position and the token id only. So every
    decoder that feeds the same prefix chooses the same token, however many tokens it feeds in one call.

    In all methods the last dimension of ``logits`` stands for the tokens 0..V-1, or for the tokens whose ids are
    given as ``tokens`` (int64 [C]).
    """

    @abstractmethod
    def scores(self, logits: Tensor, positions: Tensor, rows: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return the scores whose argmax is chosen, [B, T, V].

        Args:
            logits: [B, T, V].
            positions: int64 [B], the position in its row of the token that ``logits[b, 0]`` predicts;
                ``logits[b, t]`` predicts position ``positions[b] + t``.
            rows: int64 [B], the number of each row in its corpus, which selects its noise.
            tokens: int64 [V], the token id of each column, if the columns are not the whole vocabulary in order.
        """

    @abstractmethod
    def choose(self, logits: Tensor, positions: Tensor, rows: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return the chosen token ids, int64 [B, T]. Arguments as for ``scores``."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor | None:
        """Return the distribution that is sampled from, [..., V] like ``logits``; None if nothing is random."""


class Block(NamedTuple):
    """The tokens that one model call verifies."""

    tokens: Tensor
    """int64 [B, K]; the first token is certain, since the model chose it, and the others are proposals"""
    positions: Tensor
    """int64 [B], the position in its row of the token that follows the block's first token"""
    rows: Tensor
    """int64 [B], the number of each row in its corpus"""
    probabilities: Tensor | None = None
    """[B, K - 1, V], the distributions that the proposals were drawn from; None if they were not drawn"""


class VerifiedBlock(NamedTuple):
    """One model call over a block of every row, and how much of it was accepted."""

    tokens: Tensor
    """int64 [B, K], the tokens of the block"""
    positions: Tensor
    """int64 [B], the position in its row of the token that follows the block's first token"""
    rows: Tensor
    """int64 [B], the number of each row in its corpus"""
    hidden: Tensor
    """[B, K, D], the model's hidden state at each token"""
    logits: Tensor
    """[B, K, V], p_1's logits for the token after each token"""
    choices: Tensor
    """int64 [B, K], the sampler's choice of the token after each token"""
    accepted: Tensor
    """int64 [B], how many tokens of the block stay, 1..K"""


class Proposal(NamedTuple):
    """Tokens that a drafter proposes to follow the certain next token."""

    tokens: Tensor
    """int64 [B, n]; n is at most the number that was asked for"""
    probabilities: Tensor | None = None
    """[B, n, V], the distributions that the tokens were drawn from; None if they were not drawn"""
    confidence: Callable[[], Tensor] | None = None
    """returns [B, n], the estimated probability that each token is accepted if those before it are; None if unknown"""


class Drafter(Protocol):
    """Proposes the tokens of a block. It sees the model's hidden states and its memory, never its cache."""

    @property
    def block_size(self) -> int:
        """The largest block that can be proposed, p_1's own token included."""

    def start(self, source: TokenRows, max_length: int, sampler: Sampler, memory: Memory) -> None:
        """Begin with new rows, one per source, each of at most ``max_length`` tokens.

        Proposals are chosen by ``sampler``, with the noise of their own positions. ``memory`` is what the model
        computed of each source.
        """

    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        """Propose at most ``count`` (at least 1) tokens that come after ``following`` (int64 [B]).

        ``following`` is the certain next token, which comes after the last accepted token of ``verified``. A drafter
        with a memory of its own forgets the tokens that were not accepted.
        """

    def reorder(self, rows: Tensor) -> None:
        """Let row i become what row ``rows[i]`` was (int64 [B'])."""


@runtime_checkable
class ReplayableDrafter(Drafter, Protocol):
    """A drafter whose proposals depend on one hidden state and the certain token only, such as block heads.

    Its accepted block sizes can be computed from one teacher-forced call (``decoding.replay``).
    """

    def proposals(
        self, hidden: Tensor, following: Tensor, positions: Tensor, rows: Tensor, count: int
    ) -> Proposal:
        """Propose ``count`` tokens after the certain one.

        Args:
            hidden: [N, D], the hidden state of the last accepted token.
            following: int64 [N], the certain token.
            positions: int64 [N], the position of the certain token in its row.
            rows: int64 [N], the number of its row in the corpus.
            count: How many tokens to propose, at least 1.
        """


class Decision(NamedTuple):
    """How much of a block an acceptance rule lets stand."""

    accepted: Tensor
    """int64 [B], how many tokens stay, 1..K"""
    following: Tensor
    """int64 [B], the certain token that comes after the last accepted one"""


class Acceptance(Protocol):
    """The rule by which p_1 accepts proposals."""

    @property
    def name(self) -> str:
        """The rule as it is written in configurations, such as ``exact`` or ``top-2``."""

    @property
    def ordinal(self) -> bool:
        """Whether the rule compares token ids as numbers, which only makes sense for values that have an order."""

    def decide(self, block: Block, logits: Tensor, choices: Tensor) -> Decision:
        """Decide how many tokens of a block stay, and which token follows them.

        Args:
            block: The block, of K tokens per row.
            logits: [B, K, V], p_1's logits for the token after each token of the block.
            choices: int64 [B, K], the sampler's choice of the token after each token of the block.
        """


class CanvasModel(Protocol):
    """A model that predicts tokens of a grid, the canvas, in some order, several of them in a pass."""

    grid: tuple[int, ...]
    """the sides of the canvas, of N cells"""

    def begin(self, source: TokenRows) -> Any:
        """Start canvases of which nothing is known, one for each source. The state is the model's own."""

    def predict(self, canvas: Tensor, positions: Tensor, state: Any) -> Tensor:
        """Predict some cells, given all cells that were predicted in earlier passes.

        Args:
            canvas: int64 [B, N], the tokens in raster order; -1 where none is known yet, or none was kept.
            positions: int64 [B, Q], the cells to predict in this pass.
            state: What ``begin`` returned; each pass moves it on.

        Returns:
            Logits, [B, Q, V].

        Raises:
            InputError: The model was not trained to fill the canvas in this order, or needs all predictions of earlier
                passes, and the plan did not keep them.
        """


class Plan(Protocol):
    """Which cells of a canvas each pass predicts, and which of its predictions stay."""

    def positions(self, known: Tensor, number: int) -> Tensor | None:
        """Return the cells that pass ``number`` (from 0) predicts, int64 [B, Q]; None if there is no such pass.

        ``known`` tells which cells were predicted and kept so far, bool [B, N].
        """

    def keep(self, tokens: Tensor, logits: Tensor, number: int) -> Tensor:
        """Return which predictions of a pass stay, bool [B, Q], by its tokens [B, Q] and logits [B, Q, V]."""


@dataclass(frozen=True)
class Costs:
    """Seconds of the parts of decoding one batch by blocks of at most k tokens."""

    start: float
    """of encoder and cache"""
    call: list[float]
    """one cached call over 1..k tokens, with p_1's projection and decision, as the loop waits for it"""
    propose: list[float]
    """0..k - 1 proposals"""


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
    passes: Tensor | None = None
    """int64 [B, L]: of a canvas, the number of the pass, from 0, that each token was fixed in"""

    def rows(self) -> list[list[int]]:
        """The tokens of each row as Python integers, without padding."""
        return [row[:length] for row, length in zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)]
