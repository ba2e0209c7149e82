"""Blockwise parallel decoding (Stern, Shazeer and Uszkoreit 2018), on the contracts of model and drafter alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import pad_sequence

from lightning_bpd.decoding.acceptance import Exact
from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.interfaces import (
    Acceptance,
    DecodeResult,
    Drafter,
    InputError,
    SequenceModel,
    State,
    TokenRows,
    VerifiedBlock,
)

_EXACT = Exact()


@torch.inference_mode()
def blockwise(
    model: SequenceModel[State],
    drafter: Drafter,
    source: TokenRows,
    block_size: int,
    acceptance: Acceptance = _EXACT,
    extra_length: int = 50,
    further_ends: Collection[int] = (),
) -> DecodeResult:
    """Several tokens a model call, where what ``drafter`` proposes is what the model lets stand.

    One call verifies a block and gives the drafter what it needs to propose the next one (section 4). Each row goes
    on from its own last accepted token and ends as in ``greedy``; with the exact rule its tokens are those of
    ``greedy``. The first call only predicts, and a certain token that ends its row is taken without a call: it is
    an iteration of size 1 all the same, so that the accepted sizes of a row add up to its length.

    Args:
        model: Any SequenceModel, in eval mode.
        drafter: What proposes all tokens of a block but the first.
        source: What to decode from, int64 [B, S] and [B], on the model's device.
        block_size: Tokens verified in one call; 1 is greedy decoding.
        acceptance: Which proposals stay.
        extra_length: Tokens that a row may be longer than its source.
        further_ends: Tokens that end a row beside the model's own end token.

    Raises:
        InputError: ``block_size`` is less than 1 or more than the drafter can propose.
    """
    if not 1 <= block_size <= drafter.block_size:
        raise InputError(_wrong_block_size(block_size, drafter.block_size))
    device = source.lengths.device
    ends = frozenset((model.eos_id, *further_ends))
    rows = [_Row(limit, ends) for limit in length_limits(model, source, extra_length).tolist()]
    longest = max(row.limit for row in rows)
    # A block is fed whole, even where it sticks out over the end of its row.
    state = model.start(source, None, longest + block_size - 1)
    drafter.start(source, longest)

    active = rows
    block = torch.full_like(source.lengths, model.bos_id)[:, None]
    while True:
        # Verify: one call over the whole block.
        hidden = model.step(block, state)
        logits = model.project(hidden)
        accepted, following = acceptance.decide(block, logits)

        # Accept: the one place where the device is waited for.
        decided = torch.column_stack((block, accepted, following)).tolist()
        for row, (*tokens, count, certain) in zip(active, decided, strict=True):
            row.accept(tokens[:count], certain)

        # Finished rows leave; the others forget what was not accepted.
        going = [place for place, row in enumerate(active) if not row.ended]
        if not going:
            return _result(rows, device)
        verified = VerifiedBlock(block, hidden, logits, accepted)
        if len(going) < len(active):
            active = [active[place] for place in going]
            kept = torch.tensor(going, device=device)
            state.reorder(kept)
            drafter.reorder(kept)
            verified = VerifiedBlock(*(part[kept] for part in verified))
            following = following[kept]
        state.rewind(torch.tensor([1 + len(row.tokens) for row in active]))

        # Propose: the certain token, and what the drafter thinks comes after it.
        block = following[:, None]
        if block_size > 1:
            block = torch.cat((block, drafter.propose(verified, following, block_size - 1).tokens), 1)


@dataclass
class _Row:
    """What is known of one row, on the host."""

    limit: int
    ends: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    calls: int = 0
    ended: bool = False

    def accept(self, tokens: list[int], certain: int) -> None:
        """Take what one call accepted, and the certain token after it if that ends the row."""
        self.calls += 1
        if self.calls > 1:  # the first call read the start token
            self._append(tokens)
        if not self.ended and (certain in self.ends or len(self.tokens) + 1 == self.limit):
            self._append([certain])

    def _append(self, tokens: list[int]) -> None:
        tokens = tokens[: self.limit - len(self.tokens)]
        first = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        tokens = tokens[: first + 1]
        self.tokens += tokens
        self.sizes.append(len(tokens))
        self.ended = tokens[-1] in self.ends or len(self.tokens) == self.limit


def _result(rows: list[_Row], device: torch.device) -> DecodeResult:
    tokens = pad_sequence([torch.tensor(row.tokens) for row in rows], batch_first=True)
    sizes = pad_sequence([torch.tensor(row.sizes) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row.tokens) for row in rows])
    calls = torch.tensor([row.calls for row in rows])
    return DecodeResult(
        tokens.to(device), lengths.to(device), None, calls.to(device), accepted=sizes.to(device)
    )


def _wrong_block_size(block_size: int, largest: int) -> str:
    if block_size < 1:
        return f"block_size must be at least 1, not {block_size}"
    return f"block_size {block_size} is larger than the {largest} that the heads were trained for"
