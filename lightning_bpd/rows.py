"""What each position may see, and where the tokens of each row lie in a key-value cache (floor 0).

Both the cached and the uncached forward pass of a model build their masks from the same function of positions,
``visible(query, key)``. The caches of all models keep count of their rows by one class, ``Rows``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import torch
from torch import Tensor


class Visible(Protocol):
    """Which keys a query may attend to, by their positions in the row."""

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Return whether each query sees each key, bool, for int64 positions that broadcast with one another."""

    def first(self, query: int) -> int:
        """Return the first position that a query sees."""


@dataclass(frozen=True)
class Causal:
    """A position sees itself and all positions before it."""

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Return whether each query sees each key (Visible)."""
        return key <= query

    def first(self, query: int) -> int:
        """Return 0 (Visible.first)."""
        return 0


@dataclass(frozen=True)
class Window:
    """A position sees itself and the ``length - 1`` positions before it: sliding-window attention."""

    length: int

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Return whether each query sees each key (Visible)."""
        return (key <= query) & (key > query - self.length)

    def first(self, query: int) -> int:
        """Return the first position of the window (Visible.first)."""
        return max(0, query - self.length + 1)


@dataclass(frozen=True)
class Local:
    """A position sees its own block of positions, up to itself, and the whole block before (Parmar et al. 2018)."""

    block: int

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Return whether each query sees each key (Visible)."""
        start = (query.div(self.block, rounding_mode="floor") - 1).clamp(min=0) * self.block
        return (key <= query) & (key >= start)

    def first(self, query: int) -> int:
        """Return the start of the block before (Visible.first)."""
        return max(0, (query // self.block - 1) * self.block)


@dataclass(frozen=True)
class Blocks:
    """Positions see all before them, themselves and, from ``begin`` on, the rest of their block of ``size`` (PAR)."""

    begin: int
    size: int

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Return whether each query sees each key (Visible)."""
        after = query - self.begin
        last = self.begin + after.div(self.size, rounding_mode="floor") * self.size + self.size - 1
        return key <= torch.where(after < 0, query, last)

    def first(self, query: int) -> int:
        """Return 0 (Visible.first)."""
        return 0


def inside(lengths: Tensor, size: int) -> Tensor:
    """Return which of ``size`` positions each row of ``lengths`` (int64 [B]) fills, bool [B, size]."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask that is added to attention scores: 0 where ``visible`` (bool), else -inf."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, -torch.inf)


# Rows of the masks that are kept for later calls.
_MOST_CACHED = 32


@lru_cache(maxsize=128)
def _by_distance(
    visible: Visible, tokens: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Make the mask [1, 1, tokens, width] of new tokens over the last ``width`` positions, their own included."""
    with torch.inference_mode(False):
        key = torch.arange(width, device=device)
        # Positions are counted from far enough to the right that a window does not begin before the first.
        return additive(visible(key[-tokens:, None] + width, key + width), dtype)[None, None]


