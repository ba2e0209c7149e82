"""Greedy and blockwise decoding with a compiled iteration: one function, tensors in and tensors out.

``blockwise`` is the specification: the output is the same, token for token and block for block, except for near-ties in
floating point. An iteration is exported (``torch.export``) and compiled ahead of time (AOTInductor), once for one row
and once for more rows, for sources and caches of any length. Compiled code does not contain the weights, so models of
one shape share it. It is kept in the user's cache folder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_bpd.decoding.acceptance import Adaptive, Speculative
from lightning_bpd.decoding.blockwise import EXACT, HostRow, block_result, check_block_size
from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.decoding.sequential import GREEDY
from lightning_bpd.interfaces import (
    Acceptance,
    Block,
    DecodeResult,
    Drafter,
    Sampler,
    SequenceModel,
    StaticModel,
    TokenRows,
    VerifiedBlock,
)
from lightning_bpd.kernels.ahead_of_time import Compiled, missing_compiler

logger = logging.getLogger(__name__)

# Places that are added to a cache at once.
STEP = 48


def obstacle(
    model: SequenceModel[Any], drafter: Drafter | None, acceptance: Acceptance = EXACT
) -> str | None:
    """Return why decoding cannot be compiled; None if it can."""
    for part in (model, drafter):
        if part is not None and not getattr(part, "compiles", False):
            return f"the calls of {type(part).__name__} cannot be compiled"
    if isinstance(acceptance, Adaptive):
        return "the rule adaptive verifies blocks of different lengths"
    if isinstance(acceptance, Speculative):
        return "the speculative rule needs the distributions of the proposals"
    return missing_compiler()


@dataclass(eq=False)
class _Setting:
    """All that an iteration knows but its tensors."""

    model: SequenceModel[Any]
    drafter: Any
    """a drafter with a state of its own has it as ``state``"""
    block_size: int
    acceptance: Acceptance
    sampler: Sampler
    states: Sequence[Any]
    """of the model and, if it has one, of the drafter: templates, whose tensors are replaced in each call"""

    def iterate(self, parts: Sequence[Tensor], *tensors: Sequence[Tensor]) -> Any:
        """Verify a block, decide, and propose the next: one turn of the loop in ``blockwise``.

        Args:
            parts: Tokens, positions and rows of a ``Block``; how many tokens of it may be accepted, int64 [1]; and the
                largest position that has room, int64 [B], where finished rows idle.
            tensors: The tensors of each state, whose caches are changed.

        Returns:
            The next blocks and their positions, and what the host reads: the number of accepted tokens and the token
            after them, int64 [B, 2].
        """
        tokens, positions, rows, most, last = parts
        positions = torch.minimum(positions, last)
        state, *of_drafter = (
            each.with_tensors(part) for each, part in zip(self.states, tensors, strict=True)
        )
        state.rewind(positions)
        block = Block(tokens, positions, rows)
        hidden = self.model.step(tokens, state)
        logits = self.model.project(hidden)
        choices = self.sampler.choose(logits, positions, rows)
        accepted, following = self.acceptance.decide(block, logits, choices)
        # The first block is the start token alone. What stands behind it was not proposed.
        kept = torch.minimum(accepted, most)
        following = torch.where(kept < accepted, choices.gather(1, kept[:, None] - 1)[:, 0], following)
        block_tokens = following[:, None]
        if self.block_size > 1:
            if of_drafter:
                (self.drafter.state,) = of_drafter
            verified = VerifiedBlock(tokens, positions, rows, hidden, logits, choices, kept)
            proposed = self.drafter.propose(verified, following, self.block_size - 1).tokens
            block_tokens = torch.cat((block_tokens, proposed), 1)
        return block_tokens, positions + kept, torch.stack((kept, following), 1)

    def owners(self) -> list[object]:
        """All that holds weights."""
        return [self.model] if self.block_size == 1 else [self.model, self.drafter]


@torch.inference_mode()
def compiled(
    model: SequenceModel[Any],
    drafter: Drafter | None,
    source: TokenRows,
    block_size: int,
    acceptance: Acceptance = EXACT,
    extra_length: int | Tensor = 50,
    sampler: Sampler = GREEDY,
    rows: Tensor | None = None,
    ahead: bool | None = None,
) -> DecodeResult:
    """Decode as ``blockwise`` does, with compiled iterations; ``block_size`` 1 is decoding one token per call.

    Rows that have ended idle until half of the rows have ended; then they leave.

    Args:
        model: A model without ``obstacle``, in eval mode.
        drafter: Proposes all tokens of a block but the first; None only for ``block_size`` 1.
        source: As for ``blockwise``, like the arguments that follow.
        block_size: The tokens verified in one call.
        acceptance: Decides which proposals stay.
        extra_length: Tokens that a row may be longer than its source, one number or int64 [B].
        sampler: Chooses the tokens.
        rows: int64 [B], the number of each row in its corpus; 0..B-1 by default.
        ahead: Whether an iteration is launched before the host reads the one before; by default on a GPU.
    """
    check_block_size(block_size, 1 if drafter is None else drafter.block_size)
    if source.tokens.size(1) == 1:
        # Compiled code is for sources of two tokens or more.
        source = TokenRows(F.pad(source.tokens, (0, 1)), source.lengths)
    device = source.lengths.device
    ahead = device.type == "cuda" if ahead is None else ahead
    limits = length_limits(model, source, extra_length)
    hosts = [HostRow(limit, model.ends) for limit in limits.tolist()]
    longest = max(row.limit for row in hosts)
    state = model.start(source, None, longest + 4 * block_size, encode=_encode)  # type: ignore[call-arg]
    states = [state]
    if drafter is not None and block_size > 1:
        drafter.start(source, longest + 2 * block_size, sampler, state.memory)
        states += [] if (own := getattr(drafter, "state", None)) is None else [own]
    setting = _Setting(model, drafter, block_size, acceptance, sampler, states)
    rows = torch.arange(len(hosts), device=device) if rows is None else rows
    tokens = torch.zeros(len(hosts), block_size, dtype=torch.long, device=device)
    tokens[:, 0] = model.bos_id
    positions, most = torch.zeros_like(rows), torch.ones_like(rows[:1])
    last, whole = limits, torch.full_like(most, block_size)
    tensors, capacity = [each.tensors() for each in states], 0
    active = hosts
    # Of the iterations that were launched and not read yet: tokens, accepted tokens, the token after them.
    unread: list[Tensor] = []
    while True:
        needed = max(len(row.tokens) for row in active) + (3 + len(unread)) * block_size
        if needed > capacity:
            # A call reads all places, so a cache grows in steps.
            capacity = needed + STEP
            tensors = [_grown(part, each, capacity) for part, each in zip(tensors, states, strict=True)]
            last = limits.clamp(max=capacity - 2 * block_size)
        parts = [tokens, positions, rows, most, last]
        iteration = _iteration(setting, [parts, *tensors])
        following, positions, decided = iteration(parts, *tensors)
        unread.append(torch.cat((tokens, decided), 1))
        tokens, most = following, whole
        if ahead and len(unread) < 2:
            continue
        for row, (*block, count, certain) in zip(active, unread.pop(0).tolist(), strict=True):
            if not row.ended:
                row.accept(block[:count], certain)
        going = [index for index, row in enumerate(active) if not row.ended]
        if not going:
            return block_result(hosts, device)
        if 2 * max(len(going), 2) <= len(active):
            # Two rows at least, because the code for one row is for rows that never had neighbours.
            going += [index for index in range(2) if index not in going][: 2 - len(going)]
            active = [active[index] for index in going]
            kept = torch.tensor(going, device=device)
            tensors = [[_kept(tensor, kept) for tensor in part] for part in tensors]
            tokens, positions, rows, limits, last = (
                part[kept] for part in (tokens, positions, rows, limits, last)
            )
            unread = [part[kept] for part in unread]


# The compiled functions of each drafter, or of each model for its encoder and for one token per call.
_functions: WeakKeyDictionary[Any, dict[Any, Compiled]] = WeakKeyDictionary()


def _encode(model: StaticModel, source: TokenRows) -> list[Tensor]:
    """Compute ``model.encoded(source)`` by compiled code, for one row without padding or for any number of rows."""
    one_row = len(source.lengths) == 1
    if one_row and int(source.lengths) < source.tokens.size(1):
        return model.encoded(source)
    key = "encoded", one_row, source.tokens.device
    known = _functions.setdefault(model, {})
    if key not in known or not known[key].current:

        def encoded(parts: Sequence[Tensor]) -> list[Tensor]:
            return [tensor.contiguous() for tensor in model.encoded(TokenRows(*parts))]

        row: tuple[int, ...] = () if one_row else (0,)
        known[key] = Compiled(encoded, [model], [list(source)], [[(*row, 1), row]])
    return known[key](list(source))


def _iteration(setting: _Setting, example: list[list[Tensor]]) -> Compiled:
    """The compiled iteration for one row or for more, compiled at its first use."""
    tokens = example[0][0]
    one_row = len(tokens) == 1
    key = setting.block_size, setting.acceptance, setting.sampler, one_row, len(example[1]), tokens.device
    known = _functions.setdefault(setting.drafter if setting.block_size > 1 else setting.model, {})
    if key not in known or not known[key].current:
        row: tuple[int, ...] = () if one_row else (0,)
        dynamic = [[row, row, row, (), row]]
        for part, state in zip(example[1:], setting.states, strict=True):
            dynamic.append([_dynamic(tensor, one_row, state) for tensor in part])
        # What a drafter computes at its first use has to be there before it is traced.
        setting.iterate(*([tensor.clone() for tensor in part] for part in example))
        traced = replace(setting, drafter=copy(setting.drafter))
        if traced.drafter is not None:
            vars(traced.drafter).pop("state", None)
        known[key] = Compiled(traced.iterate, traced.owners(), example, dynamic)
    return known[key]


def _is_cache(tensor: Tensor) -> bool:
    """Whether a tensor of a state is a layer's cache, [2, B, H, capacity, D / H], and belongs to no source."""
    return tensor.dim() == 5


def _dynamic(tensor: Tensor, one_row: bool, state: Any) -> tuple[int, ...]:
    """The dimensions of a state's tensor that differ between calls: rows, and places of the cache or of the source."""
    row = () if one_row else (1 if _is_cache(tensor) else 0,)
    if _is_cache(tensor):
        return row if state.cache.rows.ring else (*row, 3)
    return (*row, 3 if tensor.dtype == torch.bool else 2)


def _grown(tensors: list[Tensor], state: Any, capacity: int) -> list[Tensor]:
    """The tensors of a state, with another number of places in the caches."""
    if state.cache.rows.ring:
        return tensors
    return [
        F.pad(tensor, (0, 0, 0, capacity - tensor.size(3))) if _is_cache(tensor) else tensor
        for tensor in tensors
    ]


def _kept(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor.index_select(1 if _is_cache(tensor) else 0, rows)
