"""Linear maps by the faster of the CPU's two matrix libraries."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

# oneDNN caches a primitive with a copy of the weights for each shape, up to 1,024 of them: gigabytes for batches of
# many lengths. It reads this variable at its first use.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
# Multiply-adds from which oneDNN is faster than MKL; a smaller product takes less time than the call of oneDNN.
_ONEDNN_FROM = 1_500_000
# Threshold for a single row: MKL is as fast for a matrix that fits the processor's caches, and its call is cheaper.
_ROW_ONEDNN_FROM = 4_000_000
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


# Rows up to which loops that the compiler writes are faster than a library, which copies the weights first: for inner
# products that are short, for those of this length on, and for weights that must come from memory.
_MOST_ROWS_IN_LOOPS = 2
_LONG = 512
_MOST_ROWS_OF_LONG, _MOST_ROWS_FROM_MEMORY = 4, 8


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``F.linear``: x [..., K], weight [N, K], bias [N] to [..., N].

    On a CPU torch computes float32 products by MKL, which leaves half of an AMD processor's speed unused. This function
    gives large products to oneDNN, which is fast on any processor. A single row, as in decoding, is a matrix-vector
    product. Compiled code multiplies a few rows by loops of its own.
    """
    if torch.compiler.is_compiling():
        return _compiled(x, weight, bias)
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


def _compiled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``linear`` as the compiler shall write it."""
    rows, length = math.prod(x.shape[:-1]), x.size(-1)
    if not x.is_cpu or not isinstance(rows, int):
        return F.linear(x, weight, bias)
    if rows == 1 or (rows <= _MOST_ROWS_IN_LOOPS and length < _LONG):
        product = (x[..., None, :] * weight).sum(-1)
        return product if bias is None else product + bias
    from_memory = weight.numel() >= _ROW_ONEDNN_FROM
    if length >= _LONG and rows <= (_MOST_ROWS_FROM_MEMORY if from_memory else _MOST_ROWS_OF_LONG):
        # The loop over rows is inside the one over outputs, so that each weight is read once.
        product = (weight[:, None, :] * x.reshape(rows, -1)).sum(-1)
        product = (product if bias is None else product + bias[:, None]).t().contiguous()
        # The compiler keeps to strides only where it has to, and what follows would be slow with others. The copy
        # costs nothing; it is what may be changed in place.
        product = product.as_strided(product.size(), (product.size(1), 1)).clone()
        return product.view(*x.shape[:-1], -1)
    if _HAS_ONEDNN and x.dtype == torch.float32 and rows * weight.numel() >= _ROW_ONEDNN_FROM:
        return _onednn(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """``nn.Linear`` by the function above."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., K] to [..., N]."""
        return linear(input, self.weight, self.bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # The operator that torch.compile makes from a linear layer on a CPU; it has no gradient.
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
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        flat_x, flat_gradient = x.flatten(0, -2), gradient.flatten(0, -2)
        grad_weight = None
        if needs_weight:
            # oneDNN copies a transposed first argument, so the narrower matrix comes first.
            if x.size(-1) < gradient.size(-1):
                grad_weight = _onednn(flat_x.t(), flat_gradient.t()).t()
            else:
                grad_weight = _onednn(flat_gradient.t(), flat_x.t())
        return (
            _onednn(gradient, weight.t()) if needs_x else None,
            grad_weight,
            flat_gradient.sum(0) if needs_bias else None,
        )
