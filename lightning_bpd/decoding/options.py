"""Options for decoding a model, and the function that follows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lightning_bpd.decoding.acceptance import parse_acceptance
from lightning_bpd.decoding.beam import beam_search
from lightning_bpd.decoding.blockwise import blockwise
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


@dataclass(frozen=True)
class DecodingOptions:
    """Options for decoding.

    Args:
        decoder: One token per call (greedy), the best of several prefixes (beam), or the tokens of ``greedy`` with
            several tokens per call (blockwise), for which a model needs a drafter.
        beam: Prefixes that beam search keeps.
        alpha: Exponent of beam search's length penalty.
        extra_length: Tokens that an output may be longer than its source.
        block_size: The most tokens that a blockwise call verifies; null for as many as the drafter was trained for.
        acceptance: The rule that accepts proposals: exact; adaptive, which is exact but verifies only
            as many proposals as pay on this machine; top-N, distance-N, minimum-N or minimum-N+RULE.
        sampler: Chooses tokens: the most probable one by default; Sampled draws at random; or the import path of a
            Sampler of your own. Not for beam search.
        max_new_tokens: The most tokens of an output, whatever its source; replaces ``extra_length``.
    """

    decoder: Literal["greedy", "beam", "blockwise"] = "greedy"
    beam: int = 4
    alpha: float = 0.6
    extra_length: int = 50
    block_size: int | None = None
    acceptance: str = "exact"
    sampler: Sampler = GREEDY
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.decoder not in ("greedy", "beam", "blockwise"):
            raise InputError(f"unknown decoder {self.decoder!r}: choose greedy, beam or blockwise")
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
        """Return options for greedy decoding with the same limits of length."""
        return DecodingOptions(extra_length=self.extra_length, max_new_tokens=self.max_new_tokens)

    def extra(self, source: TokenRows) -> int | Tensor:
        """Return how many tokens each output may be longer than its source: a number, or int64 [B]."""
        return self.extra_length if self.max_new_tokens is None else self.max_new_tokens - source.lengths


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
        return sequential(model, source, extra, options.sampler, rows)
    if options.decoder == "beam":
        return beam_search(model, source, options.beam, options.alpha, extra)
    if drafter is None:
        raise InputError(
            "this model has no block heads, which blockwise decoding needs: choose greedy or beam"
        )
    block_size = drafter.block_size if options.block_size is None else options.block_size
    acceptance = parse_acceptance(options.acceptance)
    return blockwise(model, drafter, source, block_size, acceptance, extra, options.sampler, rows)
