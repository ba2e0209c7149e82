"""What a model's tokens are predicted by: a network of ours, or a Hugging Face model behind its adapter (floor 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_bpd.codecs import hugging_face
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.faults import from_plain, shortened
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, EncoderDecoder, ImageArchitecture, ImageTransformer

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


def network_config(network: Network) -> dict[str, Any]:
    """The network's constructor arguments as plain data."""
    if isinstance(network, ImageTransformer):
        return {"image_architecture": asdict(network.architecture)}
    if not isinstance(network, EncoderDecoder):
        return hugging_face.describe_network(network)
    return {
        "architecture": asdict(network.architecture),
        "source_vocabulary": network.source_vocabulary,
        "target_vocabulary": network.target_vocabulary,
        "bos_id": network.bos_id,
        "eos_id": network.eos_id,
    }


def build_network(config: Mapping[str, Any], weights: dict[str, Tensor], where: str) -> Network:
    """The inverse of ``network_config``, with its weights, which are from ``where``."""
    if "hugging_face" in config:
        return hugging_face.rebuild_network(config, weights, where)
    if "image_architecture" in config:
        shape = from_plain(ImageArchitecture, config["image_architecture"])
        return build(
            lambda: ImageTransformer(shape), shape.encoder_layers + shape.decoder_layers, weights, where
        )
    architecture = from_plain(Architecture, config["architecture"])
    others = {name: value for name, value in config.items() if name != "architecture"}
    layers = architecture.encoder_layers + architecture.decoder_layers
    return build(lambda: EncoderDecoder(architecture, **others), layers, weights, where)


def check_tokens(network: Network, codec: Any, where: str) -> None:
    """Raise InputError unless a network of ours and a codec are of the same tokens."""
    if isinstance(network, EncoderDecoder):
        sizes = (network.source_vocabulary, network.target_vocabulary)
        fits = isinstance(codec, TextCodec) and sizes == (codec.source.vocab_size, codec.target.vocab_size)
        fits = fits and all(0 <= token < sizes[1] for token in (network.bos_id, network.eos_id))
    else:
        shape: Any = network.architecture
        own = (shape.height, shape.width, shape.channels, shape.levels, shape.scale)
        fits = own == tuple(codec.describe().get("images", {}).values())
    if not fits:
        raise InputError(
            f"the tokens of {where} are not those of its network: export it again, or fetch it again"
        )
