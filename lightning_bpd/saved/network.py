"""What a model's tokens are predicted by: a network of ours, or a Hugging Face model behind its adapter (floor 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_bpd.codecs import hugging_face
from lightning_bpd.faults import class_path, from_plain, named_class, shortened
from lightning_bpd.interfaces import Grid, InputError, Vocabularies
from lightning_bpd.models import Architecture, ImageArchitecture, ImageTransformer
from lightning_bpd.network import Network, NetworkShape

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
    if network.of_hugging_face:
        return hugging_face.describe_network(network)  # type: ignore[arg-type]
    kind, shape = type(network.architecture), asdict(network.architecture)
    if kind is ImageArchitecture:
        return {"image_architecture": shape}
    assert network.vocabularies is not None
    vocabularies = {key: value for key, value in network.vocabularies._asdict().items() if value is not None}
    named = {} if kind is Architecture else {"class_path": class_path(kind)}
    return {**named, "architecture": shape, **vocabularies}


def build_network(config: Mapping[str, Any], weights: dict[str, Tensor], where: str) -> Network:
    """The inverse of ``network_config``, with its weights, which are from ``where``."""
    if "hugging_face" in config:
        return hugging_face.rebuild_network(config, weights, where)
    if "image_architecture" in config:
        images = from_plain(ImageArchitecture, config["image_architecture"])
        return build(lambda: ImageTransformer(images), images.layers, weights, where)
    kind: Any = Architecture
    if "class_path" in config:
        kind = named_class(config["class_path"], NetworkShape, where)
    shape = from_plain(kind, config["architecture"])
    sizes = Vocabularies(**{key: config[key] for key in config.keys() - {"class_path", "architecture"}})
    if sizes.image is not None:
        sizes = sizes._replace(image=Grid(*sizes.image))
    if sizes.grid is not None:
        sizes = sizes._replace(grid=tuple(sizes.grid))
    return build(lambda: shape.build(sizes), shape.layers, weights, where)


def check_tokens(network: Network, codec: Any, where: str) -> None:
    """Raise InputError unless a network of ours and a codec are of the same tokens."""
    own = network.vocabularies
    assert own is not None
    fits = own == codec.vocabularies._replace(bos_id=own.bos_id, eos_id=own.eos_id)
    if own.image is None and own.grid is None:  # the start token of images is none of their own
        fits = fits and all(0 <= token < own.target_vocabulary for token in (own.bos_id, *network.ends))
    if not fits:
        raise InputError(
            f"the tokens of {where} are not those of its network: export it again, or fetch it again"
        )
