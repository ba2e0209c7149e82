"""A drafter with parameters on disk: the name and the fields of its shape, beside its weights (floor 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_bpd.drafters import DrafterShape, HeadShape, TrainedDrafter
from lightning_bpd.faults import class_path, from_plain, named_class
from lightning_bpd.network import Network
from lightning_bpd.saved.network import build


def describe_heads(heads: TrainedDrafter) -> dict[str, Any]:
    """What ``rebuild_heads`` rebuilds a drafter from; block heads are what it is if no class is named."""
    kind = type(heads.shape)
    named = {} if kind is HeadShape else {"class_path": class_path(kind)}
    return {**named, "shape": dataclasses.asdict(heads.shape)}


def rebuild_heads(
    config: Mapping[str, Any], network: Network, weights: dict[str, Tensor], where: str
) -> TrainedDrafter:
    """The drafter that a configuration describes, with its weights, which are from ``where``."""
    shape = described_shape(config, where)
    network.return_layers(shape.base_layers or ())
    return build(lambda: shape.build(network), 0, weights, where)


def described_shape(config: Mapping[str, Any], where: str) -> Any:
    """The inverse of ``describe_heads``, weights aside; ``where`` it is from."""
    kind: Any = HeadShape
    if "class_path" in config:
        kind = named_class(config["class_path"], DrafterShape, where)
    return from_plain(kind, config["shape"])
