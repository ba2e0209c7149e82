"""Blockwise parallel decoding (Stern, Shazeer and Uszkoreit 2018), by the contracts of model and drafter only."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_bpd.decoding.acceptance import Adaptive, Exact
from lightning_bpd.decoding.costs import iteration_seconds, proposals_that_pay
from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.decoding.sequential import GREEDY
from lightning_bpd.interfaces import (
    Acceptance,
    Block,
    DecodeResult,
    Drafter,
    InputError,
    Sampler,
    SequenceModel,
    State,
    TokenRows,
    VerifiedBlock,
)

EXACT = Exact()


@torch.inference_mode()
def blockwise(
    model: SequenceModel[State],
    drafter: Drafter,
    source: TokenRows,
    block_size: int,
    acceptance: Acceptance = EXACT,
    extra_length: int | Tensor = 50,
    sampler: Sampler = GREEDY,
    rows: Tensor | None = None,
) -> DecodeResult:
    """Decode several tokens per call: ``drafter`` proposes tokens, and the model accepts some of them.

    One call verifies a block and gives the drafter the hidden states to propose the next one (section 4). Each row
    continues after its own last accepted token and ends as in ``sequential``. With the exact rule, its tokens are those
    of ``sequential`` with the same sampler. The first call only predicts. A certain token that ends its row is accepted
    without a call. It still counts as an iteration of size 1, so that the accepted sizes of a row add up to its length.

    Args:
        model: Any SequenceModel, in eval mode.
        drafter: Proposes all tokens of a block but the first.
        source: The rows to decode from, int64 [B, S] and [B], on the model's device.
        block_size: The most tokens verified in one call; 1 is decoding one token per call.
        acceptance: Decides which proposals stay. ``Adaptive`` also lets blocks end before proposals that do not pay.
        extra_length: Tokens that a row may be longer than its source, one number or int64 [B].
        sampler: Chooses p_1's tokens and the drafter's; the most probable ones by default.
        rows: int64 [B], the number of each row in its corpus, which selects its noise; 0..B-1 by default.

    Raises:
        InputError: ``block_size`` is less than 1 or more than the drafter can propose.
    """
    check_block_size(block_size, drafter.block_size)
    device = source.lengths.device
    seconds = None
    if isinstance(acceptance, Adaptive):
        seconds = torch.tensor(
            acceptance.seconds or iteration_seconds(model, drafter, source, extra_length), device=device
        )
    hosts = [HostRow(limit, model.ends) for limit in length_limits(model, source, extra_length).tolist()]
    longest = max(row.limit for row in hosts)
    # A block is fed whole, even if it extends past the end of its row.
    state = model.start(source, None, longest + block_size - 1)
    drafter.start(source, longest, sampler, state.memory)

    active = hosts
    numbers = torch.arange(len(hosts), device=device) if rows is None else rows
    block = Block(torch.full_like(numbers, model.bos_id)[:, None], torch.zeros_like(numbers), numbers)
    while True:
        # Verify: one call over the whole block.
        hidden = model.step(block.tokens, state)
        logits = model.project(hidden)
        choices = sampler.choose(logits, block.positions, block.rows)
        accepted, following = acceptance.decide(block, logits, choices)

        # Accept: the loop waits for the device here.
        decided = torch.column_stack((block.tokens, accepted, following)).tolist()
        for row, (*tokens, count, certain) in zip(active, decided, strict=True):
            row.accept(tokens[:count], certain)

        # Finished rows leave; the others forget the tokens that were not accepted.
        going = [index for index, row in enumerate(active) if not row.ended]
        if not going:
            return block_result(hosts, device)
        verified = VerifiedBlock(*block[:3], hidden, logits, choices, accepted)
        if len(going) < len(active):
            active = [active[index] for index in going]
            kept = torch.tensor(going, device=device)
            state.reorder(kept)
            drafter.reorder(kept)
            verified = VerifiedBlock(*(part[kept] for part in verified))
            following = following[kept]
        state.rewind(torch.tensor([1 + len(row.tokens) for row in active]))

        # Propose: the certain token, and the drafter's proposals after it, as far as they pay.
        positions = verified.positions + verified.accepted
        block = Block(following[:, None], positions, verified.rows)
        if block_size > 1:
            tokens, probabilities, confidence = drafter.propose(verified, following, block_size - 1)
            if seconds is not None and confidence is not None:
                tokens = tokens[:, : proposals_that_pay(confidence(), seconds)]
            block = Block(torch.cat((block.tokens, tokens), 1), positions, verified.rows, probabilities)


@dataclass
class HostRow:
    """The progress of one row, on the host."""

    limit: int
    ends: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    calls: int = 0
    ended: bool = False

    def accept(self, tokens: list[int], certain: int) -> None:
        """Append the accepted tokens of one call, and the certain token after them if it ends the row."""
        self.calls += 1
        if self.calls > 1:  # the first call read the start token
            self._append(tokens)
        if not self.ended and (certain in self.ends or len(self.tokens) + 1 == self.limit):
            self._append([certain])

    def _append(self, tokens: list[int]) -> None:
        tokens = tokens[: self.limit - len(self.tokens)]
        first = next((index for index, token in enumerate(tokens) if token in self.ends), len(tokens))
        tokens = tokens[: first + 1]
        self.tokens += tokens
        self.sizes.append(len(tokens))
        self.ended = tokens[-1] in self.ends or len(self.tokens) == self.limit


def block_result(rows: list[HostRow], device: torch.device) -> DecodeResult:
    """Put the tokens and accepted sizes of all rows together."""
    tokens = pad_sequence([torch.tensor(row.tokens) for row in rows], batch_first=True)
    sizes = pad_sequence([torch.tensor(row.sizes) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row.tokens) for row in rows])
    calls = torch.tensor([row.calls for row in rows])
    return DecodeResult(
        tokens.to(device), lengths.to(device), None, calls.to(device), accepted=sizes.to(device)
    )


def check_block_size(block_size: int, largest: int) -> None:
    """Raise InputError if a block of this size cannot be proposed."""
    if block_size < 1:
        raise InputError(f"block_size must be at least 1, not {block_size}")
    if block_size > largest:
        raise InputError(
            f"block_size {block_size} is larger than the {largest} that the heads were trained for"
        )
