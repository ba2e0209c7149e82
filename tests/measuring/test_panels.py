import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from PIL import Image

from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring import panels
from lightning_bpd.measuring.panels import BlockwisePanel, ImagePanels, draw_panels


def row(block_sizes=(2, 4), channels=3, side=4, name="image"):
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, channels), dtype=np.uint8)
    tokens = side * side * channels
    blockwise = [BlockwisePanel(size, images[2], np.full(tokens // size, size)) for size in block_sizes]
    return ImagePanels(name, images[0, ::2, ::2], images[0], images[1], blockwise)


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
    sizes = panel.accepted
    for bad, message in (
        (BlockwisePanel(1, panel.image, sizes), "from 1 to 1 and hold 48 tokens; they are from 2 to 2"),
        (BlockwisePanel(2, panel.image, sizes[:-1]), "hold 48 tokens; they are from 2 to 2 and hold 46"),
        (BlockwisePanel(2, panel.image, np.append(sizes, 0)), "they are from 0 to 2 and hold 48"),
        (BlockwisePanel(2, panel.image[:-1], sizes), "the blockwise image is of shape"),
    ):
        with pytest.raises(InputError, match=message):
            draw_panels(
                [ImagePanels("image", good.source, good.truth, good.greedy, [bad])], tmp_path / "panels.png"
            )


def test_each_token_has_the_colour_of_its_block_and_each_block_a_line():
    figure = Figure()
    axes = figure.subplots()
    panel = BlockwisePanel(4, np.zeros((2, 4, 1), np.uint8), np.array([3, 1, 2, 2]))
    panels._show_sizes(axes, panel, (2, 4, 1), colormaps["viridis"], BoundaryNorm([0, 1, 2, 3, 4], 256))
    assert axes.images[0].get_array().tolist() == [[3, 3, 3, 1], [2, 2, 2, 2]]
    begins, _ = axes.collections
    assert [tuple(map(int, line[0])) for line in begins.get_segments()] == [(0, 0), (3, 0), (0, 1), (2, 1)]
