"""The handwritten digits that come with scikit-learn: images without a download (floor 3)."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from lightning_bpd.datamodules.held_out import Part

LEVELS = 17
"""the number of different intensities"""
_PARTS: dict[Part, slice] = {
    "train": slice(0, 1400),
    "validation": slice(1400, 1597),
    "test": slice(1597, 1797),
}


def read_digits(part: Part) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The levels, 0 to 16, and the labels of a fixed part: int64 [N, 8, 8, 1] and [N].

    1,400 images are for training, 197 for validation and 200 for test.
    """
    # Imported here, because the import takes a second and few callers need it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Shuffled by hash: the images are sorted by writer, so parts cut in order would have different writers.
    order = sorted(
        range(len(digits.images)), key=lambda number: hashlib.sha256(str(number).encode()).digest()
    )
    chosen = order[_PARTS[part]]
    return digits.images.astype(np.int64)[chosen][..., None], digits.target.astype(np.int64)[chosen]
