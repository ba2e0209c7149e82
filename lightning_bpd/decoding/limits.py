"""The length limit of decoded rows, one rule for every decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bpd.interfaces import SequenceModel, State, TokenRows


def length_limits(model: SequenceModel[State], source: TokenRows, extra_length: int | Tensor) -> Tensor:
    """Compute the most tokens of each row, its end token included, int64 [B].

    The limit is the length of the source, its end token included, plus ``extra_length`` (Vaswani et al. 2017, section
    6.1), a number or int64 [B], and at most the longest row of the model. A model without an end token, such as a model
    of images, decodes rows of its full length.
    """
    if not model.ends and model.max_length is not None:
        return torch.full_like(source.lengths, model.max_length)
    limits = source.lengths + extra_length
    return limits if model.max_length is None else limits.clamp(max=model.max_length)
