"""Check that blockwise output equals greedy output, or explain the differences."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_bpd.decoding.sequential import GREEDY
from lightning_bpd.interfaces import DecodeResult, Sampler, SequenceModel, State, TokenRows


class Verdict(NamedTuple):
    """The comparison of one blockwise row with its greedy row."""

    kind: Literal["identical", "near-tie", "divergent"]
    place: int | None = None
    """index of the token that decides, from 0: the first that rounding does not explain, or if rounding explains all of
    them, the first that differs from the greedy row; None if the rows are identical"""
    margin: float | None = None
    """p_1's best logit at this index minus the token's logit; at the first difference, the lower of both logits"""
    allowed: float | None = None
    """the largest margin that rounding explains"""


@torch.inference_mode()
def compare(
    model: SequenceModel[State],
    source: TokenRows,
    greedy_result: DecodeResult,
    blockwise_result: DecodeResult,
    bound: float = 256.0,
    sampler: Sampler = GREEDY,
    rows: Tensor | None = None,
) -> list[Verdict]:
    """Compare blockwise rows with rows decoded one token per call; return one verdict for each.

    A call over k tokens may round differently from k calls over one token, and so decide a near-tie of p_1's best
    logits differently. Rows that differ are checked against p_1 again, in one call over the blockwise row. For sampled
    rows, p_1's perturbed logits replace its logits. A row is a near-tie if the greedy and the blockwise token at the
    first difference, and every later token of the blockwise row, have a logit within ``bound`` rounding units of the
    best one after the same prefix. Otherwise it is divergent. A row is divergent, too, if it continues after its end
    token or the length limit, or stops before both.

    Args:
        model: The model that decoded both results, in eval mode.
        source: The decoded sources, int64 [B, S] and [B], on the model's device.
        greedy_result: Output of ``sequential``.
        blockwise_result: Blockwise output by the exact rule, with the same limits, sampler and rows.
        bound: Rounding units, each the epsilon of the logits' dtype times the larger of the best logit and 1. The
            default is for float32 and float64; in bfloat16, of 8 bits, it would excuse any difference.
        sampler: The sampler of both results.
        rows: int64 [B], the number of each row in its corpus; 0..B-1 by default.
    """
    numbers = torch.arange(len(source.lengths), device=source.lengths.device) if rows is None else rows
    pairs = list(zip(greedy_result.rows(), blockwise_result.rows(), strict=True))
    verdicts = [Verdict("identical")] * len(pairs)
    different = [row for row, (expected, decoded) in enumerate(pairs) if expected != decoded]
    if not different:
        return verdicts
    hidden = _hidden(model, source, different, [pairs[row][1] for row in different])
    for row, states in zip(different, hidden, strict=True):
        expected, decoded = pairs[row]
        shorter = min(len(expected), len(decoded))
        first = next((index for index in range(shorter) if expected[index] != decoded[index]), shorter)
        logits = model.project(states[first : len(decoded) + 1])
        unit = torch.finfo(logits.dtype).eps
        start = torch.full_like(numbers[:1], first)
        logits = sampler.scores(logits[None], start, numbers[row : row + 1])[0]
        best = logits.max(-1).values
        allowed = bound * unit * best.abs().clamp(min=1.0)
        # The row's end has the last margin.
        tokens = torch.tensor([*decoded[first:], 0], device=logits.device)
        margins = best - logits.gather(1, tokens[:, None]).squeeze(1)
        margins[-1] = 0.0 if _may_end(model.ends, expected, decoded) else torch.inf
        other = best[0] - logits[0, expected[first]] if first < shorter else torch.inf
        margins[0] = margins[0].clamp(min=other)
        # NaN is divergent, too.
        unexplained = (~(margins <= allowed)).nonzero().flatten().tolist()
        index = unexplained[0] if unexplained else 0
        verdicts[row] = Verdict(
            "divergent" if unexplained else "near-tie",
            first + index,
            float(margins[index]),
            float(allowed[index]),
        )
    return verdicts


def _may_end(ends: frozenset[int], expected: list[int], decoded: list[int]) -> bool:
    """Whether a row ends with its first end token or at the length limit, as far as the greedy row shows the limit.

    A greedy row without an end token is as long as the limit; other greedy rows are not longer.
    """
    if ends.intersection(decoded[:-1]):
        return False
    limited = expected[-1] not in ends
    long_enough = decoded[-1] in ends or len(decoded) >= len(expected)
    return long_enough and not (limited and len(decoded) > len(expected))


def _hidden(
    model: SequenceModel[State], source: TokenRows, numbers: list[int], rows: list[list[int]]
) -> torch.Tensor:
    """Compute hidden states [N, L + 1, D] after the start token and after each token of ``rows``, padded."""
    device = source.lengths.device
    indices = torch.tensor(numbers, device=device)
    fed = pad_sequence([torch.tensor([model.bos_id, *row]) for row in rows], batch_first=True).to(device)
    state = model.start(TokenRows(source.tokens[indices], source.lengths[indices]), None, fed.size(1))
    return model.step(fed, state)
