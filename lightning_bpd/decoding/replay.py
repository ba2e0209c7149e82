"""What blockwise decoding would accept, known from greedy output without decoding again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_bpd.interfaces import DecodeResult, SequenceModel, State, TokenRows

# Proposals made at once: each costs a row of logits as wide as the vocabulary.
_MOST_PROPOSALS = 512


@torch.inference_mode()
def replay(
    model: SequenceModel[State],
    proposals: Callable[[Tensor, int], Tensor],
    source: TokenRows,
    greedy_result: DecodeResult,
    block_size: int,
) -> list[Tensor]:
    """The accepted block sizes of exact blockwise decoding, for every block size up to ``block_size``.

    The exact rule gives greedy's tokens whatever the block size. So one call over them makes all hidden states that
    proposals are read from, and a proposal is accepted where it is the token that greedy chose.

    Args:
        model: The model that ``greedy_result`` was decoded with, in eval mode.
        proposals: Maps hidden states [N, D] and a count n to the n tokens proposed after the certain one, int64
            [N, n]: what heads 2..n + 1 predict.
        source: What was decoded from, int64 [B, S] and [B], on the model's device.
        greedy_result: Greedy's output for ``source``.
        block_size: The largest block size k, at least 1.

    Returns:
        For k' = 1..k the accepted size of each iteration, int64 [B, I] on the CPU, as in ``DecodeResult.accepted``.
    """
    tokens, lengths = greedy_result.tokens, greedy_result.lengths
    further = _further_accepted(model, proposals, source, tokens, lengths, block_size - 1).cpu()
    return _walk(further, lengths.cpu(), block_size)


def _further_accepted(
    model: SequenceModel[State],
    proposals: Callable[[Tensor, int], Tensor],
    source: TokenRows,
    tokens: Tensor,
    lengths: Tensor,
    count: int,
) -> Tensor:
    """int64 [B, L]: proposals accepted after the certain token at each place, were an iteration to begin there."""
    places = torch.arange(tokens.size(1), device=tokens.device)
    inside = places < lengths[:, None]
    further = torch.zeros_like(tokens)
    if count == 0:
        return further
    state = model.start(source, None, tokens.size(1))
    start = torch.full_like(tokens[:, :1], model.bos_id)
    # At place t the model has read the start token and t tokens; proposals there are for place t + 1 onwards.
    hidden = model.step(torch.cat((start, tokens[:, :-1]), 1), state)[inside]
    parts = hidden.split(max(1, _MOST_PROPOSALS // count))
    proposed = torch.cat([proposals(part, count) for part in parts])
    # No token is -1: nothing past the end of a row is accepted.
    padded = torch.nn.functional.pad(tokens.masked_fill(~inside, -1), (0, count), value=-1)
    chosen = padded.unfold(1, count + 1, 1)[inside][:, 1:]
    further[inside] = (proposed == chosen).cumprod(1).sum(1)
    return further


def _walk(further: Tensor, lengths: Tensor, block_size: int) -> list[Tensor]:
    """Accepted sizes for each block size, by going from iteration to iteration in all rows at once."""
    largest = torch.arange(1, block_size + 1)[:, None]
    place = torch.zeros(block_size, len(lengths), dtype=torch.long)
    steps = []
    while bool((place < lengths).any()):
        last = further.size(1) - 1
        size = torch.minimum(1 + further.T.gather(0, place.clamp(max=last)), largest)
        size = size.masked_fill(place >= lengths, 0)
        steps.append(size)
        place = place + size
    sizes = torch.stack(steps, 2)
    return [part[:, : int((part > 0).sum(1).max())] for part in sizes]
