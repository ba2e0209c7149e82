import io

import numpy as np
import pytest
from PIL import Image

from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring.image_grids import grid_png, image_grid, pairs_grid


def test_images_lie_side_by_side_enlarged():
    images = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4, 1)
    grid = image_grid([images[:2], images[2:]])
    assert grid.shape == (64 + 4 + 64, 64 + 4 + 64, 1)
    assert (grid[:64:16, :64:16] == images[0]).all()
    assert (grid[:64:16, 68::16] == images[1]).all()
    assert (grid[68::16, :64:16] == images[2]).all()
    assert (grid[64:68] == 255).all()
    assert (grid[68:, 68:] == 255).all()
    assert Image.open(io.BytesIO(grid_png([images]))).size == (3 * 68 - 4, 64)


def test_pairs():
    images = np.zeros((5, 100, 70, 3), np.uint8)
    assert pairs_grid(list(images), list(images + 9), columns=3).shape == (4 * 104 - 4, 3 * 74 - 4, 3)


def test_images_of_two_sizes():
    with pytest.raises(InputError, match="images of one size, not 4 x 4 x 1 and 5 x 4 x 1"):
        image_grid([[np.zeros((5, 4, 1), np.uint8)], [np.zeros((4, 4, 1), np.uint8)]])
    with pytest.raises(InputError, match="not no image"):
        image_grid([])
