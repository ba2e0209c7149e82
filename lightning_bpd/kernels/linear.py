"""Linear maps, by whichever of the CPU's two matrix libraries is faster."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

# oneDNN keeps what it prepared for each shape that it has met, with a copy of the weights, up to 1,024 of them: with
# batches of many lengths that is gigabytes. It asks for this when it is first used.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
# Multiply-adds from which oneDNN is faster than MKL; a smaller product takes less time than its call.
_ONEDNN_FROM = 1_500_000
# The same for a single row: with a matrix that the processor's caches hold, MKL is as fast, and called sooner.
_ROW_ONEDNN_FROM = 4_000_000
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: x [..., K], weight [N, K], bias [N] to [..., N].

    On a CPU torch gives float32 products to MKL, which leaves half of an AMD processor's speed unused. Large ones
    go to oneDNN here, which runs at full speed on any. A single row, as in decoding, is a matrix times a vector.
    """
    if (
        not x.is_cpu
        or x.dtype != torch.float32
        or weight.dtype != x.dtype
        or torch.is_autocast_enabled("cpu")
    ):
        return F.linear(x, weight, bias)
    gradient = torch.is_grad_enabled()
    if x.numel() == x.size(-1) and not gradient and weight.numel() < _ROW_ONEDNN_FROM:
        row = x.reshape(-1)
        product = torch.mv(weight, row) if bias is None else torch.addmv(bias, weight, row)
        return product.view(*x.shape[:-1], -1)
    if _HAS_ONEDNN and x.numel() * len(weight) >= _ONEDNN_FROM:
        return _Linear.apply(x, weight, bias) if gradient else _onednn(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """``nn.Linear`` by the function above."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] to [..., N]."""
        return linear(input, self.weight, self.bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # What torch.compile makes of a linear layer on a CPU; it has no gradient of its own.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        flat_x, flat_gradient = x.flatten(0, -2), gradient.flatten(0, -2)
        grad_weight = None
        if of_weight:
            # oneDNN copies its first argument if it is transposed: let that be the narrower one.
            if x.size(-1) < gradient.size(-1):
                grad_weight = _onednn(flat_x.t(), flat_gradient.t()).t()
            else:
                grad_weight = _onednn(flat_gradient.t(), flat_x.t())
        return (
            _onednn(gradient, weight.t()) if of_x else None,
            grad_weight,
            flat_gradient.sum(0) if of_bias else None,
        )
