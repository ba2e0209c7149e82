"""Plain pictures of many small images: reconstructions, grids, nearest images (floor 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_bpd.codecs.images import to_png
from lightning_bpd.interfaces import InputError

Image = NDArray[np.uint8]

_SMALLEST_SIDE = 64
_GAP = 4


def image_grid(rows: Sequence[Sequence[Image]]) -> Image:
    """Put images side by side and below each other, with white lines between them.

    Images with sides below 64 pixels are enlarged by a whole number, without smoothing.

    Args:
        rows: Images of one size, uint8 [H, W, C]; rows may differ in length.

    Returns:
        uint8 [height, width, C].

    Raises:
        InputError: There is no image, or their sizes differ.
    """
    images = [image for row in rows for image in row]
    if not images or len({image.shape for image in images}) > 1:
        shapes = sorted({" x ".join(map(str, image.shape)) for image in images})
        raise InputError(f"a picture needs images of one size, not {' and '.join(shapes) or 'no image'}")
    height, width, channels = images[0].shape
    scale = max(1, -(-_SMALLEST_SIDE // max(height, width)))
    height, width = height * scale, width * scale
    columns = max(map(len, rows))
    shape = (len(rows) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels)
    picture = np.full(shape, 255, np.uint8)
    for top, row in zip(range(0, shape[0], height + _GAP), rows, strict=True):
        for left, image in zip(range(0, shape[1], width + _GAP), row, strict=False):
            enlarged = image.repeat(scale, 0).repeat(scale, 1)
            picture[top : top + height, left : left + width] = enlarged
    return picture


def pairs_grid(above: Sequence[Image], below: Sequence[Image], columns: int = 12) -> Image:
    """A grid in which each image of ``below`` lies under the image of ``above`` with its index, pairs side by side."""
    rows: list[Sequence[Image]] = []
    for first in range(0, len(above), columns):
        rows += [above[first : first + columns], below[first : first + columns]]
    return image_grid(rows)


def grid_png(rows: Sequence[Sequence[Image]]) -> bytes:
    """``image_grid`` as the bytes of a PNG file."""
    return to_png(image_grid(rows))
