"""What a Hugging Face model does between its last hidden state and its logits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lightning_bpd.interfaces import InputError
from lightning_bpd.kernels.linear import linear


@dataclass(frozen=True)
class Projection:
    """Logits are ``cap * tanh(x / cap)`` of x = ``scale * hidden @ weight.T + bias``, each where there is one."""

    scale: float
    cap: float | None

    def logits(self, scaled: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[..., V] of hidden states [..., D] that were multiplied by ``scale``, weight [V, D] and bias [V]."""
        logits = linear(scaled, weight, bias)
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def output_layer(model: Any) -> tuple[Tensor, Tensor | None]:
    """The vocabulary projection, [V, D], and what is added to its logits, [V], as they are now.

    Raises:
        InputError: The model has none.
    """
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or weight.dim() != 2:
        raise InputError(
            f"{family(model)} has no vocabulary projection of one matrix (get_output_embeddings), which block heads "
            "share: this model cannot be a base"
        )
    biases = [
        bias.reshape(-1)
        for bias in (getattr(head, "bias", None), getattr(model, "final_logits_bias", None))
        if bias is not None
    ]
    return weight, sum(biases[1:], start=biases[0]) if biases else None


def find_projection(model: Any, hidden: Tensor, logits: Tensor) -> Projection:
    """What makes the model's own ``logits`` [..., V] of its own last ``hidden`` states [..., D].

    The configuration tells the numbers, and the model's behaviour which of them it uses.

    Raises:
        InputError: Nothing that is known does.
    """
    weight, bias = output_layer(model)
    config = model.config.get_text_config(decoder=True)
    scales = [1.0, weight.size(1) ** -0.5]
    if isinstance(scale := getattr(config, "logit_scale", None), int | float):
        scales.append(float(scale))
    if isinstance(divisor := getattr(config, "logits_scaling", None), int | float) and divisor:
        scales.append(1.0 / divisor)
    # Small logits show no cap: where the configuration has one, it is tried first.
    cap = getattr(config, "final_logit_softcapping", None)
    caps = [None] if cap is None else [float(cap), None]
    errors = []
    for cap, scale in product(caps, scales):
        found = Projection(scale, cap)
        error = difference(found.logits(hidden * scale, weight, bias), logits)
        if error <= tolerance(logits.dtype):
            return found
        errors.append(error)
    raise InputError(
        f"the logits of {family(model)} are not its last hidden states times its vocabulary projection: with the "
        f"bias, scale or cap that its configuration names they differ by {min(errors):.1e} of the largest logit; "
        "its projection is of a kind that lightning_bpd/adapters/projection.py does not know"
    )


def tolerance(dtype: torch.dtype) -> float:
    """By how much of the largest logit rounding may change one."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else 5e-2


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference between logits, as a share of the largest of ``theirs``."""
    largest = theirs.abs().max().clamp(min=torch.finfo(theirs.dtype).tiny)
    return float((ours - theirs).abs().max() / largest)


def family(model: Any) -> str:
    """How messages name a model."""
    return f"the Hugging Face model {type(model).__name__} ({model.config.model_type})"
