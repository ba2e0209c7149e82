"""Images as tokens: one token an intensity, row by row, the channels of a pixel side by side (floor 2).

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

from lightning_bpd.faults import from_plain
from lightning_bpd.interfaces import InputError

if TYPE_CHECKING:
    from torchmetrics import Metric

Images = NDArray[np.uint8]
Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class ImageCodec:
    """Super-resolution as tokens: small images in, large ones out (a Codec).

    Raises:
        InputError: The sizes fit no image.
    """

    height: int
    """of the large image, in pixels"""
    width: int
    """of the large image, in pixels"""
    channels: int = 3
    """1 for grey, 3 for red, green and blue"""
    levels: int = 256
    """intensities that are told apart, 2 to 256"""
    factor: int = 4
    """how many times as high and as wide the large image is"""
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
    def start_id(self) -> int:
        """The start token, one past the levels; no image contains it, and no model gives it."""
        return self.levels

    def small(self, images: Images) -> Images:
        """What a model sees of large images: uint8 [N, H, W, C] to uint8 [N, h, w, C]."""
        self._check(images)
        return area_downsample(images, self.factor)

    def source_tokens(self, images: Images) -> Tokens:
        """The tokens of ``small``: large images, uint8 [N, H, W, C], to int64 [N, h * w * C]."""
        return images_to_tokens(self.small(images), self.levels)

    def target_tokens(self, images: Images) -> Tokens:
        """Large images, uint8 [N, H, W, C], to int64 [N, H * W * C]."""
        self._check(images)
        return images_to_tokens(images, self.levels)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[Images]:
        """The large image of each row of H * W * C tokens, uint8 [H, W, C].

        Raises InputError for other tokens, or another number of them.
        """
        if not len(rows):
            return []
        for row in rows:
            if len(row) != self.target_length:
                raise InputError(
                    f"a row of {len(row)} tokens is no image: {self.height} x {self.width} pixels of {self.channels}"
                    f" channels take {self.target_length}"
                )
        return list(tokens_to_images(np.asarray(rows, dtype=np.int64), self.shape, self.levels))

    def pieces(self, prefix: Sequence[int], tokens: Sequence[int]) -> list[str]:
        """Each level in figures; of colours with the initial of the channel: ``r200``, ``g13``, ``b0``."""
        initials = "rgb" if self.channels == 3 else ("",)
        return [
            f"{initials[place % self.channels]}{token}"
            for place, token in enumerate(tokens, start=len(prefix))
        ]

    def quality(self) -> dict[str, Metric]:
        """Peak signal-to-noise ratio in decibels; and structural similarity, unless images are too small for it."""
        # Not above: tokens need no metrics, and would wait for what they import.
        from lightning_bpd.metrics.images import SMALLEST_SSIM_SIDE, PeakSignalToNoise, StructuralSimilarity

        metrics: dict[str, Metric] = {"psnr": PeakSignalToNoise()}
        if min(self.height, self.width) >= SMALLEST_SSIM_SIDE:
            metrics["ssim"] = StructuralSimilarity()
        return metrics

    def likelihood(self) -> dict[str, Metric]:
        """Bits per dimension."""
        from lightning_bpd.metrics.images import BitsPerDimension

        return {"bits_per_dimension": BitsPerDimension()}

    def signature(self) -> str:
        """How PSNR and SSIM are computed."""
        from lightning_bpd.metrics.images import image_quality_signature

        return image_quality_signature()

    def parts(self) -> Mapping[str, str]:
        """The sizes, which are all there is to it."""
        sizes = f"{self.height} x {self.width} x {self.channels}, {self.levels} levels, factor {self.factor}"
        return {"image size": sizes}

    def describe(self) -> dict[str, Any]:
        """The sizes by name, and as ``parts`` gives them."""
        return {"images": asdict(self), "fingerprints": dict(self.parts())}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ImageCodec:
        """The inverse of ``describe``."""
        return from_plain(cls, description["images"])

    def write(self, folder: Path) -> dict[str, Any]:
        """The sizes by name; no file is needed."""
        return {"images": asdict(self)}

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any]) -> ImageCodec:
        """The inverse of ``write``."""
        return cls.from_description(config)

    def _check(self, images: Images) -> None:
        _check_images(images)
        if images.shape[1:] != self.shape:
            raise InputError(
                f"images of {_sizes(images.shape[1:])} do not fit: they must be {_sizes(self.shape)}"
                " (height x width x channels)"
            )


def to_png(image: Images) -> bytes:
    """An image, uint8 [H, W, C], as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(content, format="PNG")
    return content.getvalue()


