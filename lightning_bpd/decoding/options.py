"""Options for decoding a model, and the function that follows them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from lightning_bpd.decoding.acceptance import parse_acceptance
from lightning_bpd.decoding.beam import beam_search
from lightning_bpd.decoding.blockwise import EXACT, blockwise
from lightning_bpd.decoding.compiled import compiled, obstacle
from lightning_bpd.decoding.jacobi import Guess, JacobiDrafter, row_length
from lightning_bpd.decoding.sequential import GREEDY, sequential
from lightning_bpd.interfaces import (
    DecodeResult,
    Drafter,
    InputError,
    Sampler,
    SequenceModel,
    State,
    TokenRows,
    check_range,
)

logger = logging.getLogger(__name__)

# When decoding is compiled.
Compile = Literal["auto", "always", "never"]
# Batches after which compiled calls have saved the time of compiling: about 10 ms a batch, and 20 s.
BATCHES_THAT_PAY = 2000
JACOBI_WINDOW = 8


@dataclass(frozen=True)
class DecodingOptions:
    """Options for decoding.

    Args:
        decoder: One token per call (greedy), the best of several prefixes (beam), or the tokens of ``greedy`` with
            several tokens per call: blockwise, for which a model needs a drafter, or jacobi, which needs nothing: its
            proposals are the model's own choices of the call before.
        beam: Prefixes that beam search keeps.
        alpha: Exponent of beam search's length penalty.
        extra_length: Tokens that an output may be longer than its source.
        block_size: The most tokens that a call verifies; null for as many as the drafter was trained for, and 8 for
            jacobi.
        acceptance: The rule that accepts proposals: exact; adaptive, which is exact but verifies only
            as many proposals as pay on this machine; top-N, distance-N, minimum-N or minimum-N+RULE.
        sampler: Chooses tokens: the most probable one by default; Sampled draws at random; or the import path of a
            Sampler of your own. Not for beam search.
        max_new_tokens: The most tokens of an output, whatever its source; replaces ``extra_length``.
        compile: Whether the calls of greedy and blockwise decoding are compiled, where they can be
            (``compiled.obstacle``): the same output, faster on CPUs; compiling takes about a quarter of a minute for
            each block size, once for each shape of model.
        guess: Of jacobi, what a position is taken for that no call has predicted yet: the token at its left, the token
            above it in an image, or a random one.
    """

    decoder: Literal["greedy", "beam", "blockwise", "jacobi"] = "greedy"
    beam: int = 4
    alpha: float = 0.6
    extra_length: int = 50
    block_size: int | None = None
    acceptance: str = "exact"
    sampler: Sampler = GREEDY
    max_new_tokens: int | None = None
    compile: bool = False
    guess: Guess = "left"

    def __post_init__(self) -> None:
        if self.decoder not in ("greedy", "beam", "blockwise", "jacobi"):
            raise InputError(f"unknown decoder {self.decoder!r}: choose greedy, beam, blockwise or jacobi")
        if self.decoder == "jacobi":
            check_range(2, block_size=self.block_size)
        check_range(1, 1000, beam=self.beam)
        check_range(0, 100, alpha=self.alpha)
        check_range(0, extra_length=self.extra_length)
        check_range(1, block_size=self.block_size, max_new_tokens=self.max_new_tokens)
        if self.decoder == "beam" and self.sampler != GREEDY:
            raise InputError(
                "beam search does not sample: choose decoder greedy or blockwise, or leave sampling out"
            )
        parse_acceptance(self.acceptance)

    def limits(self) -> DecodingOptions:
        """Return options for greedy decoding with the same limits of length, compiled like these."""
        return DecodingOptions(
            extra_length=self.extra_length, max_new_tokens=self.max_new_tokens, compile=self.compile
        )

    def extra(self, source: TokenRows) -> int | Tensor:
        """Return how many tokens each output may be longer than its source: a number, or int64 [B]."""
        return self.extra_length if self.max_new_tokens is None else self.max_new_tokens - source.lengths


def compiling(
    options: DecodingOptions,
    when: Compile,
    model: SequenceModel[State],
    drafter: Drafter | None,
    batches: float,
) -> DecodingOptions:
    """Return the options, with ``compile`` if decoding is to be compiled.

    Args:
        options: How to decode.
        when: auto is on a CPU, if compiling takes less time than it saves. If always is impossible, one line says why.
        model: The model that is decoded.
        drafter: Its drafter, if it has one.
        batches: How many batches there are to decode; at least so many.
    """
    if when == "never" or (when == "auto" and batches < BATCHES_THAT_PAY):
        return options
    reason: str | None = f"{options.decoder} is not written so"
    if options.decoder == "greedy":
        reason = obstacle(model, None)
    elif options.decoder == "blockwise":
        reason = obstacle(model, drafter, parse_acceptance(options.acceptance))
    if reason is not None:
        logger.log(
            logging.WARNING if when == "always" else logging.INFO, "Decoding is not compiled: %s", reason
        )
        return options
    return replace(options, compile=True)


def decode(
    model: SequenceModel[State],
    source: TokenRows,
    options: DecodingOptions,
    drafter: Drafter | None = None,
    rows: Tensor | None = None,
) -> DecodeResult:
    """Decode a batch as ``options`` say.

    Args:
        model: Any SequenceModel, in eval mode.
        source: The rows to decode from, int64 [B, S] and [B], on the model's device.
        options: How to decode.
        drafter: Proposes the tokens of a block, for blockwise decoding.
        rows: int64 [B], the number of each row in its corpus, which selects the noise of sampling; 0..B-1 by default.

    Raises:
        InputError: Blockwise decoding has no drafter, or its block is larger than the drafter's.
    """
    extra = options.extra(source)
    if options.decoder == "greedy":
        if options.compile and obstacle(model, None) is None:
            greedy = compiled(model, None, source, 1, EXACT, extra, options.sampler, rows)
            return replace(greedy, accepted=None)
        return sequential(model, source, extra, options.sampler, rows)
    if options.decoder == "beam":
        return beam_search(model, source, options.beam, options.alpha, extra)
    if options.decoder == "jacobi":
        drafter = JacobiDrafter(options.block_size or JACOBI_WINDOW, options.guess, row_length(model))
    if drafter is None:
        raise InputError(
            "this model has no block heads, which blockwise decoding needs: choose greedy or beam"
        )
    block_size = drafter.block_size if options.block_size is None else options.block_size
    acceptance = parse_acceptance(options.acceptance)
    compiles = options.compile and obstacle(model, drafter, acceptance) is None
    return (compiled if compiles else blockwise)(
        model, drafter, source, block_size, acceptance, extra, options.sampler, rows
    )
