"""What a model's tokens are predicted by: a network of ours, or a Hugging Face model behind its adapter (floor 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from lightning_bpd.faults import shortened
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import EncoderDecoder, ImageTransformer

if TYPE_CHECKING:
    # Not else: it loads transformers, which most runs do without.
    from lightning_bpd.adapters import ModelAdapter

    Network = EncoderDecoder | ImageTransformer | ModelAdapter


M = TypeVar("M", bound=nn.Module)


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


def build(make: Callable[[], M], layers: int, weights: Mapping[str, Tensor], where: str) -> M:
    """The module that ``make`` gives, with its weights, which are from ``where``.

    Neither time nor memory is spent on a module that the weights do not fit.

    Raises:
        InputError: They do not fit.
    """
    if not 0 <= layers <= len(weights):
        raise InputError(
            f"the weights in {where} do not fit its own configuration: they are not of {layers} layers"
        )
    try:
        with torch.device("meta"):
            make().load_state_dict(dict(weights), assign=True)
        module = make()
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise InputError(
            f"the weights in {where} do not fit its own configuration: {shortened(error)}"
        ) from error
    return module