def quantise(images: Images, levels: int) -> Images:
    """Intensities to the nearest of evenly spaced levels: uint8 0..255 to uint8 0..levels - 1, any shape.

    Black is level 0 and white the last one. With 256 levels nothing changes.
    """
    _check_levels(levels)
    # Integers alone: (value * (levels - 1) / 255), rounded half up.
    table = (np.arange(256) * (levels - 1) * 2 + 255) // 510
    return table.astype(np.uint8)[_bytes(images)]


def dequantise(quantised: NDArray[np.integer], levels: int) -> Images:
    """The inverse of ``quantise``: levels of any shape and integer type to intensities, uint8 0..255.

    ``quantise`` gives exactly the same levels back. Raises InputError for a level that there is not.
    """
    _check_levels(levels)
    quantised = np.asarray(quantised)
    if quantised.size and not (quantised.min() >= 0 and quantised.max() < levels):
        raise InputError(
            f"tokens from {quantised.min()} to {quantised.max()} are no intensities: with {levels} levels these go"
            f" from 0 to {levels - 1}"
        )
    table = (np.arange(levels) * 510 + levels - 1) // (2 * (levels - 1))
    return table.astype(np.uint8)[quantised]


def images_to_tokens(images: Images, levels: int) -> Tokens:
    """Uint8 [N, H, W, C] to int64 [N, H * W * C]: rows from the top, pixels from the left, a pixel's channels together.

    A token is the level of its intensity.
    """
    _check_images(images)
    return quantise(images, levels).reshape(len(images), math.prod(images.shape[1:])).astype(np.int64)


def tokens_to_images(tokens: NDArray[np.integer], shape: tuple[int, int, int], levels: int) -> Images:
    """The inverse of ``images_to_tokens``: [N, H * W * C] to uint8 [N, H, W, C], for ``shape`` H, W, C.

    Raises InputError for another number of tokens, or for tokens that are no levels.
    """
    tokens = np.asarray(tokens)
    length = math.prod(shape)
    if tokens.ndim != 2 or tokens.shape[1] != length:
        raise InputError(
            f"tokens of shape {_sizes(tokens.shape)} are no images of {_sizes(shape)}: a row must hold {length}"
        )
    return dequantise(tokens, levels).reshape(len(tokens), *shape)


def area_downsample(images: Images, factor: int) -> Images:
    """The mean of each square of ``factor`` x ``factor`` pixels, channel by channel, rounded half up.

    Uint8 [N, H, W, C] to uint8 [N, H / factor, W / factor, C]. Raises InputError unless both sides are multiples.
    """
    _check_images(images)
    count, height, width, channels = images.shape
    _check_factor(height, width, factor)
    squares = images.reshape(count, height // factor, factor, width // factor, factor, channels)
    pixels = factor * factor
    return ((squares.sum((2, 4), dtype=np.int64) * 2 + pixels) // (2 * pixels)).astype(np.uint8)


def centre_crop(images: Images, height: int, width: int) -> Images:
    """The middle of each image, uint8 [N, H, W, C] to a view [N, height, width, C].

    Where what is cut off is odd, the pixel more is cut at the bottom or right. Raises InputError for smaller images.
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
            " 1 channel or 3"
        )


def _bytes(images: Images) -> Images:
    if images.dtype != np.uint8:
        raise InputError(
            f"intensities of type {images.dtype}: they must be uint8, 0 to 255; convert the array"
        )
    return images


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
