"""Pictures of decoded images: input, truth, greedy, and blockwise beside the block sizes that were accepted (floor 2).

Shapes: H, W and C are height, width and channels of the large image, h and w of the input; L = H * W * C tokens,
row by row, the channels of a pixel side by side.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm, Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import InputError

Image = NDArray[np.uint8]
Sizes = NDArray[np.integer]

_PANEL_INCHES = 1.55
_DOTS_PER_INCH = 220
_SMALL, _MEDIUM = 6.5, 8.0  # points
_QUIET, _LINES = "#5b6470", "#8d8d8d"
# From nearly white, one token, to dark: longer blocks are more ink, on paper without colours too.
_COLOURS = ("#f4f1ea", "#cfe3d6", "#86c5b6", "#3f9aa6", "#256a96", "#1c3a70", "#1b1240")


@dataclass(frozen=True)
class BlockwisePanel:
    """An image that was decoded blockwise."""

    block_size: int
    """k, the most tokens that a block proposes"""
    image: Image
    """uint8 [H, W, C]"""
    accepted: Sizes
    """int [I], the accepted size of each block, in order"""


@dataclass(frozen=True)
class ImagePanels:
    """One row of the picture. Grey images have one channel."""

    name: str
    source: Image
    """the input, uint8 [h, w, C]"""
    truth: Image
    """uint8 [H, W, C]"""
    greedy: Image
    """uint8 [H, W, C]"""
    blockwise: Sequence[BlockwisePanel]


def draw_panels(rows: Sequence[ImagePanels], picture: Path, title: str = "") -> None:
    """Draw images as a table of panels, to a PNG file.

    Each row is an image: input, truth, greedy, and for each k the blockwise output and a map of the accepted sizes, a
    cell a token, white between the rows; a grey line is where a block begins, and the cells of a pixel are red, green
    and blue from the left.

    Args:
        rows: The images, all decoded with the same block sizes.
        picture: The file to write; its folder is made if need be.
        title: Stands above all.

    Raises:
        InputError: There is no image, or shapes and block sizes do not fit.
    """
    _check(rows)
    block_sizes = [panel.block_size for panel in rows[0].blockwise]
    largest = max(block_sizes, default=1)
    colours = LinearSegmentedColormap.from_list("blocks", _COLOURS).resampled(largest)
    norm = BoundaryNorm(np.arange(0.5, largest + 1), largest)
    columns = 3 + 2 * len(block_sizes)
    side = max(row.truth.shape[0] / row.truth.shape[1] for row in rows)
    figure = Figure(
        figsize=(
            _PANEL_INCHES * columns + 0.9,
            (_PANEL_INCHES * side + 0.22) * len(rows) + (0.45 if title else 0.2),
        ),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02),
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        _draw_row(axes, row, colours, norm)
    _head(grid[0], rows[0])
    if block_sizes:
        bar = figure.colorbar(
            ScalarMappable(norm, colours),
            ax=grid[:, -1],
            ticks=range(1, largest + 1),
            fraction=0.08,
            aspect=14 * len(rows),
        )
        bar.set_label("accepted block size (tokens)", size=_SMALL, color=_QUIET)
        bar.ax.tick_params(labelsize=_SMALL, length=0, colors=_QUIET)
        bar.minorticks_off()
        bar.outline.set_visible(False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", size=_MEDIUM + 1, weight="bold")
    content = io.BytesIO()
    # Without the version of matplotlib, the same images give the same bytes.
    figure.savefig(content, dpi=_DOTS_PER_INCH, format="png", metadata={"Software": None})
    write_atomically(picture, content.getvalue())


def _draw_row(axes: Any, row: ImagePanels, colours: Colormap, norm: BoundaryNorm) -> None:
    for each, image in zip(axes, (row.source, row.truth, row.greedy), strict=False):
        _show(each, image)
    axes[0].set_ylabel(row.name, size=_MEDIUM)
    for number, panel in enumerate(row.blockwise):
        output, sizes = axes[3 + 2 * number : 5 + 2 * number]
        _show(output, panel.image)
        differing = int((panel.image != row.greedy).sum())
        share = f"{differing / row.greedy.size:.1%} unlike greedy"
        _caption(output, share if differing else "same as greedy")
        _show_sizes(sizes, panel, row.truth.shape, colours, norm)


def _show(axes: Any, image: Image) -> None:
    grey = image.shape[2] == 1
    axes.imshow(image[:, :, 0] if grey else image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    _bare(axes)


def _show_sizes(
    axes: Any, panel: BlockwisePanel, shape: tuple[int, ...], colours: Colormap, norm: BoundaryNorm
) -> None:
    height, width, channels = shape
    sizes = np.asarray(panel.accepted)
    starts, cells = sizes.cumsum() - sizes, sizes.repeat(sizes).reshape(height, width * channels)
    axes.imshow(
        cells, cmap=colours, norm=norm, interpolation="nearest", aspect="auto", extent=(0, width, height, 0)
    )
    across, down = starts % (width * channels) / channels, starts // (width * channels)
    begins = [((x, y), (x, y + 1)) for x, y in zip(across, down, strict=True)]
    between = [((0, y), (width, y)) for y in range(1, height)]
    # A line takes at most a fifth of a cell, so that the smallest blocks keep their colour.
    points = 72 * _PANEL_INCHES / (width * channels)
    for lines, colour, thickest in ((begins, _LINES, 0.8), (between, "white", 1.6)):
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=min(thickest, points / 5)))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_box_aspect(height / width)
    _bare(axes)
    _caption(axes, f"mean {cells.size / len(sizes):.2f}, {len(sizes):,} blocks")


def _head(axes: Any, row: ImagePanels) -> None:
    (small_height, small_width), (height, width) = row.source.shape[:2], row.truth.shape[:2]
    titles = [f"input {small_height} × {small_width}", f"truth {height} × {width}", "greedy"]
    for panel in row.blockwise:
        titles += [f"blockwise, k = {panel.block_size}", f"accepted sizes, k = {panel.block_size}"]
    for each, text in zip(axes, titles, strict=True):
        each.set_title(text, size=_MEDIUM, pad=4)


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color="#b9bec5")


def _caption(axes: Any, text: str) -> None:
    axes.set_xlabel(text, size=_SMALL, color=_QUIET, labelpad=2.5)


def _check(rows: Sequence[ImagePanels]) -> None:
    if not rows:
        raise InputError("there is no image to draw: give at least one")
    expected = [panel.block_size for panel in rows[0].blockwise]
    for row in rows:
        shape = row.truth.shape
        if [panel.block_size for panel in row.blockwise] != expected:
            raise InputError(f"{row.name}: its block sizes must be {expected}, those of the first image")
        if len(shape) != 3 or shape[2] not in (1, 3) or row.source.ndim != 3:
            raise InputError(f"{row.name}: images must be height x width x channels, with 1 channel or 3")
        for kind, image in (("greedy", row.greedy), *(("blockwise", each.image) for each in row.blockwise)):
            if image.shape != shape:
                raise InputError(
                    f"{row.name}: the {kind} image is of shape {image.shape}, the truth of {shape}"
                )
        for panel in row.blockwise:
            sizes, size = np.asarray(panel.accepted), panel.block_size
            if sizes.sum() != row.truth.size or not 1 <= sizes.min() <= sizes.max() <= size:
                raise InputError(
                    f"{row.name}: accepted sizes must be from 1 to {size} and hold {row.truth.size} tokens; they are"
                    f" from {sizes.min()} to {sizes.max()} and hold {sizes.sum()}"
                )
