"""Dropout with cheap random numbers on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def keep_mask(like: Tensor, probability: float) -> Tensor:
    """Draw a mask of 0 (with ``probability``) and 1 / (1 - ``probability``), of the shape and dtype of ``like``.

    One 64-bit draw serves four elements, 16 bits each. So the used probability is within 2**-16 of ``probability``,
    and the scale is that of the used one. Drawing a float for each element costs ten times as much, which is a quarter
    of a training step of a small Transformer on a CPU.
    """
    threshold = min(max(round(probability * 65536), 1), 65535)
    draws = torch.empty((like.numel() + 3) // 4, dtype=torch.int64, device=like.device)
    draws.random_(-(2**63), None)
    bits = draws.view(torch.int16)[: like.numel()].view(like.shape)
    return (bits >= threshold - 32768).to(like.dtype).mul_(65536 / (65536 - threshold))


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Set elements to zero with ``probability`` and scale the others, if ``training``; any shape."""
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    return x * keep_mask(x, probability)


def add_dropped(residual: Tensor, x: Tensor, probability: float, training: bool) -> Tensor:
    """Compute ``residual + dropout(x)`` in one pass over memory."""
    if not training or probability == 0.0:
        return residual + x
    if x.device.type != "cpu":
        return residual + F.dropout(x, probability)
    return torch.addcmul(residual, x, keep_mask(x, probability))
