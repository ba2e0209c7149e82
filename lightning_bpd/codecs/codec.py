"""The meaning of a model's tokens: text, or intensities (floor 2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from lightning_bpd.decoding import DecodingOptions, parse_acceptance
from lightning_bpd.faults import class_path, from_plain
from lightning_bpd.interfaces import InputError, Vocabularies

if TYPE_CHECKING:
    from torchmetrics import Metric


class Codec(ABC):
    """Turns tokens into text or images, and measures their quality.

    A subclass of your own is a frozen dataclass. A finished model stores its import path and its fields; a codec that
    needs more than plain data overrides the four methods of storage, and calls those that are here.
    """

    kind: ClassVar[str]
    """name for messages: text, images"""
    remedy: ClassVar[str]
    """advice for messages if the codecs of a model and its data differ"""
    ordinal: ClassVar[bool]
    """whether tokens are values with an order, which acceptance rules may compare"""

    @property
    @abstractmethod
    def vocabularies(self) -> Vocabularies:
        """All that a network knows of the tokens."""

    @abstractmethod
    def decode(self, rows: Sequence[Sequence[int]]) -> Sequence[Any]:
        """Return one text or image for each row of tokens, with or without its end token."""

    @abstractmethod
    def pieces(self, prefix: Sequence[int], tokens: Sequence[int]) -> list[str]:
        """Return a short readable label for each of ``tokens``, which come after ``prefix``."""

    @abstractmethod
    def quality(self) -> dict[str, Metric]:
        """Make metrics of quality by name, updated with outputs and references, exact on any number of ranks."""

    @abstractmethod
    def likelihood(self) -> dict[str, Metric]:
        """Make metrics of p_1's teacher-forced loss by name, updated with its sum in nats and the number of targets."""

    @abstractmethod
    def signature(self) -> str | None:
        """Describe how the quality is computed, as the library describes it."""

    @abstractmethod
    def parts(self) -> Mapping[str, str]:
        """Return fingerprints by name; two codecs are equal if all their fingerprints are."""

    def describe(self) -> dict[str, Any]:
        """Return the data from which the codec can be rebuilt, for a checkpoint: plain data and tensors of bytes."""
        return {**self._named(), "fingerprints": dict(self.parts())}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Make the codec from the output of ``describe``."""
        return from_plain(cls, description["codec"]["fields"])

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the codec's files into a finished model's folder; return its part of the folder's config.json."""
        return self._named()

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        """Read a codec that ``write`` wrote."""
        return cls.from_description(config)

    def _named(self) -> dict[str, Any]:
        fields = asdict(self)  # type: ignore[call-overload]  # a dataclass
        return {"codec": {"class_path": class_path(type(self)), "fields": fields}}


def check_decoding(options: DecodingOptions, trained: int | None, codec: Codec) -> DecodingOptions:
    """Return the options, if they fit the tokens and the heads.

    Args:
        options: Options for decoding a model.
        trained: The largest block that the model's heads propose; None for a model without heads.
        codec: The codec of the model.

    Raises:
        InputError: Blockwise decoding has no heads, a block is larger than the heads were trained for, or an
            acceptance rule compares tokens that have no order.
    """
    if options.decoder not in ("blockwise", "jacobi"):
        return options
    if trained is None and options.decoder == "blockwise":
        raise InputError(
            "this model has no block heads, so it cannot be decoded blockwise: train them on it with "
            "--config configs/translation/frozen.yaml --model.base MODEL; or decode it by jacobi, which needs none"
        )
    if trained is not None and options.decoder == "blockwise" and (options.block_size or 0) > trained:
        raise InputError(
            f"block_size {options.block_size} is larger than the {trained} that the heads were trained for"
        )
    if parse_acceptance(options.acceptance).ordinal and not codec.ordinal:
        raise InputError(
            f"acceptance {options.acceptance!r} compares values that have an order, such as intensities, but the "
            f"tokens of {codec.kind} have no order: choose exact, top-N or minimum-N"
        )
    return options
