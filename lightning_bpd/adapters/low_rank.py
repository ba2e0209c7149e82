"""Low-rank updates of a model's matrices (LoRA, Hu et al. 2021): little to train, and merged at the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D


class LowRank(nn.Module):
    """A linear map that stays as it is, and beside it a narrow detour that is trained; at first it adds nothing.

    Args:
        inner: A Linear, or the Conv1D of GPT-2, whose matrix is transposed.
        rank: Width of the detour.
        alpha: The detour counts alpha / rank.
    """

    def __init__(self, inner: nn.Module, rank: int, alpha: float) -> None:
        super().__init__()
        self.inner: Any = inner
        matrix = self._matrix()
        outputs, inputs = matrix.shape
        self.scale = alpha / rank
        # Wide enough to add up small steps, whatever the model is computed in.
        wide = matrix.new_empty(0, dtype=torch.promote_types(matrix.dtype, torch.float32))
        self.down = nn.Parameter(torch.randn(rank, inputs).to(wide) * inputs**-0.5)
        self.up = nn.Parameter(wide.new_zeros(outputs, rank))

    def _matrix(self) -> Tensor:
        weight = self.inner.weight
        return weight.t() if isinstance(self.inner, Conv1D) else weight

    @property
    def weight(self) -> Tensor:
        """The matrix that stays; T5 asks for its type."""
        return self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        detour = F.linear(F.linear(x.to(self.down.dtype), self.down), self.up)
        return self.inner(x) + (detour * self.scale).to(x.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """One linear map that does both."""
        matrix = self._matrix()
        matrix += (self.up @ self.down * self.scale).to(matrix.dtype)
        return self.inner


def add_low_rank(model: Any, rank: int, alpha: float) -> None:
    """Freeze a model, and put a detour beside each linear map of its layers; the vocabulary projection has none."""
    model.requires_grad_(False)
    output = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | Conv1D) and module is not output:
            model.set_submodule(name, LowRank(module, rank, alpha))


def merge_low_rank(model: Any) -> None:
    """The inverse of ``add_low_rank``, what was learned included; what was frozen stays so."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LowRank):
            model.set_submodule(name, module.merged())
