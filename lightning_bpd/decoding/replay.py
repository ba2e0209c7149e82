"""The block sizes that blockwise decoding would accept, computed from plain output without decoding again."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bpd.decoding.sequential import GREEDY
from lightning_bpd.interfaces import (
    DecodeResult,
    ReplayableDrafter,
    Sampler,
    SequenceModel,
    State,
    TokenRows,
)

# Proposals in one call: each needs a row of logits over the vocabulary.
_MOST_PROPOSALS = 512


@torch.inference_mode()
def replay(
    model: SequenceModel[State],
    drafter: ReplayableDrafter,
    source: TokenRows,
    result: DecodeResult,
    block_size: int,
    sampler: Sampler = GREEDY,
    rows: Tensor | None = None,
) -> list[Tensor]:
    """Compute the accepted block sizes of exact blockwise decoding, for every block size up to ``block_size``.

    With the exact rule the output does not depend on the block size. So one call over the output computes the hidden
    states of all proposals, and a proposal is accepted if it is the token of the output.

    Args:
        model: The model that ``result`` was decoded with, in eval mode.
        drafter: Proposes from one hidden state and the certain token.
        source: The rows that were decoded, int64 [B, S] and [B], on the model's device.
        result: The output of ``sequential`` for ``source``, with the same ``sampler`` and ``rows``.
        block_size: The largest block size k, at least 1.
        sampler: The sampler of ``result``, which also chooses the proposals.
        rows: int64 [B], the number of each row in its corpus; 0..B-1 by default.

    Returns:
        For each k' = 1..k, the accepted sizes of all iterations, int64 [B, I] on the CPU (``DecodeResult.accepted``).
    """
    tokens, lengths = result.tokens, result.lengths
    numbers = torch.arange(len(lengths), device=lengths.device) if rows is None else rows
    further = _further_accepted(
        model, drafter, source, tokens, lengths, block_size - 1, sampler, numbers
    ).cpu()
    return _walk(further, lengths.cpu(), block_size)


def _further_accepted(
    model: SequenceModel[State],
    drafter: ReplayableDrafter,
    source: TokenRows,
    tokens: Tensor,
    lengths: Tensor,
    count: int,
    sampler: Sampler,
    numbers: Tensor,
) -> Tensor:
    """Count the proposals accepted after the certain token, for an iteration at each position, int64 [B, L]."""
    positions = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
    inside = positions < lengths[:, None]
    further = torch.zeros_like(tokens)
    if count == 0:
        return further
    state = model.start(source, None, tokens.size(1))
    drafter.start(source, tokens.size(1), sampler, state.memory)
    start = torch.full_like(tokens[:, :1], model.bos_id)
    # At index t the model has read the start token and t tokens. Token t is certain; proposals follow it.
    hidden = model.step(torch.cat((start, tokens[:, :-1]), 1), state)
    most = max(1, _MOST_PROPOSALS // count)
    states, certain = hidden[inside].split(most), tokens[inside].split(most)
    where, row = positions[inside].split(most), numbers[:, None].expand_as(tokens)[inside].split(most)
    parts = zip(states, certain, where, row, strict=True)
    proposed = torch.cat([drafter.proposals(*part, count).tokens for part in parts])
    # No token is -1, so no proposal past the end of a row is accepted.
    padded = torch.nn.functional.pad(tokens.masked_fill(~inside, -1), (0, count), value=-1)
    chosen = padded.unfold(1, count + 1, 1)[inside][:, 1:]
    further[inside] = (proposed == chosen).cumprod(1).sum(1)
    return further


def _walk(further: Tensor, lengths: Tensor, block_size: int) -> list[Tensor]:
    """Walk from iteration to iteration in all rows at once; return the accepted sizes for each block size."""
    largest = torch.arange(1, block_size + 1)[:, None]
    position = torch.zeros(block_size, len(lengths), dtype=torch.long)
    steps = []
    while bool((position < lengths).any()):
        last = further.size(1) - 1
        size = torch.minimum(1 + further.T.gather(0, position.clamp(max=last)), largest)
        size = size.masked_fill(position >= lengths, 0)
        steps.append(size)
        position = position + size
    sizes = torch.stack(steps, 2)
    return [part[:, : int((part > 0).sum(1).max())] for part in sizes]
