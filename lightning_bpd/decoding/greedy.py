"""Greedy decoding, on the SequenceModel contract alone."""

from __future__ import annotations

import torch

from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.interfaces import DecodeResult, SequenceModel, State, TokenRows


@torch.inference_mode()
def greedy(model: SequenceModel[State], source: TokenRows, extra_length: int = 50) -> DecodeResult:
    """The most probable token at every step, for a batch of rows at once.

    A row ends with its end token, or after source length + ``extra_length`` tokens (Vaswani et al. 2017, section
    6.1); both lengths count their end token. Finished rows leave the batch at once.

    Args:
        model: Any SequenceModel, in eval mode.
        source: What to decode from, int64 [B, S] and [B], on the model's device.
        extra_length: Tokens that a row may be longer than its source.
    """
    limits = length_limits(model, source, extra_length)
    longest = int(limits.max())
    state = model.start(source, None, longest)
    tokens = torch.zeros(len(limits), longest, dtype=torch.long, device=limits.device)
    lengths = torch.zeros_like(limits)
    active = torch.arange(len(limits), device=limits.device)
    newest = torch.full_like(active, model.bos_id)
    calls = 0
    while len(active):
        hidden = model.step(newest[:, None], state)
        newest = model.project(hidden[:, -1]).argmax(-1)
        tokens[active, calls] = newest
        calls += 1
        finished = (newest == model.eos_id) | (limits == calls)
        if finished.any():
            lengths[active[finished]] = calls
            going = (~finished).nonzero().squeeze(1)
            active, limits, newest = active[going], limits[going], newest[going]
            if len(active):
                state.reorder(going)
    return DecodeResult(tokens[:, :calls], lengths, None, calls=lengths)
