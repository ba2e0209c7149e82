"""Costs of the parts of decoding on this machine, and how many proposals are worth verifying at these costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from lightning_bpd.decoding.acceptance import Exact
from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.decoding.sequential import GREEDY
from lightning_bpd.interfaces import (
    Block,
    Costs,
    DecodeState,
    Drafter,
    SequenceModel,
    TokenRows,
    VerifiedBlock,
)
from lightning_bpd.timing import timed

# Seconds of one measurement after which more calls of a part add nothing.
ENOUGH = 0.05


def proposals_that_pay(confidence: Tensor, seconds: Tensor) -> int:
    """Return how many proposals to verify so that the block is expected to accept the most tokens per second.

    Args:
        confidence: [B, n], the probability that each proposal is accepted if those before it are.
        seconds: [n + 1] or more, the seconds of an iteration that verifies 0, 1, ... proposals, on the same device.
    """
    # The certain token of each row, and each proposal as far as all before it are accepted.
    certain = confidence.new_full((1,), len(confidence))
    expected = torch.cat((certain, confidence.cumprod(1).sum(0))).cumsum(0)
    return int((expected / seconds[: len(expected)]).argmax())


def iteration_seconds(
    model: SequenceModel[Any], drafter: Drafter, source: TokenRows, extra_length: int | Tensor
) -> list[float]:
    """Return the seconds of an iteration that verifies 1..k tokens, and proposes k - 1.

    They are measured once for each drafter and for batches of about the size of ``source``.
    """
    known = _MEASURED.setdefault(drafter, {})
    device, size = source.lengths.device, len(source.lengths).bit_length()
    # The last batch of a corpus is smaller than the others, and not worth the second that measuring takes.
    for near in (size, size + 1, size - 1):
        if (device, near) in known:
            return known[device, near]
    costs = decoding_costs(model, drafter, source, extra_length, turns=3, calls=3)
    known[device, size] = [call + costs.propose[-1] for call in costs.call]
    return known[device, size]


_MEASURED: MutableMapping[Drafter, dict[tuple[torch.device, int], list[float]]] = WeakIdKeyDictionary()


@torch.inference_mode()
def decoding_costs(
    model: SequenceModel[Any],
    drafter: Drafter,
    source: TokenRows,
    extra_length: int | Tensor,
    length: int | None = None,
    turns: int = 9,
    calls: int = 20,
) -> Costs:
    """Measure the parts of decoding ``source``: medians over turns of all parts, after one call of each to warm up.

    Args:
        model: Any SequenceModel, in eval mode.
        drafter: Its drafter, which forgets the rows that it had.
        source: The rows to decode together; one, for decoding one at a time.
        extra_length: Tokens that a row may be longer than its source.
        length: Tokens in the cache when a block is verified, at least 1, whose values do not matter; by default half
            of the tokens that a row may have, and at most 32.
        turns: Measurements of each part.
        calls: The most calls in each measurement; fewer of a slow part.
    """
    most, device = drafter.block_size, source.lengths.device
    count = len(source.lengths)
    longest = int(length_limits(model, source, extra_length).max())
    length = max(min(longest // 2, 32), 1) if length is None else length
    state = model.start(source, None, longest + most)
    # Any token will do that may come after the start token, such as the one that the model itself chooses.
    start = torch.full((count, 1), model.bos_id, device=device)
    token = model.project(model.step(start, state)).argmax(-1)
    state.rewind(torch.zeros(count, dtype=torch.long))
    block = token.expand(-1, most).contiguous()
    before = torch.cat((start, token.expand(-1, length - 1)), 1)
    read = model.step(before, state)
    hidden = read[:, -1:].expand(-1, most, -1).contiguous()
    logits = model.project(hidden)
    numbers = torch.arange(count, device=device)
    positions, ones = torch.full_like(numbers, length), torch.ones_like(numbers)
    choices = logits.argmax(-1)
    verified = VerifiedBlock(block, positions, numbers, hidden, logits, choices, ones)
    drafter.start(source, longest, GREEDY, state.memory)
    # A drafter with a memory of its own reads what came before, too.
    prefix = VerifiedBlock(before, positions - length, numbers, read, logits, choices, ones * length)
    if most > 1:
        drafter.propose(prefix, block[:, 0], 1)
    lengths = positions.cpu()
    parts: dict[tuple[str, int], Callable[[], object]] = {
        ("start", 0): lambda: model.start(source, None, longest + most)
    }
    for size in range(1, most + 1):
        verify = Block(block[:, :size], positions, numbers)
        parts["call", size] = partial(_call, model, verify, state, lengths)
        if size > 1:
            parts["propose", size] = partial(drafter.propose, verified, block[:, 0], size - 1)
    seconds: dict[tuple[str, int], list[float]] = {part: [] for part in parts}
    repeats = dict.fromkeys(parts, 1)
    for turn in range(turns + 1):
        for part, function in parts.items():
            _, nanoseconds = timed(partial(_repeat, function, repeats[part]), device)
            each = nanoseconds / 1e9 / repeats[part]
            if turn:
                seconds[part].append(each)
            else:  # the first turn is to warm up
                repeats[part] = min(max(int(ENOUGH / each), 1), calls)
    medians = {part: statistics.median(values) for part, values in seconds.items()}
    return Costs(
        medians["start", 0],
        [medians["call", size] for size in range(1, most + 1)],
        [0.0, *(medians["propose", size] for size in range(2, most + 1))],
    )


def _call(model: SequenceModel[Any], block: Block, state: DecodeState, lengths: Tensor) -> None:
    """One call as the loop makes it: verify, decide, tell the host, and forget."""
    logits = model.project(model.step(block.tokens, state))
    choices = GREEDY.choose(logits, block.positions, block.rows)
    torch.column_stack(Exact().decide(block, logits, choices)).tolist()
    state.rewind(lengths)


def _repeat(function: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        function()
