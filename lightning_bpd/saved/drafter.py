"""A drafter with parameters on disk: the name and the fields of its shape, beside its weights (floor 3)."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_bpd.drafters import DrafterShape, HeadShape, TrainedDrafter
from lightning_bpd.faults import from_plain
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.network import build

if TYPE_CHECKING:
    from lightning_bpd.saved.network import Network


def describe_heads(heads: TrainedDrafter) -> dict[str, Any]:
    """What ``rebuild_heads`` rebuilds a drafter from; block heads are what it is if no class is named."""
    kind = type(heads.shape)
    named = {} if kind is HeadShape else {"class_path": f"{kind.__module__}.{kind.__qualname__}"}
    return {**named, "shape": dataclasses.asdict(heads.shape)}


def rebuild_heads(
    config: Mapping[str, Any], network: Network, weights: dict[str, Tensor], where: str
) -> TrainedDrafter:
    """The drafter that a configuration describes, with its weights, which are from ``where``."""
    shape = described_shape(config, where)
    return build(lambda: shape.build(network), 0, weights, where)


def described_shape(config: Mapping[str, Any], where: str) -> Any:
    """The inverse of ``describe_heads``, weights aside; ``where`` it is from."""
    kind = _shape_class(config["class_path"], where) if "class_path" in config else HeadShape
    return from_plain(kind, config["shape"])


def _shape_class(path: str, where: str) -> type[Any]:
    """The class of that name. Nothing else than a shape of a drafter is called, whatever a folder says."""
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"the drafter of {where} is a {path}, which cannot be imported ({error}): install the package that has it"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, DrafterShape)):
        raise InputError(f"{path}, which {where} names, is no DrafterShape: export the model again")
    return kind
