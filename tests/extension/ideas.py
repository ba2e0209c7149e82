"""A new idea of each kind, as a user would write it: a drafter with parameters, and an acceptance rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lightning_bpd.drafters import DrafterShape, TrainedDrafter
from lightning_bpd.drafters.group_losses import Batch, group_losses
from lightning_bpd.interfaces import Decision, Proposal


@dataclass(frozen=True)
class NextOfToken(DrafterShape):
    """What follows a token is looked up in a learned table, again and again."""

    block_size: int = 3
    width: int = 8
    candidates: int | None = None

    def build(self, base):
        return BigramDrafter(base, self)


class BigramDrafter(TrainedDrafter):
    def __init__(self, base, shape):
        super().__init__(shape, shape.candidates)
        vocabulary, width = base.output_weight.shape
        self.before = nn.Embedding(vocabulary, shape.width)
        self.after = nn.ModuleList(nn.Linear(shape.width, width) for _ in range(shape.block_size - 1))

    def outputs(self, tokens, count):
        seen = self.before(tokens)
        return torch.stack([layer(seen) for layer in self.after[:count]], -2)

    def losses(self, base, reading, rows, which, weights=None, temperature=None, divisor=None):
        batch = Batch.of(base, reading, rows, which.stop - 3, None)

        def outputs():
            every = self.outputs(batch.rows.tokens, which.stop - 2)
            sizes = [every.size(1), *batch.groups.counts]
            return torch.cat([every[:, :size, depth] for depth, size in enumerate(sizes)], 1)

        shares = torch.ones(len(which)) if weights is None else weights
        return group_losses(self, batch, outputs, which, shares, temperature, divisor)

    def drafter(self, base):
        return Bigrams(self, base)


class Bigrams:
    def __init__(self, module, base):
        self.module, self.base, self.block_size = module, base, module.block_size

    def start(self, source, max_length, sampler, memory):
        self.sampler = sampler

    def propose(self, verified, following, count):
        logits = self.base.project(self.module.outputs(following, count))
        return Proposal(self.sampler.choose(logits, verified.positions + verified.accepted, verified.rows))

    def reorder(self, rows):
        pass


class Half:
    """Lets proposals stand while they are p_1's choice, and never more than half of a block."""

    name, ordinal = "half", False

    def decide(self, block, logits, choices):
        agree = (block.tokens[:, 1:] == choices[:, :-1]).long().cumprod(1).sum(1)
        accepted = 1 + agree.clamp(max=block.tokens.size(1) // 2)
        return Decision(accepted, choices.gather(1, accepted[:, None] - 1)[:, 0])
