"""Losses of logits that are sums of products, computed without all logits in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bpd.drafters.layer import add_product
from lightning_bpd.drafters.losses import CPU_LOGITS, GPU_LOGITS
from lightning_bpd.drafters.scores import KnownGradients
from lightning_bpd.kernels.linear import linear


class Factor(NamedTuple):
    """One product in the logits, ``rows @ weight.T``."""

    rows: Tensor
    """[P, D]"""
    weight: Tensor
    """[V, D]"""


# Maps logits [P, V] and their place among all rows to losses [P], a mask of right predictions [P], and the gradient of
# the logits [P, V].
Score = Callable[[Tensor, slice], tuple[Tensor, Tensor, Tensor]]


def projected_loss(
    factors: Sequence[Factor],
    bias: Tensor | None,
    score: Score,
    shares: Tensor,
    most_logits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a weighted sum of losses, one for each row of logits.

    The rows are processed in parts, and the gradients of each part are computed at once. ``backward()`` works once,
    and gives no second derivatives.

    Args:
        factors: The products whose sum gives the logits, [P, V].
        bias: Added to the logits, [V], or None; it gets no gradient.
        score: The losses of some rows of logits, and their gradients.
        shares: [P], the weight of each row's loss.
        most_logits: Number of logits to hold at once; by default chosen for the device.

    Returns:
        The weighted sum, a scalar; the losses [P], float32 or wider, detached; and a mask of right predictions [P].
    """
    rows = factors[0].rows
    device, vocabulary = rows.device.type, len(factors[0].weight)
    wide = torch.promote_types(rows.dtype, torch.float32)
    narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype
    shares = shares.to(wide)
    # The loss is multiplied by this factor for its gradients, because float16 would lose shares of 1 / 30,000.
    scale = torch.tensor(float(max(len(rows), 1)), dtype=wide, device=rows.device)
    tensors = [tensor for factor in factors for tensor in factor]
    needed = [torch.is_grad_enabled() and tensor.requires_grad for tensor in tensors]
    gradients = [
        torch.zeros_like(tensor, dtype=wide) if need else None
        for tensor, need in zip(tensors, needed, strict=True)
    ]
    losses = torch.zeros(len(rows), dtype=wide, device=rows.device)
    correct = torch.zeros_like(losses, dtype=torch.bool)
    at_once = max((most_logits or (CPU_LOGITS if device == "cpu" else GPU_LOGITS)) // vocabulary, 1)
    with torch.no_grad(), torch.autocast(device, enabled=False):
        weights = [factor.weight.detach().to(narrow) for factor in factors]
        for first in range(0, len(rows), at_once):
            part = slice(first, first + at_once)
            inputs = [factor.rows[part].detach().to(narrow) for factor in factors]
            logits = linear(inputs[0], weights[0]).to(wide)
            for more, weight in zip(inputs[1:], weights[1:], strict=True):
                logits += linear(more, weight)
            if bias is not None:
                logits += bias
            losses[part], correct[part], of_logits = score(logits, part)
            if not any(needed):
                continue
            of_logits = of_logits.mul_((shares[part] * scale)[:, None]).to(narrow)
            for index, (own, weight) in enumerate(zip(inputs, weights, strict=True)):
                of_rows, of_weight = gradients[2 * index], gradients[2 * index + 1]
                if of_rows is not None:
                    of_rows[part] = linear(of_logits, weight.t())
                if of_weight is not None:
                    add_product(of_weight, of_logits, own)
    loss = (losses * shares).sum()
    if any(needed):
        loss = KnownGradients.apply(loss, scale, gradients, *tensors)
    return loss, losses, correct
