"""The parameters of several heads as wide matrices, with their forward and backward pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bpd.kernels.linear import linear

# Elements of a product that are computed before they are added to a sum: 8 MiB of float32.
PRODUCT_ELEMENTS = 2**21


class HeadLayer(NamedTuple):
    """The parameters of n heads with H hidden units each, or their gradients."""

    hidden_weight: Tensor
    """[n, H, D]; in a dense layer [N, H, D] for all N heads"""
    hidden_bias: Tensor
    """[n, H]; in a dense layer [N, H]"""
    output_weight: Tensor
    """[n, D, H]; in a dense layer [n, D, N * H]"""
    output_bias: Tensor
    """[n, D]"""

    @property
    def dense(self) -> bool:
        """Whether an output sees the hidden units of all heads."""
        return self.output_weight.size(2) != self.hidden_weight.size(1)

    def of(self, heads: slice) -> HeadLayer:
        """Return the parameters of a range of heads as views; heads are counted from 0 within this layer."""
        if heads == slice(0, len(self.output_bias)):
            return self
        outputs = self.output_weight[heads], self.output_bias[heads]
        if self.dense:
            return HeadLayer(self.hidden_weight, self.hidden_bias, *outputs)
        return HeadLayer(self.hidden_weight[heads], self.hidden_bias[heads], *outputs)

    def units(self, hidden: Tensor) -> Tensor:
        """Compute the hidden units of all heads, [M, n * H], from hidden states [M, D]."""
        return linear(hidden, self.hidden_weight.flatten(0, 1), self.hidden_bias.flatten()).relu_()

    def outputs(self, hidden: Tensor, units: Tensor) -> Tensor:
        """Compute the outputs of the heads, [M, n, D], from hidden states [M, D] and their ``units``.

        Folded heads (``HeadDrafter.folded``) take and give V numbers instead of D.
        """
        heads, width = self.output_bias.shape
        if self.dense:
            mapped = linear(units, self.output_weight.flatten(0, 1), self.output_bias.flatten())
            return mapped.view(-1, heads, width) + hidden[:, None]
        by_head = units.view(units.size(0), heads, -1).transpose(0, 1)
        mapped = torch.baddbmm(self.output_bias[:, None], by_head, self.output_weight.mT)
        return mapped.transpose(0, 1) + hidden[:, None]

    def backward(self, hidden: Tensor, units: Tensor, gradient: Tensor, totals: HeadLayer | None) -> Tensor:
        """Backpropagate by hand: autograd would keep a gradient of all parameters for every part of a batch.

        Args:
            hidden: [M, D], in the dtype of the products.
            units: The output of ``units`` for ``hidden``, [M, n * H].
            gradient: The gradient of the outputs, [M, n, D], in the dtype of ``totals``.
            totals: Gradients of the parameters, to which this part's gradients are added; None to skip them.

        Returns:
            The gradient of ``hidden``, [M, D].
        """
        narrow = gradient.to(units.dtype)
        if self.dense:
            flat = narrow.flatten(1)
            of_units = linear(flat, self.output_weight.flatten(0, 1).t())
        else:
            by_head = narrow.transpose(0, 1)
            of_units = torch.bmm(by_head, self.output_weight).transpose(0, 1).flatten(1)
        of_units.mul_(units > 0)
        if totals is not None:
            if self.dense:
                add_product(totals.output_weight.flatten(0, 1), flat, units)
            else:
                units_by_head = units.view(len(units), len(by_head), -1).transpose(0, 1)
                _add_products(totals.output_weight, by_head, units_by_head)
            totals.output_bias.add_(gradient.sum(0))
            add_product(totals.hidden_weight.flatten(0, 1), of_units, hidden)
            totals.hidden_bias.view(-1).add_(of_units.sum(0))
        return gradient.sum(1) + linear(of_units, self.hidden_weight.flatten(0, 1).t())


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Compute ``total += left.T @ right`` for [R, C] += [M, R].T @ [M, C], a few rows at a time.

    So the product stays small and in the processor's cache. ``total`` may have a wider dtype than the factors.
    """
    rows = max(PRODUCT_ELEMENTS // right.size(1), 1)
    for first in range(0, len(total), rows):
        part = slice(first, first + rows)
        total[part].add_(linear(left[:, part].t(), right.t()))


def _add_products(totals: Tensor, left: Tensor, right: Tensor) -> None:
    """Add n products at once: [n, R, C] += [n, M, R].mT @ [n, M, C]."""
    if totals.dtype == left.dtype:
        totals.baddbmm_(left.mT, right)
    else:
        totals.add_(torch.bmm(left.mT, right))
