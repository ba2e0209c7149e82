"""Batches of sentence pairs by token count, sharded over ranks and resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from lightning_bpd.datamodules.encoded_corpus import RaggedRows
from lightning_bpd.interfaces import InputError, ParallelBatch, TokenRows

Rows = NDArray[np.int64]


class TokenBatchSampler(Sampler[list[int]]):
    """Cuts a corpus into batches of similar length that hold at most ``batch_tokens`` tokens a side.

    Pairs are ordered by source length, then by target length, and cut into batches in that order, so most batches
    of a large corpus have one source length and need no padding. A batch costs its rows times its longest source
    or target, whichever is longer; a pair that alone costs more than ``batch_tokens`` is a batch of its own.

    Shuffling permutes pairs of equal lengths and the order of the batches, both drawn from ``(seed, epoch)``: every
    epoch has the same number of batches with the same shapes, and the order does not depend on ``world_size``.
    Without shuffling the order is fixed, longest batches first.

    Rank r takes the batches r, r + world_size, ... of the order. With shuffling, every rank gets equally many batches:
    the left-over batches at the end are split, beginning with the batches of the most rows, until each rank has one.
    Without shuffling, counts may differ by one, but batches are split until every rank has at least one. (In
    Lightning a rank without batches misses the collective calls of the others.) Each pair is always in exactly one
    batch of one rank.

    Args:
        source_lengths: Tokens of each source with its end token, int [N].
        target_lengths: Tokens of each target with its end token, int [N].
        batch_tokens: The largest cost of a batch, in tokens.
        shuffle: Whether to draw a new order every epoch.
        seed: Not negative.
        rank: The rank of this process, 0 to ``world_size`` - 1.
        world_size: The number of processes.

    Raises:
        InputError: ``batch_tokens`` or ``seed`` is out of range, or the shuffled pairs are too few, or too long
            for ``batch_tokens``, to give every rank equally many batches.
    """

    def __init__(
        self,
        source_lengths: NDArray[np.integer],
        target_lengths: NDArray[np.integer],
        batch_tokens: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_tokens < 1:
            raise InputError(f"batch_tokens is {batch_tokens}; it must be at least 1.")
        if seed < 0:
            raise InputError(f"The seed is {seed}; it must not be negative.")
        self._order: Rows = np.lexsort((target_lengths, source_lengths))
        sources, targets = source_lengths[self._order], target_lengths[self._order]
        self._bounds = _cut(np.maximum(sources, targets), batch_tokens)
        changes = (np.diff(sources) != 0) | (np.diff(targets) != 0)
        self._tie_group = np.concatenate(([0], np.cumsum(changes, dtype=np.int64)))[: len(sources)]
        self._shuffle, self._seed, self._rank, self._world_size = shuffle, seed, rank, world_size
        self._epoch = 0
        self._start = 0
        # Lightning calls set_epoch on the sampler inside a batch sampler, never on the batch sampler itself.
        self.sampler = self
        if len(self._order) < world_size:
            raise InputError(
                f"A corpus of {len(self._order)} pairs is too small for {world_size} processes; use fewer processes."
            )
        pairs, batches = len(self._order), len(self._bounds) - 1
        if shuffle and pairs < len(self) * world_size:
            raise InputError(
                f"{pairs} training pairs make {batches} batches of at most {batch_tokens} tokens, which {world_size}"
                " processes cannot share equally; raise batch_tokens or use fewer processes."
            )

    def __len__(self) -> int:
        """The number of batches of this rank in a complete epoch; ``start_at`` does not change it."""
        batches = len(self._bounds) - 1
        if self._shuffle:
            return -(-batches // self._world_size)
        return len(range(self._rank, max(batches, self._world_size), self._world_size))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next order. A new epoch begins at its first batch."""
        if epoch != self._epoch:
            self._epoch, self._start = epoch, 0

    def start_at(self, batch: int) -> None:
        """Let only this epoch begin at this batch of the rank's order."""
        self._start = batch

    def __iter__(self) -> Iterator[list[int]]:
        # Not a generator: epoch and start are read when the iterator is made, not at its first batch.
        batches = self._epoch_of_batches()[self._rank :: self._world_size]
        return (batch.tolist() for batch in batches[self._start :])

    def _epoch_of_batches(self) -> list[Rows]:
        """All batches of the epoch, over all ranks."""
        starts, ends = self._bounds[:-1], self._bounds[1:]
        if not self._shuffle:
            batches = [self._order[start:end] for start, end in zip(starts[::-1], ends[::-1], strict=True)]
            return batches if len(batches) >= self._world_size else _equal_counts(batches, self._world_size)
        random = np.random.default_rng((self._seed, self._epoch))
        ties = random.integers(0, 1 << 32, size=len(self._order))
        order = self._order[np.argsort((self._tie_group << 32) | ties, kind="stable")]
        permutation = random.permutation(len(starts))
        batches = [
            order[start:end] for start, end in zip(starts[permutation], ends[permutation], strict=True)
        ]
        return _equal_counts(batches, self._world_size)


def _cut(longest: NDArray[np.integer], batch_tokens: int) -> Rows:
    """Bounds [batches + 1] of the batches, given the length of each row's longer side; a batch takes all that fits."""
    bounds = [0]
    while (start := bounds[-1]) < len(longest):
        most_rows = max(1, batch_tokens // int(longest[start]))
        window = np.maximum.accumulate(longest[start : start + most_rows].astype(np.int64))
        costs = window * np.arange(1, len(window) + 1)
        bounds.append(start + max(1, int(np.searchsorted(costs, batch_tokens, side="right"))))
    return np.array(bounds, dtype=np.int64)


def _equal_counts(batches: list[Rows], world_size: int) -> list[Rows]:
    """The batches, with the last ones split so that their number is a multiple of ``world_size``.

    As few batches as possible are split: the left-over batches, and complete rounds before them only if the left-over
    batches have too few rows for all processes. ``batches`` must hold at least as many rows as the result has batches.
    """
    whole = len(batches) // world_size * world_size
    if whole == len(batches):
        return batches
    parts = world_size
    while sum(map(len, batches[whole:])) < parts:
        whole, parts = whole - world_size, parts + world_size
    tail = batches[whole:]
    pieces = [1] * len(tail)
    while sum(pieces) < parts:
        most = max(range(len(tail)), key=lambda i: len(tail[i]) / pieces[i])
        pieces[most] += 1
    split = [part for batch, count in zip(tail, pieces, strict=True) for part in np.array_split(batch, count)]
    return batches[:whole] + split


def collate(source: RaggedRows, target: RaggedRows, rows: Sequence[int]) -> ParallelBatch:
    """The given rows of a corpus as one batch, each side padded with 0 to its longest row.

    Args:
        source: All source rows.
        target: All target rows, equally many.
        rows: The indices of the B pairs to take; they become ``ParallelBatch.index``.
    """
    index = np.asarray(rows, dtype=np.int64)
    return ParallelBatch(_padded(source, index), _padded(target, index), torch.from_numpy(index))


def _padded(ragged: RaggedRows, index: Rows) -> TokenRows:
    tokens, offsets = np.asarray(ragged.tokens), np.asarray(ragged.offsets)
    starts = offsets[index]
    lengths = offsets[index + 1] - starts
    columns = np.arange(lengths.max())
    inside = columns < lengths[:, None]
    padded = np.zeros(inside.shape, dtype=np.int64)
    padded[inside] = tokens[(starts[:, None] + columns)[inside]]
    return TokenRows(torch.from_numpy(padded), torch.from_numpy(lengths.astype(np.int64)))
