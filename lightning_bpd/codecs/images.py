"""Images as tokens: one token per intensity, row by row, the channels of a pixel side by side (floor 2).

Shapes: N images, H height, W width, C channels (1 grey, 3 red, green and blue); h and w are H and W over the factor.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_bpd.codecs.codec import Codec
from lightning_bpd.faults import from_plain
from lightning_bpd.interfaces import Grid, InputError, Vocabularies

if TYPE_CHECKING:
    from torchmetrics import Metric

Images = NDArray[np.uint8]
Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class ImageCodec(Codec):
    """Super-resolution as tokens, from small images to large ones (a Codec). Raises InputError if no image fits."""

    height: int
    """height of the large image, in pixels"""
    width: int
    """width of the large image, in pixels"""
    channels: int = 3
    """1 for grey, 3 for red, green and blue"""
    levels: int = 256
    """number of distinct intensities, 2 to 256"""
    factor: int = 4
    """height and width of the large image over those of the small one"""
    kind: ClassVar[str] = "images"
    remedy: ClassVar[str] = "give the data the model's own height, width, channels, levels and factor"
    ordinal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise InputError(f"an image of {self.height} x {self.width} pixels: both must be at least 1")
        if self.channels not in (1, 3):
            raise InputError(f"channels is {self.channels}: it must be 1 (grey) or 3 (red, green, blue)")
        _check_levels(self.levels)
        _check_factor(self.height, self.width, self.factor)

    @property
    def shape(self) -> tuple[int, int, int]:
        """H, W, C of the large image."""
        return self.height, self.width, self.channels

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """h, w, C of the small image."""
        return self.height // self.factor, self.width // self.factor, self.channels

    @property
    def target_length(self) -> int:
        """Tokens of a large image; there is no end token."""
        return math.prod(self.shape)

    @property
    def source_length(self) -> int:
        """Tokens of a small image."""
        return math.prod(self.source_shape)

    @property
    def vocabularies(self) -> Vocabularies:
        """The levels, the start token and the sizes."""
        grid = Grid(self.height, self.width, self.channels, self.levels, self.factor)
        return Vocabularies(self.levels, self.levels, self.start_id, None, grid)

    @property
    def start_id(self) -> int:
        """The start token, one past the levels; no image and no model's output contains it."""
        return self.levels

    def small(self, images: Images) -> Images:
        """Make the small images that a model sees: uint8 [N, H, W, C] to uint8 [N, h, w, C]."""
        self._check(images)
        return area_downsample(images, self.factor)

    def source_tokens(self, images: Images) -> Tokens:
        """Turn large images, uint8 [N, H, W, C], into tokens of their small images, int64 [N, h * w * C]."""
        return images_to_tokens(self.small(images), self.levels)

    def target_tokens(self, images: Images) -> Tokens:
        """Turn large images, uint8 [N, H, W, C], into tokens, int64 [N, H * W * C]."""
        self._check(images)
        return images_to_tokens(images, self.levels)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[Images]:
        """Return the large image of each row of H * W * C tokens, uint8 [H, W, C].

        Raises InputError for other tokens, or another number of tokens.
        """
        if not len(rows):
            return []
        for row in rows:
            if len(row) != self.target_length:
                raise InputError(
                    f"a row of {len(row)} tokens is not an image: {self.height} x {self.width} pixels of"
                    f" {self.channels} channels take {self.target_length}"
                )
        return list(tokens_to_images(np.asarray(rows, dtype=np.int64), self.shape, self.levels))

    def pieces(self, prefix: Sequence[int], tokens: Sequence[int]) -> list[str]:
        """Return each level as a number; in colour images after the channel's initial: ``r200``, ``g13``, ``b0``."""
        initials = "rgb" if self.channels == 3 else ("",)
        return [
            f"{initials[position % self.channels]}{token}"
            for position, token in enumerate(tokens, start=len(prefix))
        ]

    def quality(self) -> dict[str, Metric]:
        """Make peak signal-to-noise ratio in decibels, and structural similarity if images are large enough."""
        # Imported here, because the imports of metrics are slow and tokens do not need them.
        from lightning_bpd.metrics.images import SMALLEST_SSIM_SIDE, PeakSignalToNoise, StructuralSimilarity

        metrics: dict[str, Metric] = {"psnr": PeakSignalToNoise()}
        if min(self.height, self.width) >= SMALLEST_SSIM_SIDE:
            metrics["ssim"] = StructuralSimilarity()
        return metrics

    def likelihood(self) -> dict[str, Metric]:
        """Make bits per dimension."""
        from lightning_bpd.metrics.images import BitsPerDimension

        return {"bits_per_dimension": BitsPerDimension()}

    def signature(self) -> str:
        """Describe how PSNR and SSIM are computed."""
        from lightning_bpd.metrics.images import image_quality_signature

        return image_quality_signature()

    def parts(self) -> Mapping[str, str]:
        """Return the sizes, which fully describe the codec."""
        sizes = f"{self.height} x {self.width} x {self.channels}, {self.levels} levels, factor {self.factor}"
        return {"image size": sizes}

    def describe(self) -> dict[str, Any]:
        """Return the sizes by name, and the output of ``parts``."""
        return {"images": asdict(self), "fingerprints": dict(self.parts())}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ImageCodec:
        """Make the codec from the output of ``describe``."""
        return from_plain(cls, description["images"])

    def write(self, folder: Path) -> dict[str, Any]:
        """Return the sizes by name; write no file."""
        return {"images": asdict(self)}

    def _check(self, images: Images) -> None:
        _check_images(images)
        if images.shape[1:] != self.shape:
            raise InputError(
                f"images of {_sizes(images.shape[1:])} do not fit: they must be {_sizes(self.shape)}"
                " (height x width x channels)"
            )


