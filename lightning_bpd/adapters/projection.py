"""The computation of a Hugging Face model between its last hidden state and its logits."""

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
    """Logits ``cap * tanh(x / cap)`` of x = ``scale * hidden @ weight.T + bias``; bias and cap are optional."""

    scale: float
    cap: float | None

    def logits(self, scaled: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute logits [..., V] from scaled hidden states [..., D], weight [V, D] and bias [V]."""
        logits = linear(scaled, weight, bias)
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def output_layer(model: Any) -> tuple[Tensor, Tensor | None]:
    """Return the model's current vocabulary projection, [V, D], and its bias, [V] or None.

    Raises:
        InputError: The model has no such projection.
    """
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or weight.dim() != 2:
        raise InputError(
            f"{family(model)} cannot be a base: it has no vocabulary projection of one matrix "
            "(get_output_embeddings), which block heads share"
        )
    biases = [
        bias.reshape(-1)
        for bias in (getattr(head, "bias", None), getattr(model, "final_logits_bias", None))
        if bias is not None
    ]
    return weight, sum(biases[1:], start=biases[0]) if biases else None


def find_projection(model: Any, hidden: Tensor, logits: Tensor) -> Projection:
    """Find the projection from the model's last ``hidden`` states [..., D] to its ``logits`` [..., V].

    The configuration names possible numbers, and the logits show which of them the model uses.

    Raises:
        InputError: No known projection gives these logits.
    """
    weight, bias = output_layer(model)
    config = model.config.get_text_config(decoder=True)
    scales = [1.0, weight.size(1) ** -0.5]
    if isinstance(scale := getattr(config, "logit_scale", None), int | float):
        scales.append(float(scale))
    if isinstance(divisor := getattr(config, "logits_scaling", None), int | float) and divisor:
        scales.append(1.0 / divisor)
    # A cap does not show in small logits, so the configured cap is tried first.
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
    """Return the rounding error allowed in a logit, as a share of the largest logit."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else 5e-2


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference between logits, as a share of the largest logit of ``theirs``."""
    largest = theirs.abs().max().clamp(min=torch.finfo(theirs.dtype).tiny)
    return float((ours - theirs).abs().max() / largest)


def family(model: Any) -> str:
    """Return the name of a model for messages."""
    return f"the Hugging Face model {type(model).__name__} ({model.config.model_type})"
