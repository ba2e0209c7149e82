"""What the tokens of a model mean: text, or intensities (floor 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lightning_bpd.decoding import DecodingOptions, parse_acceptance
from lightning_bpd.interfaces import InputError

if TYPE_CHECKING:
    from torchmetrics import Metric


class Codec(Protocol):
    """Turns tokens into what people look at, and says how good that is."""

    kind: ClassVar[str]
    """in a word, for messages: text, images"""
    remedy: ClassVar[str]
    """what to do where a model and data do not have the same one"""
    ordinal: ClassVar[bool]
    """whether tokens are values that have an order, which rules of acceptance may compare"""

    def decode(self, rows: Sequence[Sequence[int]]) -> Sequence[Any]:
        """What rows of tokens, end token included or not, stand for; one a row."""

    def pieces(self, prefix: Sequence[int], tokens: Sequence[int]) -> list[str]:
        """Each of ``tokens``, which come after ``prefix``, in a word: what people recognise it by."""

    def quality(self) -> dict[str, Metric]:
        """New metrics by name, each updated with outputs and references and exact on any number of ranks."""

    def likelihood(self) -> dict[str, Metric]:
        """New metrics by name of p_1's teacher-forced loss, each updated with its sum in nats and how many targets."""

    def signature(self) -> str | None:
        """How the quality is computed, in the words of the library that does it."""

    def parts(self) -> Mapping[str, str]:
        """Fingerprints of what must be the same for two codecs to be the same, by name."""

    def describe(self) -> dict[str, Any]:
        """What rebuilds it, for a checkpoint: plain data and tensors of bytes."""

    def write(self, folder: Path) -> dict[str, Any]:
        """Write its files into a finished model's folder; returns what the folder's config.json says of it."""


def check_decoding(options: DecodingOptions, trained: int | None, codec: Codec) -> DecodingOptions:
    """The options, if they fit the tokens and the heads.

    Args:
        options: How a model is to be decoded.
        trained: The largest block that the model's heads propose; None for a model without heads.
        codec: What its tokens mean.

    Raises:
        InputError: Blockwise decoding without heads, a block larger than they were trained for, or an acceptance rule
            for values that have an order where tokens have none.
    """
    if options.decoder != "blockwise":
        return options
    if trained is None:
        raise InputError(
            "this model has no block heads, so it cannot be decoded blockwise: train them on it with "
            "--config configs/translation/frozen.yaml --model.base MODEL"
        )
    if options.block_size is not None and options.block_size > trained:
        raise InputError(
            f"block_size {options.block_size} is larger than the {trained} that the heads were trained for"
        )
    if parse_acceptance(options.acceptance).ordinal and not codec.ordinal:
        raise InputError(
            f"acceptance {options.acceptance!r} compares values that have an order, such as intensities, and the "
            f"tokens of {codec.kind} have none: choose exact, top-N or minimum-N"
        )
    return options
