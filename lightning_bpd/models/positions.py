"""Fixed position vectors: sines and cosines (Vaswani et al. 2017, section 3.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoids(length: int, width: int) -> Tensor:
    """Make sine and cosine position vectors, float32 [length, width] (Vaswani et al. 2017, section 3.5)."""
    # In float64 first: float32 loses the phase of fast waves at large positions.
    position = torch.arange(length, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
    table = torch.empty(length, width, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)
    return table.float()


def halved_sinusoids(length: int, width: int) -> Tensor:
    """Make the vectors of ``sinusoids`` with all sines before all cosines, as in Marian, float32 [length, width]."""
    table = sinusoids(length, width)
    return torch.cat((table[:, 0::2], table[:, 1::2]), 1)
