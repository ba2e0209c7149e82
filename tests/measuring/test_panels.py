import numpy as np
import pytest
from PIL import Image

from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring.panels import (
    BlockwisePanel,
    ImagePanels,
    block_starts,
    draw_panels,
    sizes_per_token,
)


def row(block_sizes=(2, 4), channels=3, side=4, name="image"):
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, channels), dtype=np.uint8)
    tokens = side * side * channels
    blockwise = [
        BlockwisePanel(size, images[2], sizes_per_token(np.full(tokens // size, size), tokens))
        for size in block_sizes
    ]
    return ImagePanels(name, images[0, ::2, ::2], images[0], images[1], blockwise)


def test_each_token_knows_its_block():
    sizes = sizes_per_token(np.array([3, 1, 2, 2, 0, 0]), 8)
    assert sizes.tolist() == [3, 3, 3, 1, 2, 2, 2, 2]
    assert block_starts(sizes).tolist() == [0, 3, 4, 6]


def test_a_last_block_may_be_cut_off():
    assert block_starts(np.array([2, 2, 3])).tolist() == [0, 2]


def test_sizes_that_are_no_blocks():
    with pytest.raises(InputError, match="hold 3 tokens, and the image 4"):
        sizes_per_token(np.array([2, 1]), 4)
    with pytest.raises(InputError, match="a block of 3 at token 2"):
        block_starts(np.array([2, 2, 3, 1, 1]))
    with pytest.raises(InputError, match="a block of 0"):
        block_starts(np.array([0]))


@pytest.mark.parametrize(("channels", "block_sizes"), [(3, (2, 4)), (1, (4,)), (3, ())])
def test_a_picture(tmp_path, channels, block_sizes):
    rows = [row(block_sizes, channels, name=name) for name in ("one", "two")]
    path = tmp_path / "inner" / "panels.png"
    draw_panels(rows, path, "Title")
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape[1] > 220 * 1.5 * (3 + 2 * len(block_sizes))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 30
    assert [each.name for each in path.parent.iterdir()] == ["panels.png"]
    content = path.read_bytes()
    draw_panels(rows, path, "Title")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no image to draw"),
        ([row((2,)), row((4,))], r"its block sizes must be \[2\]"),
        ([row((2,), channels=2)], "1 channel or 3"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        draw_panels(rows, tmp_path / "panels.png")


def test_sizes_and_shapes_are_checked(tmp_path):
    good = row((2,))
    panel = good.blockwise[0]
    for bad, message in (
        (BlockwisePanel(1, panel.image, panel.sizes), "accepted sizes of at most 1"),
        (BlockwisePanel(2, panel.image, panel.sizes[:-2]), "there are 46"),
        (BlockwisePanel(2, panel.image[:-1], panel.sizes), "the blockwise image is of shape"),
    ):
        with pytest.raises(InputError, match=message):
            draw_panels(
                [ImagePanels("image", good.source, good.truth, good.greedy, [bad])], tmp_path / "panels.png"
            )
