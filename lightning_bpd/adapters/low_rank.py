"""Low-rank updates of a model's matrices (LoRA, Hu et al. 2021): few trained parameters, merged at the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D


class LowRank(nn.Module):
    """A frozen linear map plus a trained low-rank update, which is zero at first.

    Args:
        inner: A Linear, or the Conv1D of GPT-2, whose matrix is transposed.
        rank: Rank of the update.
        alpha: The update is scaled by alpha / rank.
    """

    def __init__(self, inner: nn.Module, rank: int, alpha: float) -> None:
        super().__init__()
        self.inner: Any = inner
        matrix = self._matrix()
        outputs, inputs = matrix.shape
        self.scale = alpha / rank
        # At least float32, so that small steps add up in any dtype of the model.
        wide = matrix.new_empty(0, dtype=torch.promote_types(matrix.dtype, torch.float32))
        self.down = nn.Parameter(torch.randn(rank, inputs).to(wide) * inputs**-0.5)
        self.up = nn.Parameter(wide.new_zeros(outputs, rank))

    def _matrix(self) -> Tensor:
        weight = self.inner.weight
        return weight.t() if isinstance(self.inner, Conv1D) else weight

    @property
    def weight(self) -> Tensor:
        """The frozen matrix; T5 reads its dtype."""
        return self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        update = F.linear(F.linear(x.to(self.down.dtype), self.down), self.up)
        return self.inner(x) + (update * self.scale).to(x.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Add the update to the matrix in place, and return the linear map."""
        matrix = self._matrix()
        matrix += (self.up @ self.down * self.scale).to(matrix.dtype)
        return self.inner


def add_low_rank(model: Any, rank: int, alpha: float) -> None:
    """Freeze a model, and add an update to each linear map but the vocabulary projection."""
    model.requires_grad_(False)
    output = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | Conv1D) and module is not output:
            model.set_submodule(name, LowRank(module, rank, alpha))


def merge_low_rank(model: Any) -> None:
    """Merge all updates into the matrices; the parameters stay frozen."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LowRank):
            model.set_submodule(name, module.merged())
