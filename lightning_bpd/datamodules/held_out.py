"""Splits that keep equal rows together, so that no held-out row was trained on (floor 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


def first_alike(contents: Iterable[str | bytes]) -> NDArray[np.int64]:
    """The index of the first equal content for each content, int64 [N]. White space makes no difference between texts.

    A split by this index puts equal rows on one side. Texts of white space alone are equal only if identical, because
    they make no rows.
    """
    hashes = np.fromiter(map(_hash, contents), np.uint64)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    return first[group].astype(np.int64)


def _hash(content: str | bytes) -> int:
    if isinstance(content, str):
        content = (" ".join(content.split()) or content).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def held_out_rows(first: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Which rows are held out, bool [N]: all rows of ``count`` different sources, evenly spread over the corpus.

    Args:
        first: The result of ``first_alike``.
        count: Sources to hold out, at most the number of different sources.
    """
    different = np.flatnonzero(first == np.arange(len(first)))
    held_out = np.zeros(len(first), dtype=np.bool_)
    held_out[different] = is_held_out(np.arange(len(different)), len(different), count)
    return held_out[first]


def is_held_out(row: NDArray[np.int64], rows: int, count: int) -> NDArray[np.bool_]:
    """Whether a row, counted from 0, is one of ``count`` rows spread evenly over ``rows``."""
    held_out: NDArray[np.bool_] = (row + 1) * count // rows > row * count // rows
    return held_out
