"""Rotary positions in one, two or three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rotations(grid: Sequence[int], width: int, base: float = 10_000.0) -> Tensor:
    """Cosine and sine of each cell of a grid, in raster order, for each pair of neighbouring elements of a head.

    Each dimension of the grid has an equal share of the pairs; the first ones have what is left over. In two dimensions
    this is the table of LlamaGen (arXiv 2406.06525): the first half of the pairs turns with the row, the other with
    the column.

    Args:
        grid: The sides, one to three.
        width: Width of a head, even.
        base: The wavelength of the slowest pair is at most 2 pi times this.

    Returns:
        [N, width / 2, 2].
    """
    pairs, dimensions = width // 2, len(grid)
    angles = []
    for number, side in enumerate(grid):
        share = pairs // dimensions + (number < pairs % dimensions)
        speeds = base ** -(torch.arange(share).double() / share)
        turned = torch.arange(side).double()[:, None] * speeds
        shape = [1] * dimensions
        shape[number] = side
        angles.append(turned.view(*shape, share).expand(*grid, share).reshape(-1, share))
    angle = torch.cat(angles, 1)
    return torch.stack((angle.cos(), angle.sin()), -1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn each pair of neighbouring elements.

    Args:
        x: [..., T, width].
        table: Cosine and sine, [..., T, width / 2, 2].
    """
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = table.unbind(-1)
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1).flatten(-2)