class Slots:
    """The places of one call's tokens in a cache, and of the keys that they attend to; the same for every layer.

    Args:
        start: The position of the first new token if it is the same in all rows.
        lengths: int64 [B], the positions of the first new tokens otherwise.
        tokens: How many new tokens each row gets.
        begin: Cache places before this one are not attended to.
        extent: Nor are the places from this one on.
        capacity: Places of a row. Position p lies at place p modulo ``capacity``.
        ring: Whether the places from ``begin`` to ``extent`` hold positions that do not lie side by side.
        device: The device of the cache.
    """

    def __init__(
        self,
        start: int | None,
        lengths: Tensor | None,
        tokens: int,
        begin: int,
        extent: int,
        capacity: int,
        ring: bool,
        device: torch.device,
    ) -> None:
        self.start, self.tokens = start, tokens
        self.begin, self.extent, self.capacity = begin, extent, capacity
        self._lengths, self._ring, self._device = lengths, ring, device

    @cached_property
    def positions(self) -> Tensor:
        """The position of each new token in its row, int64 [B, T]; [1, T] if all rows are equally long."""
        ahead = torch.arange(self.tokens, device=self._device)
        if self.start is not None:
            return (ahead + self.start)[None]
        assert self._lengths is not None
        return self._lengths[:, None] + ahead

    def mask(self, visible: Visible, dtype: torch.dtype) -> Tensor:
        """Return the mask [B or 1, 1, T, extent - begin] that is added to attention scores."""
        if self.start is not None and not self._ring and self.tokens <= _MOST_CACHED:
            # The mask of an earlier call, as far as it depends on distances only, which is all that a causal mask does.
            width = self.extent - self.begin
            if isinstance(visible, Causal | Window):
                return _by_distance(visible, self.tokens, 1 << (width - 1).bit_length(), dtype, self._device)[
                    ..., -width:
                ]
        query = self.positions[:, None, :, None]
        key = torch.arange(self.begin, self.extent, device=self._device)
        if self._ring:
            # Each place holds one position that a query could see: the last one up to the query itself.
            key = query - (query - key) % self.capacity
        elif self.start is not None:
            key = key + (self.start - self.start % self.capacity)
        return additive(visible(query, key), dtype)

    def sees_all(self, visible: Visible) -> bool:
        """Return whether no mask is needed: a single token that sees all places which are read."""
        return (
            self.tokens == 1
            and self.start is not None
            and not self._ring
            and self.start - visible.first(self.start) == self.extent - 1 - self.begin
        )

    def write(self, entries: Tensor, new: Tensor) -> None:
        """Store keys or values [..., B, H, T, W] of the new tokens in a cache [..., B, H, capacity, W]."""
        if self.start is not None and (first := self.start % self.capacity) + self.tokens <= self.capacity:
            entries[..., first : first + self.tokens, :] = new
        else:
            rows = torch.arange(entries.size(-4), device=self._device)[:, None]
            # The indexed dimensions come first: [B, T, ..., H, W].
            entries.movedim((-4, -2), (0, 1))[rows, self.positions % self.capacity] = new.movedim(
                (-4, -2), (0, 1)
            )

    def read(self, entries: Tensor) -> Tensor:
        """Return the keys or values [..., extent - begin, W] that are attended to."""
        return entries[..., self.begin : self.extent, :]


