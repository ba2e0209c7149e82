"""What the parts of decoding cost on this machine, and what block sizes heads reach: enough to predict speed-ups."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_bpd.decoding import GREEDY, DecodingOptions, Exact, greedy, replay
from lightning_bpd.interfaces import Block, DecodeState, ReplayableDrafter, TokenRows, VerifiedBlock
from lightning_bpd.measuring.record import Arm, Costs, Replay
from lightning_bpd.measuring.timing import timed
from lightning_bpd.saved.finished_model import GenerativeModel

# Turns of all measured parts, and calls in each.
TURNS, CALLS = 9, 20


def measure_heads(
    model: GenerativeModel,
    sources: Sequence[Any],
    arms: Sequence[Arm],
    batch_size: int,
    decode: DecodingOptions,
) -> dict[str, Any]:
    """The fields of a record that only a model with proposals has; empty for a model without.

    Args:
        model: A ``Translator`` or an ``Upscaler``.
        sources: Its rows.
        arms: What was decoded already, greedy decoding first.
        batch_size: Rows decoded together for the replay.
        decode: The limits of length.
    """
    if model.block_size in (None, 1):
        return {}
    whole = (arm for arm in arms[1:] if (arm.block_size, arm.acceptance) == (model.block_size, "exact"))
    exact = next(whole, None)
    # A row of the middle length, by itself.
    alone = [source for _, source in model.batches(sources, 1)]
    return {
        "replay": _replayed(model, sources, batch_size, decode, sum(arms[0].tokens)),
        "acceptance_by_position": None if exact is None else exact.acceptance_by_position,
        "costs": decoding_costs(model, alone[len(alone) // 2], decode),
    }


def _replayed(
    subject: GenerativeModel, sources: Sequence[Any], batch_size: int, decode: DecodingOptions, tokens: int
) -> Replay | None:
    """Iterations for all rows, of ``tokens`` tokens; None for a drafter that must be decoded with."""
    if not isinstance(subject.drafter, ReplayableDrafter):
        return None
    return Replay(tokens, replayed_iterations(subject, sources, batch_size, decode))


def replayed_iterations(
    subject: GenerativeModel, sources: Sequence[Any], batch_size: int, decode: DecodingOptions
) -> list[int]:
    """Iterations of exact blockwise decoding for k' = 1..k, summed over the rows; from one call over greedy output."""
    assert isinstance(subject.drafter, ReplayableDrafter)
    totals = [0] * subject.drafter.block_size
    for _, source in subject.batches(sources, batch_size):
        output = greedy(subject.model, source, decode.extra(source))
        sizes = replay(subject.model, subject.drafter, source, output, len(totals))
        totals = [total + int((accepted > 0).sum()) for total, accepted in zip(totals, sizes, strict=True)]
    return totals


@torch.inference_mode()
def decoding_costs(subject: GenerativeModel, source: TokenRows, decode: DecodingOptions) -> Costs:
    """Seconds of the parts of decoding ``source``, its cache half full: medians over turns of all parts.

    Args:
        subject: A model with block heads.
        source: The rows to decode together; one, for decoding one at a time.
        decode: The limits of length.

    Returns:
        ``start``, of encoder and cache; ``call``, over 1..k tokens, with p_1's projection and decision, as the loop
        waits for it; ``propose``, of 0..k - 1 tokens.
    """
    model, drafter = subject.model, subject.drafter
    assert drafter is not None
    most = drafter.block_size
    output = greedy(model, source, decode.extra(source))
    half = max(int(output.lengths.max()) // 2, 1)
    before = torch.cat([torch.full_like(output.tokens[:, :1], model.bos_id), output.tokens], 1)[:, :half]
    rows = torch.arange(most, device=subject.device)
    block = output.tokens[:, :1].expand(-1, most).contiguous()

    state = model.start(source, None, half + most)
    read = model.step(before, state)
    hidden = read[:, -1:].expand(-1, most, -1).contiguous()
    logits = model.project(hidden)
    positions, numbers = (
        torch.full_like(output.lengths, half),
        torch.arange(len(before), device=subject.device),
    )
    choices, ones = logits.argmax(-1), torch.ones_like(output.lengths)
    verified = VerifiedBlock(block, positions, numbers, hidden, logits, choices, ones)
    drafter.start(source, half + most, GREEDY, state.memory)
    # A drafter with a memory of its own reads the first half, too.
    prefix = VerifiedBlock(before, positions - half, numbers, read, logits, choices, ones * half)
    drafter.propose(prefix, output.tokens[:, half - 1], 1)
    lengths = torch.full_like(output.lengths, half).cpu()
    parts: dict[tuple[str, int], Callable[[], object]] = {
        ("start", 0): lambda: model.start(source, None, int(output.lengths.max()) + most)
    }
    for size in range(1, most + 1):
        verify = Block(block[:, rows[:size]], positions, numbers)
        parts["call", size] = partial(_call, model, verify, state, lengths)
        if size > 1:
            parts["propose", size] = partial(drafter.propose, verified, output.tokens[:, 0], size - 1)
    seconds: dict[tuple[str, int], list[float]] = {part: [] for part in parts}
    for turn in range(TURNS + 1):
        for part, function in parts.items():
            _, nanoseconds = timed(partial(_repeat, function), subject.device)
            if turn:  # the first is to warm up
                seconds[part].append(nanoseconds / 1e9 / CALLS)
    medians = {part: statistics.median(values) for part, values in seconds.items()}
    return Costs(
        medians["start", 0],
        [medians["call", size] for size in range(1, most + 1)],
        [0.0, *(medians["propose", size] for size in range(2, most + 1))],
    )


def _call(model: Any, block: Block, state: DecodeState, lengths: Tensor) -> None:
    """One call as the loop makes it: verify, decide, tell the host, and forget."""
    logits = model.project(model.step(block.tokens, state))
    choices = GREEDY.choose(logits, block.positions, block.rows)
    torch.column_stack(Exact().decide(block, logits, choices)).tolist()
    state.rewind(lengths)


def _repeat(function: Callable[[], object]) -> None:
    for _ in range(CALLS):
        function()
