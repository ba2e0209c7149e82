"""Accepted block sizes and savings of blockwise decoding, exact on any number of processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bpd.interfaces import DecodeResult
from lightning_bpd.metrics.sums import Sums, ratio


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
    return ratio(tokens, int(counts.sum()))


def shares(counts: Tensor) -> list[float]:
    """Compute the share of iterations that accepted exactly 0, 1, ..., K tokens, from counts by size."""
    total = int(counts.sum())
    return [ratio(count, total) for count in counts.tolist()]


def shares_at_least(counts: Tensor) -> list[float]:
    """Compute the share of iterations that accepted at least 0, ..., K tokens: acceptance by position in the block."""
    total = int(counts.sum())
    return [ratio(int(counts[size:].sum()), total) for size in range(len(counts))]


def equal_rows(one: DecodeResult, other: DecodeResult) -> Tensor:
    """Compare two results row by row, token for token, bool [B]."""
    width = min(one.tokens.size(1), other.tokens.size(1))
    positions = torch.arange(width, device=one.tokens.device)
    equal = (one.tokens[:, :width] == other.tokens[:, :width]) | (positions >= one.lengths[:, None])
    return equal.all(1) & (one.lengths == other.lengths)


class AcceptedSizes(Sums):
    """Iterations by accepted block size, over all rows of all ranks.

    Args:
        block_size: K, the most tokens that an iteration can accept.
    """

    def __init__(self, block_size: int) -> None:
        super().__init__(block_size + 1)
        self.block_size = block_size

    def update(self, accepted: Tensor) -> None:
        """Add the accepted block sizes of a batch, int64 [B, I], 0 after a row's last iteration."""
        self.add(*count_accepted_sizes(accepted, self.block_size).tolist())

    def compute(self) -> Tensor:
        """Return int64 [K + 1], indexed by size."""
        return self.sums


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


class GreedyComparison(Sums):
    """Savings of blockwise decoding against greedy decoding, over all rows of all ranks.

    The sums are rows, rows with equal tokens, model calls, greedy's model calls, nanoseconds, greedy's nanoseconds.
    """

    def __init__(self) -> None:
        super().__init__(6)

    @property
    def nanoseconds(self) -> int:
        """The wall-clock time of this rank's batches, decoded blockwise."""
        return int(self.sums[4])

    def update(
        self, result: DecodeResult, greedy: DecodeResult, nanoseconds: int, greedy_nanoseconds: int
    ) -> None:
        """Add a batch that was decoded both ways, and the wall-clock time of each decoding."""
        equal = equal_rows(result, greedy).sum()
        calls, greedy_calls = result.calls.sum(), greedy.calls.sum()
        self.add(len(result.lengths), equal, calls, greedy_calls, nanoseconds, greedy_nanoseconds)

    def compute(self) -> Comparison:
        """Return the ratios of the sums."""
        rows, equal, calls, greedy_calls, nanoseconds, greedy_nanoseconds = self.sums.tolist()
        return Comparison(
            greedy_agreement=ratio(equal, rows),
            model_calls=ratio(calls, rows),
            iteration_reduction=ratio(greedy_calls, calls),
            speedup=ratio(greedy_nanoseconds, nanoseconds),
        )
