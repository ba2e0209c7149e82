"""The content of idx files."""

import struct

import numpy as np

IMAGES = np.random.default_rng(1).integers(0, 256, (7, 6, 5), dtype=np.uint8)
LABELS = np.array([3, 0, 1, 2, 3, 3, 0], dtype=np.uint8)


def idx(array, kind=8):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
