"""Decoding one token per call, which needs the SequenceModel contract only."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.decoding.samplers import Greedy
from lightning_bpd.interfaces import DecodeResult, Sampler, SequenceModel, State, TokenRows

GREEDY = Greedy()


@torch.inference_mode()
def sequential(
    model: SequenceModel[State],
    source: TokenRows,
    extra_length: int | Tensor = 50,
    sampler: Sampler = GREEDY,
    rows: Tensor | None = None,
) -> DecodeResult:
    """Decode one token per call, for a batch of rows at once.

    A row ends with an end token, or after source length + ``extra_length`` tokens (Vaswani et al. 2017, section
    6.1); both lengths count their end token. Finished rows leave the batch at once.

    Args:
        model: Any SequenceModel, in eval mode.
        source: The rows to decode from, int64 [B, S] and [B], on the model's device.
        extra_length: Tokens that a row may be longer than its source, one number or int64 [B].
        sampler: Chooses each token; the most probable one by default.
        rows: int64 [B], the number of each row in its corpus, which selects its noise; 0..B-1 by default.
    """
    limits = length_limits(model, source, extra_length)
    device = limits.device
    longest = int(limits.max())
    state = model.start(source, None, longest)
    tokens = torch.zeros(len(limits), longest, dtype=torch.long, device=device)
    lengths = torch.zeros_like(limits)
    ends = torch.tensor(sorted(model.ends), dtype=torch.long, device=device)
    active = torch.arange(len(limits), device=device)
    numbers = active if rows is None else rows
    newest = torch.full_like(active, model.bos_id)[:, None]
    calls = 0
    while len(active):
        hidden = model.step(newest, state)
        newest = sampler.choose(model.project(hidden), torch.full_like(active, calls), numbers)
        tokens[active, calls] = newest[:, 0]
        calls += 1
        finished = (newest == ends).any(1) | (limits == calls)
        if finished.any():
            lengths[active[finished]] = calls
            going = (~finished).nonzero().squeeze(1)
            active, limits, newest, numbers = active[going], limits[going], newest[going], numbers[going]
            if len(active):
                state.reorder(going)
    return DecodeResult(tokens[:, :calls], lengths, None, calls=lengths)


def greedy(model: SequenceModel[State], source: TokenRows, extra_length: int | Tensor = 50) -> DecodeResult:
    """Choose the most probable token at every step (``sequential`` with the default sampler)."""
    return sequential(model, source, extra_length)
