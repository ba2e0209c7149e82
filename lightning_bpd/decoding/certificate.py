"""Whether blockwise decoding gave what greedy decoding gives, and if not, why."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from lightning_bpd.interfaces import DecodeResult, SequenceModel, State, TokenRows


class Verdict(NamedTuple):
    """How one row of blockwise output compares with greedy's."""

    kind: Literal["identical", "near-tie", "divergent"]
    place: int | None = None
    """the first token that differs, counted from 0; None where the rows are identical"""
    margin: float | None = None
    """by how much p_1's best logit there exceeds that of the worse of the two tokens"""
    allowed: float | None = None
    """the margin up to which rounding explains the difference"""


@torch.inference_mode()
def compare(
    model: SequenceModel[State],
    source: TokenRows,
    greedy_result: DecodeResult,
    blockwise_result: DecodeResult,
    bound: float = 256.0,
) -> list[Verdict]:
    """One verdict a row.

    A call over k tokens may round otherwise than k calls over one, and so turn a near-tie of p_1's best logits. Where
    two rows part, p_1's logits after what they have in common are computed once more, in one call. The row is a
    near-tie if both tokens are within ``bound`` times the rounding unit of the best logit, else it is divergent.

    Args:
        model: The model that both were decoded with, in eval mode.
        source: What was decoded from, int64 [B, S] and [B], on the model's device.
        greedy_result: Greedy's output.
        blockwise_result: Blockwise output by the exact rule, with the same limits.
        bound: Rounding units, each the epsilon of the logits' dtype times the best logit or 1, whichever is more.
            The default is meant for float32 and float64; in bfloat16, of 8 bits, it would excuse any difference.
    """
    pairs = list(zip(greedy_result.rows(), blockwise_result.rows(), strict=True))
    verdicts = [Verdict("identical")] * len(pairs)
    parted = [row for row, (one, other) in enumerate(pairs) if one != other]
    if not parted:
        return verdicts
    places = [_first_difference(*pairs[row]) for row in parted]
    prefixes = [pairs[row][0][:place] for row, place in zip(parted, places, strict=True)]
    logits = _logits_after(model, source, parted, prefixes)
    best = logits.max(-1).values
    unit = torch.finfo(logits.dtype).eps
    for index, (row, place) in enumerate(zip(parted, places, strict=True)):
        one, other = pairs[row]
        allowed = bound * unit * max(abs(float(best[index])), 1.0)
        # One row that goes on where the other stopped broke a rule of lengths, which no rounding explains.
        margin = float("inf")
        if place < min(len(one), len(other)):
            margin = float(best[index] - logits[index, [one[place], other[place]]].min())
        verdicts[row] = Verdict("near-tie" if margin <= allowed else "divergent", place, margin, allowed)
    return verdicts


def _first_difference(one: list[int], other: list[int]) -> int:
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


def _logits_after(
    model: SequenceModel[State], source: TokenRows, rows: list[int], prefixes: list[list[int]]
) -> torch.Tensor:
    """p_1's logits after each prefix of those rows of the source, [N, V]."""
    device = source.lengths.device
    which = torch.tensor(rows, device=device)
    last = torch.tensor([len(prefix) for prefix in prefixes], device=device)
    fed = torch.full((len(rows), int(last.max()) + 1), model.bos_id)
    for index, prefix in enumerate(prefixes):
        fed[index, 1 : len(prefix) + 1] = torch.tensor(prefix, dtype=torch.long)
    state = model.start(TokenRows(source.tokens[which], source.lengths[which]), None, fed.size(1))
    hidden = model.step(fed.to(device), state)
    return model.project(hidden[torch.arange(len(rows), device=device), last])