def to_png(image: Images) -> bytes:
    """Encode an image, uint8 [H, W, C], as the bytes of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(content, format="PNG")
    return content.getvalue()


def quantise(images: Images, levels: int) -> Images:
    """Round intensities to evenly spaced levels: uint8 0..255 to uint8 0..levels - 1, any shape.

    Black is level 0 and white the last one. With 256 levels nothing changes.
    """
    _check_levels(levels)
    # value * (levels - 1) / 255, rounded half up, in integers.
    table = (np.arange(256) * (levels - 1) * 2 + 255) // 510
    return table.astype(np.uint8)[_bytes(images)]


def dequantise(quantised: NDArray[np.integer], levels: int) -> Images:
    """Turn levels of any shape and integer type into intensities, uint8 0..255.

    ``quantise`` turns the intensities into the same levels again. Raises InputError for an unknown level.
    """
    _check_levels(levels)
    quantised = np.asarray(quantised)
    if quantised.size and not (quantised.min() >= 0 and quantised.max() < levels):
        raise InputError(
            f"tokens from {quantised.min()} to {quantised.max()} are not intensities: {levels} levels go from 0 to"
            f" {levels - 1}"
        )
    table = (np.arange(levels) * 510 + levels - 1) // (2 * (levels - 1))
    return table.astype(np.uint8)[quantised]


def images_to_tokens(images: Images, levels: int) -> Tokens:
    """Turn images, uint8 [N, H, W, C], into tokens, int64 [N, H * W * C]: the level of each intensity.

    Rows come from the top, pixels from the left, and a pixel's channels together.
    """
    _check_images(images)
    return quantise(images, levels).reshape(len(images), math.prod(images.shape[1:])).astype(np.int64)


def tokens_to_images(tokens: NDArray[np.integer], shape: tuple[int, int, int], levels: int) -> Images:
    """Turn tokens [N, H * W * C] into images, uint8 [N, H, W, C], for ``shape`` H, W, C.

    Raises InputError for another number of tokens, or for tokens that are not levels.
    """
    tokens = np.asarray(tokens)
    length = math.prod(shape)
    if tokens.ndim != 2 or tokens.shape[1] != length:
        raise InputError(
            f"tokens of shape {_sizes(tokens.shape)} are not images of {_sizes(shape)}: a row must hold {length} tokens"
        )
    return dequantise(tokens, levels).reshape(len(tokens), *shape)


def area_downsample(images: Images, factor: int) -> Images:
    """Average each square of ``factor`` x ``factor`` pixels, channel by channel, rounded half up.

    Uint8 [N, H, W, C] to uint8 [N, H / factor, W / factor, C]. Raises InputError unless both sides are multiples.
    """
    _check_images(images)
    count, height, width, channels = images.shape
    _check_factor(height, width, factor)
    squares = images.reshape(count, height // factor, factor, width // factor, factor, channels)
    pixels = factor * factor
    return ((squares.sum((2, 4), dtype=np.int64) * 2 + pixels) // (2 * pixels)).astype(np.uint8)


def centre_crop(images: Images, height: int, width: int) -> Images:
    """Crop the middle of each image, uint8 [N, H, W, C] to a view [N, height, width, C].

    An odd pixel is cut at the bottom or right. Raises InputError for smaller images.
    """
    _check_images(images)
    if not (0 < height <= images.shape[1] and 0 < width <= images.shape[2]):
        raise InputError(
            f"images of {_sizes(images.shape[1:3])} pixels cannot be cropped to {height} x {width}: give a smaller size"
        )
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return images[:, top : top + height, left : left + width]


def _check_levels(levels: int) -> None:
    if not 2 <= levels <= 256:
        raise InputError(f"levels is {levels}: it must be 2 to 256, the intensities of a byte")


def _check_factor(height: int, width: int, factor: int) -> None:
    if factor < 1 or factor != int(factor) or height % factor or width % factor:
        raise InputError(
            f"images of {height} x {width} pixels cannot be made {factor} times smaller: factor must be a whole number"
            " that divides both"
        )


def _check_images(images: Images) -> None:
    _bytes(images)
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise InputError(
            f"an array of shape {_sizes(images.shape)} holds no images: it must be N x height x width x channels, with"
            " 1 or 3 channels"
        )


def _bytes(images: Images) -> Images:
    if images.dtype != np.uint8:
        raise InputError(
            f"intensities have type {images.dtype}: they must be uint8, 0 to 255; convert the array"
        )
    return images


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
