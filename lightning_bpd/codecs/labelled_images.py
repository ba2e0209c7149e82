"""Images with a class as tokens: what models that generate images of a class predict (floor 2).

Shapes: N images, H height, W width, C channels (1 grey, 3 red, green and blue), L tokens of an image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from lightning_bpd.codecs.codec import Codec
from lightning_bpd.codecs.images import Images, Tokens, images_to_tokens, tokens_to_images
from lightning_bpd.faults import class_path, from_plain
from lightning_bpd.interfaces import InputError, Vocabularies

if TYPE_CHECKING:
    from torchmetrics import Metric


class LabelledImageCodec(Codec, ABC):
    """Turns images into a grid of tokens and back; the source of an image is one token, the label of its class.

    A subclass is a frozen dataclass with at least these fields. ``encode`` and ``decode`` are pure functions of their
    arguments, so tokens of a data set may be stored.
    """

    kind: ClassVar[str] = "labelled images"
    height: int
    """height of an image, in pixels"""
    width: int
    """width of an image, in pixels"""
    channels: int
    """1 for grey, 3 for red, green and blue"""
    classes: tuple[str, ...]
    """the name of each class, by its label"""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, ...]:
        """The sides of the grid of tokens: height and width, and depth if a cell has several tokens."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """The number of different tokens."""

    @abstractmethod
    def encode(self, images: Images) -> Tokens:
        """Turn images, uint8 [N, H, W, C], into tokens in raster order, int64 [N, L].

        Raises InputError for images of another size.
        """

    @property
    def shape(self) -> tuple[int, int, int]:
        """H, W, C of an image."""
        return self.height, self.width, self.channels

    @property
    def length(self) -> int:
        """L, the number of tokens of an image; there is no end token."""
        return math.prod(self.grid)

    @property
    def vocabularies(self) -> Vocabularies:
        """The classes and the tokens. The start token is one past the tokens; no image contains it."""
        return Vocabularies(len(self.classes), self.vocabulary, self.vocabulary, grid=self.grid)

    def check_labels(self, labels: Sequence[int]) -> None:
        """Raise InputError unless all labels are those of classes."""
        for label in labels:
            if not 0 <= label < len(self.classes):
                raise InputError(
                    f"the label {label} is out of range: the {len(self.classes)} classes have labels from 0 to"
                    f" {len(self.classes) - 1}"
                )

    def pieces(self, prefix: Sequence[int], tokens: Sequence[int]) -> list[str]:
        """Return each token as a number."""
        return [str(token) for token in tokens]

    def quality(self) -> dict[str, Metric]:
        """Make no metric: an image that was generated has no reference."""
        return {}

    def likelihood(self) -> dict[str, Metric]:
        """Make bits per token."""
        # Imported here, because the imports of metrics are slow and tokens do not need them.
        from lightning_bpd.metrics.images import BitsPerDimension

        return {"bits_per_token": BitsPerDimension()}

    def signature(self) -> str | None:
        """Return None: there is no quality of single images."""
        return None

    def check_images(self, images: Images) -> None:
        """Raise InputError unless these are images of the codec's size, uint8 [N, H, W, C]."""
        if images.dtype != np.uint8 or images.shape[1:] != self.shape:
            given = " x ".join(map(str, images.shape[1:]))
            raise InputError(
                f"images of {given}, {images.dtype}, do not fit: they must be {' x '.join(map(str, self.shape))}"
                " (height x width x channels), uint8; give the data the codec's height, width and channels"
            )

    def token_rows(self, rows: Sequence[Sequence[int]]) -> Tokens:
        """Return rows of tokens as an array, int64 [N, L].

        Raises InputError for another number of tokens, or tokens that are not in the vocabulary.
        """
        for row in rows:
            if len(row) != self.length:
                raise InputError(
                    f"a row of {len(row)} tokens is not an image: a grid of {' x '.join(map(str, self.grid))} takes"
                    f" {self.length}"
                )
        tokens = np.asarray(rows, dtype=np.int64).reshape(len(rows), self.length)
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < self.vocabulary):
            raise InputError(
                f"tokens from {tokens.min()} to {tokens.max()} are not of this codec, whose {self.vocabulary} tokens go"
                f" from 0 to {self.vocabulary - 1}"
            )
        return tokens


def describe_classes(classes: Sequence[str]) -> str:
    """A short text that differs if the classes or their order differ."""
    joined = ", ".join(classes)
    if len(joined) <= 200:
        return f"{len(classes)}: {joined}"
    import hashlib

    return f"{len(classes)}, hash {hashlib.sha256(joined.encode(errors='surrogateescape')).hexdigest()[:16]}"


@dataclass(frozen=True)
class ImageLevels(LabelledImageCodec):
    """Intensities as tokens, one for each channel of each pixel. Raises InputError if no image fits."""

    height: int
    width: int
    channels: int
    levels: int
    """number of distinct intensities, 2 to 256"""
    classes: tuple[str, ...]
    remedy: ClassVar[str] = "give the data the model's own height, width, channels, levels and classes"
    ordinal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise InputError(f"an image of {self.height} x {self.width} pixels: both must be at least 1")
        if self.channels not in (1, 3):
            raise InputError(f"channels is {self.channels}: it must be 1 (grey) or 3 (red, green, blue)")
        if not 2 <= self.levels <= 256:
            raise InputError(f"levels is {self.levels}: it must be 2 to 256, the intensities of a byte")
        if not self.classes:
            raise InputError("there must be at least one class")

    @property
    def grid(self) -> tuple[int, ...]:
        """Height and width, and the channels of colour images."""
        return (self.height, self.width) if self.channels == 1 else self.shape

    @property
    def vocabulary(self) -> int:
        """The number of levels."""
        return self.levels

    def encode(self, images: Images) -> Tokens:
        """Round intensities to levels: uint8 [N, H, W, C] to int64 [N, H * W * C]."""
        self.check_images(images)
        return images_to_tokens(images, self.levels)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[Images]:
        """Return the image of each row of H * W * C tokens, uint8 [H, W, C]."""
        return list(tokens_to_images(self.token_rows(rows), self.shape, self.levels))

    def parts(self) -> Mapping[str, str]:
        """Return the sizes and the classes."""
        sizes = f"{self.height} x {self.width} x {self.channels}, {self.levels} levels"
        return {"image size": sizes, "classes": describe_classes(self.classes)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Make the codec from the output of ``describe``."""
        return from_plain(cls, plain_fields(description))

    def _named(self) -> dict[str, Any]:
        fields = {**asdict(self), "classes": list(self.classes)}
        return {"codec": {"class_path": class_path(type(self)), "fields": fields}}


def plain_fields(description: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a codec in the output of its ``describe``; JSON turned the tuple of classes into a list."""
    fields = dict(description["codec"]["fields"])
    return {**fields, "classes": tuple(fields["classes"])}
