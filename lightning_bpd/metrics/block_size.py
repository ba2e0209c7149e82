"""Accepted block sizes and savings of blockwise decoding, exact on any number of processes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_bpd.interfaces import DecodeResult


def count_accepted_sizes(accepted: Tensor, block_size: int) -> Tensor:
    """Count the iterations that accepted 1, 2, ... tokens.

    Args:
        accepted: int64 [B, I], the accepted block size of each iteration; 0 after a row's last one.
        block_size: K, the most tokens that an iteration can accept.

    Returns:
        int64 [K + 1], indexed by size. Every iteration accepts a token, so the count at 0 is 0.
    """
    return torch.bincount(accepted[accepted > 0], minlength=block_size + 1)


def mean_accepted_block_size(counts: Tensor) -> float:
    """Divide accepted tokens by iterations, from counts by size (int64 [K + 1]); NaN without an iteration."""
    tokens = sum(size * count for size, count in enumerate(counts.tolist()))
    return _ratio(tokens, int(counts.sum()))


def shares(counts: Tensor) -> list[float]:
    """Compute the share of iterations that accepted exactly 0, 1, ..., K tokens, from counts by size."""
    total = int(counts.sum())
    return [_ratio(count, total) for count in counts.tolist()]


def shares_at_least(counts: Tensor) -> list[float]:
    """Compute the share of iterations that accepted at least 0, ..., K tokens: acceptance by position in the block."""
    total = int(counts.sum())
    return [_ratio(int(counts[size:].sum()), total) for size in range(len(counts))]


def equal_rows(one: DecodeResult, other: DecodeResult) -> Tensor:
    """Compare two results row by row, token for token, bool [B]."""
    width = min(one.tokens.size(1), other.tokens.size(1))
    positions = torch.arange(width, device=one.tokens.device)
    equal = (one.tokens[:, :width] == other.tokens[:, :width]) | (positions >= one.lengths[:, None])
    return equal.all(1) & (one.lengths == other.lengths)


class AcceptedSizes(Metric):
    """Iterations by accepted block size, over all rows of all ranks.

    Args:
        block_size: K, the most tokens that an iteration can accept.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, block_size: int) -> None:
        super().__init__()
        self.block_size = block_size
        self.add_state("counts", torch.zeros(block_size + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, accepted: Tensor) -> None:
        """Add the accepted block sizes of a batch, int64 [B, I], 0 after a row's last iteration."""
        # Never in place: spawned ranks start with states that share their memory.
        self.counts = self.counts + count_accepted_sizes(accepted, self.block_size).to(self.counts.device)

    def compute(self) -> Tensor:
        """Return int64 [K + 1], indexed by size."""
        return self.counts


class Comparison(NamedTuple):
    """Blockwise decoding compared with greedy decoding of the same rows with the same p_1; NaN without rows."""

    greedy_agreement: float
    """share of rows with equal tokens, 0-1"""
    model_calls: float
    """calls of blockwise decoding per row"""
    iteration_reduction: float
    """greedy's model calls over blockwise's"""
    speedup: float
    """greedy's wall-clock time over blockwise's"""


class GreedyComparison(Metric):
    """Savings of blockwise decoding against greedy decoding, over all rows of all ranks."""

    full_state_update = False
    rows: Tensor
    equal: Tensor
    calls: Tensor
    greedy_calls: Tensor
    nanoseconds: Tensor
    greedy_nanoseconds: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("rows", "equal", "calls", "greedy_calls", "nanoseconds", "greedy_nanoseconds"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self, result: DecodeResult, greedy: DecodeResult, nanoseconds: int, greedy_nanoseconds: int
    ) -> None:
        """Add a batch that was decoded both ways, and the wall-clock time of each decoding."""
        self.rows = self.rows + len(result.lengths)
        self.equal = self.equal + equal_rows(result, greedy).sum()
        self.calls = self.calls + result.calls.sum()
        self.greedy_calls = self.greedy_calls + greedy.calls.sum()
        self.nanoseconds = self.nanoseconds + nanoseconds
        self.greedy_nanoseconds = self.greedy_nanoseconds + greedy_nanoseconds

    def compute(self) -> Comparison:
        """Return the ratios of the sums."""
        rows, calls = int(self.rows), int(self.calls)
        return Comparison(
            greedy_agreement=_ratio(int(self.equal), rows),
            model_calls=_ratio(calls, rows),
            iteration_reduction=_ratio(int(self.greedy_calls), calls),
            speedup=_ratio(int(self.greedy_nanoseconds), int(self.nanoseconds)),
        )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
