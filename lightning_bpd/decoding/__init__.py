"""Decoding: algorithms that see a model through its contract only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_bpd.decoding.beam import beam_search
from lightning_bpd.decoding.greedy import greedy
from lightning_bpd.interfaces import DecodeResult, InputError, SequenceModel, State, TokenRows

__all__ = ["DecodingOptions", "beam_search", "decode", "greedy"]


@dataclass(frozen=True)
class DecodingOptions:
    """How a model's output is searched for.

    Args:
        decoder: The most probable token at each step (greedy), or the best of several prefixes (beam).
        beam: Prefixes that beam search keeps.
        alpha: Exponent of beam search's length penalty.
        extra_length: Tokens that an output may be longer than its source.
    """

    decoder: Literal["greedy", "beam"] = "greedy"
    beam: int = 4
    alpha: float = 0.6
    extra_length: int = 50

    def __post_init__(self) -> None:
        if self.decoder not in ("greedy", "beam"):
            raise InputError(f"unknown decoder {self.decoder!r}: choose greedy or beam")
        if self.beam < 1 or self.alpha < 0 or self.extra_length < 0:
            raise InputError(f"beam must be at least 1, alpha and extra_length at least 0, not {self}")


def decode(model: SequenceModel[State], source: TokenRows, options: DecodingOptions) -> DecodeResult:
    """Decode a batch as ``options`` say."""
    if options.decoder == "greedy":
        return greedy(model, source, options.extra_length)
    return beam_search(model, source, options.beam, options.alpha, options.extra_length)