class Rows:
    """How many tokens each row of a cache holds, and where they lie.

    Forgetting tokens costs nothing: later tokens are written over them, and until then the mask hides them.

    If ``capacity`` is less than ``max_length``, each row is a ring. A token that is written takes the place of the
    token ``capacity`` positions before it, for good. So a ring has room for what a position may see, ``reach``
    positions, and for what may be rewound: ``capacity - reach`` tokens.

    Args:
        count: B.
        max_length: The most tokens of a row.
        device: The device of the cache.
        visible: What each position may see.
        capacity: Places of a row; ``max_length`` if not given.
        reach: The most positions, its own included, that a position may see; for a ring.
    """

    def __init__(
        self,
        count: int,
        max_length: int,
        device: torch.device,
        visible: Visible = Causal(),  # it has no state
        capacity: int | None = None,
        reach: int = 0,
    ) -> None:
        self.max_length, self.device, self.visible, self.reach = max_length, device, visible, reach
        self.capacity = max_length if capacity is None else min(capacity, max_length)
        # On the host, where shapes are decided: no device is waited for to tell them.
        self.counts = [0] * count
        # The most tokens that each row ever had: older positions of a ring were written over.
        self._longest = self.counts

    @property
    def ring(self) -> bool:
        """Whether a row may have more tokens than places."""
        return self.capacity < self.max_length

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tokens in each row."""
        return torch.tensor(self.counts, dtype=torch.long, device=self.device)

    def take(self, tokens: int) -> Slots:
        """Return the slots of ``tokens`` more tokens in every row, which the next call writes.

        Raises:
            ValueError: The cache is too short for them.
        """
        shortest, longest = min(self.counts, default=0), max(self.counts, default=0)
        end, capacity = longest + tokens, self.capacity
        if end > self.max_length:
            raise ValueError(f"the cache was made for {self.max_length} tokens a row, this call needs {end}")
        if self.ring and tokens > capacity - self.reach:
            raise ValueError(
                f"a ring of {capacity} places takes at most {capacity - self.reach} tokens at once"
            )
        start = longest if shortest == longest else None
        lengths = self.lengths if start is None else None
        first = self.visible.first(longest) if start is not None else 0
        if start is not None and first // capacity == (end - 1) // capacity:
            begin, extent, ring = first % capacity, (end - 1) % capacity + 1, False
        else:
            begin, extent, ring = 0, min(end, capacity), self.ring
        return Slots(start, lengths, tokens, begin, extent, capacity, ring, self.device)

    def append(self, tokens: int) -> None:
        """Count ``tokens`` more tokens in every row."""
        self.counts = [count + tokens for count in self.counts]
        self._longest = list(map(max, self._longest, self.counts))

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget all tokens past ``lengths[b]``.

        Raises:
            ValueError: A row has fewer tokens, or tokens that it would see next were written over.
        """
        counts = list(lengths)
        if len(counts) != len(self.counts) or any(
            not 0 <= new <= old for new, old in zip(counts, self.counts, strict=True)
        ):
            raise ValueError(f"cannot rewind rows of lengths {self.counts} to {counts}")
        for row, (length, longest) in enumerate(zip(counts, self._longest, strict=True) if self.ring else ()):
            if self.visible.first(length) < longest - self.capacity:
                raise ValueError(
                    f"row {row} had {longest} tokens and cannot be rewound to {length}: the cache keeps the last "
                    f"{self.capacity} only"
                )
        self.counts = counts

    def reorder(self, rows: Tensor) -> None:
        """Let row i become what row ``rows[i]`` was (int64 [B'])."""
        if len({*zip(self.counts, self._longest, strict=True)}) <= 1:
            # Nothing waits for the device where all rows are alike.
            self.counts, self._longest = self.counts[:1] * len(rows), self._longest[:1] * len(rows)
        else:
            order = rows.tolist()
            self.counts = [self.counts[row] for row in order]
            self._longest = [self._longest[row] for row in order]


class StaticRows:
    """Rows whose lengths stay on the device: no shape depends on them, and the host waits for none of them.

    What a position does not see is masked in every call, so a call costs as much as if the cache were full. The lengths
    are only known after ``rewind``, which checks nothing.

    Args:
        rows: The rows to go on from.
        capacity: Places of a row.
    """

    ring: bool
    lengths: Tensor
    """int64 [B], tokens in each row"""

    def __init__(self, rows: Rows | StaticRows, capacity: int) -> None:
        self.max_length: int = rows.max_length
        self.device: torch.device = rows.device
        self.visible: Visible = rows.visible
        self.ring, self.lengths, self.capacity = rows.ring, rows.lengths, capacity

    def take(self, tokens: int) -> Slots:
        """Return the slots of ``tokens`` more tokens in every row (``Rows.take``)."""
        places = self.capacity, self.capacity, self.ring, self.device
        return Slots(None, self.lengths, tokens, 0, *places)

    def append(self, tokens: int) -> None:
        """Count ``tokens`` more tokens in every row."""
        self.lengths = self.lengths + tokens

    def rewind(self, lengths: Tensor) -> None:
        """Let the rows have ``lengths`` (int64 [B], on the device)."""
        self.lengths = lengths


def reordered(entries: Tensor, rows: Tensor, filled: int) -> Tensor:
    """Return a cache [..., B', H, capacity, W] whose row i is row ``rows[i]`` of ``entries`` [..., B, H, capacity, W].

    Args:
        entries: Keys or values. Their memory is used again if there are no more rows than before.
        rows: int64 [B'].
        filled: Places that hold something; capacity or more means all.
    """
    dimension = entries.dim() - 4
    kept = entries[..., :filled, :].index_select(dimension, rows)
    if len(rows) > entries.size(dimension):
        entries = entries.new_zeros(*entries.shape[:dimension], len(rows), *entries.shape[dimension + 1 :])
    entries = entries.narrow(dimension, 0, len(rows))
    entries[..., :filled, :] = kept
    return entries
