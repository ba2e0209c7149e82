"""Images as codes of a tokenizer, such as a VQ-VAE (floor 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from lightning_bpd.codecs.image_tokenizers import PixelTokenizer, rebuild_tokenizer, stored_tokenizer
from lightning_bpd.codecs.images import Images, Tokens
from lightning_bpd.codecs.labelled_images import LabelledImageCodec, describe_classes
from lightning_bpd.faults import class_path


@dataclass(frozen=True)
class ImageCodes(LabelledImageCodec):
    """The codes of a tokenizer as tokens. ``ImageCodes.of`` makes it.

    A finished model holds the tokenizer's weights, and of a Hugging Face tokenizer its name.
    """

    height: int
    width: int
    channels: int
    classes: tuple[str, ...]
    fingerprint: str
    """of the tokenizer's weights"""
    tokenizer: PixelTokenizer = field(compare=False, repr=False)
    remedy: ClassVar[str] = "give the data the model's own tokenizer, sizes and classes"
    ordinal: ClassVar[bool] = False

    @classmethod
    def of(cls, tokenizer: PixelTokenizer, classes: tuple[str, ...]) -> Self:
        """The codec of a tokenizer."""
        sizes = tokenizer.height, tokenizer.width, tokenizer.channels
        return cls(*sizes, classes, tokenizer.fingerprint, tokenizer)

    @property
    def grid(self) -> tuple[int, ...]:
        """Height and width of the grid of cells, and the codes at a cell if there are several."""
        return self.tokenizer.grid

    @property
    def vocabulary(self) -> int:
        """The number of codes."""
        return self.tokenizer.vocabulary

    def encode(self, images: Images) -> Tokens:
        """Turn images, uint8 [N, H, W, C], into codes, int64 [N, L]."""
        self.check_images(images)
        return self.tokenizer.encode(images)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[Images]:
        """Return the image of each row of L codes, uint8 [H, W, C]."""
        return list(self.tokenizer.decode(self.token_rows(rows)))

    def parts(self) -> Mapping[str, str]:
        """Return the sizes, the classes, and the fingerprint of the tokenizer."""
        grid = " x ".join(map(str, self.grid))
        return {
            "image size": f"{self.height} x {self.width} x {self.channels}",
            "image tokenizer": f"{self.fingerprint}, {grid} codes of {self.vocabulary}",
            "classes": describe_classes(self.classes),
        }

    def describe(self) -> dict[str, Any]:
        """Return the classes, and what the tokenizer is rebuilt from."""
        return {**self._stored(self.tokenizer.describe()), "fingerprints": dict(self.parts())}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Make the codec from the output of ``describe``."""
        fields = description["codec"]["fields"]
        return cls.of(rebuild_tokenizer(fields["tokenizer"]), tuple(fields["classes"]))

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer's weights into the folder."""
        return self._stored(self.tokenizer.write(folder))

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        """Read the codec that ``write`` wrote."""
        fields = config["codec"]["fields"]
        return cls.of(stored_tokenizer(folder, fields["tokenizer"]), tuple(fields["classes"]))

    def _stored(self, tokenizer: dict[str, Any]) -> dict[str, Any]:
        fields = {"classes": list(self.classes), "tokenizer": tokenizer}
        return {"codec": {"class_path": class_path(type(self)), "fields": fields}}
