"""What a model's tokens are predicted by: a network of ours, or a Hugging Face model behind its adapter (floor 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_bpd.interfaces import InputError
from lightning_bpd.models import EncoderDecoder, ImageTransformer

if TYPE_CHECKING:
    # Not else: it loads transformers, which most runs do without.
    from lightning_bpd.adapters import ModelAdapter

    Network = EncoderDecoder | ImageTransformer | ModelAdapter


@dataclass(frozen=True)
class LoraShape:
    """Low-rank updates of a base's matrices, which are trained in their place (Hu et al. 2021).

    Args:
        rank: Rank of each update.
        alpha: An update counts alpha / rank.
    """

    rank: int = 16
    alpha: float = 32.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise InputError(f"rank must be at least 1 and alpha above 0, not {self}")


def longest_source(network: Network) -> int | None:
    """The longest source that a network reads, in tokens; None where there is no limit."""
    if isinstance(network, EncoderDecoder | ImageTransformer):
        return network.max_length
    return network.longest_source
