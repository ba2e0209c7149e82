"""Decoding: algorithms that see a model through its contract only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_bpd.decoding.acceptance import Distance, Exact, MinimumBlock, TopK, parse_acceptance
from lightning_bpd.decoding.beam import beam_search
from lightning_bpd.decoding.blockwise import blockwise
from lightning_bpd.decoding.certificate import Verdict, compare
from lightning_bpd.decoding.greedy import greedy
from lightning_bpd.decoding.replay import replay
from lightning_bpd.interfaces import DecodeResult, Drafter, InputError, SequenceModel, State, TokenRows

__all__ = [
    "DecodingOptions",
    "Distance",
    "Exact",
    "MinimumBlock",
    "TopK",
    "Verdict",
    "beam_search",
    "blockwise",
    "compare",
    "decode",
    "greedy",
    "parse_acceptance",
    "replay",
]


@dataclass(frozen=True)
class DecodingOptions:
    """How a model's output is searched for.

    Args:
        decoder: The most probable token at each step (greedy), the best of several prefixes (beam), or what greedy
            finds by several tokens a model call (blockwise), for which a model needs block heads.
        beam: Prefixes that beam search keeps.
        alpha: Exponent of beam search's length penalty.
        extra_length: Tokens that an output may be longer than its source.
        block_size: Tokens that a blockwise call verifies; null for as many as the heads were trained for.
        acceptance: Which of them blockwise decoding accepts: exact, top-N, distance-N, minimum-N or minimum-N+RULE.
    """

    decoder: Literal["greedy", "beam", "blockwise"] = "greedy"
    beam: int = 4
    alpha: float = 0.6
    extra_length: int = 50
    block_size: int | None = None
    acceptance: str = "exact"

    def __post_init__(self) -> None:
        if self.decoder not in ("greedy", "beam", "blockwise"):
            raise InputError(f"unknown decoder {self.decoder!r}: choose greedy, beam or blockwise")
        if self.beam < 1 or self.alpha < 0 or self.extra_length < 0:
            raise InputError(f"beam must be at least 1, alpha and extra_length at least 0, not {self}")
        if self.block_size is not None and self.block_size < 1:
            raise InputError(f"block_size must be at least 1, not {self.block_size}")
        parse_acceptance(self.acceptance)


def decode(
    model: SequenceModel[State],
    source: TokenRows,
    options: DecodingOptions,
    drafter: Drafter | None = None,
) -> DecodeResult:
    """Decode a batch as ``options`` say.

    Args:
        model: Any SequenceModel, in eval mode.
        source: What to decode from, int64 [B, S] and [B], on the model's device.
        options: How.
        drafter: What proposes the tokens of a block, for blockwise decoding.

    Raises:
        InputError: Blockwise decoding without a drafter, or with a larger block than it can propose.
    """
    if options.decoder == "greedy":
        return greedy(model, source, options.extra_length)
    if options.decoder == "beam":
        return beam_search(model, source, options.beam, options.alpha, options.extra_length)
    if drafter is None:
        raise InputError(
            "this model has no block heads, which blockwise decoding needs: choose greedy or beam"
        )
    block_size = drafter.block_size if options.block_size is None else options.block_size
    acceptance = parse_acceptance(options.acceptance)
    return blockwise(model, drafter, source, block_size, acceptance, options.extra_length)
