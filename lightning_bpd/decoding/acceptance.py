"""Acceptance rules, which decide how many proposals p_1 accepts (Stern, Shazeer and Uszkoreit 2018, section 5).

The first token of a block is certain, because p_1 itself chose it. Each rule decides for every other token whether it
may follow the tokens before it. The longest run of allowed tokens is accepted.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from lightning_bpd.decoding.samplers import ACCEPTANCE_STREAM, RESIDUAL_STREAM, Sampled, uniform
from lightning_bpd.interfaces import Acceptance, Block, Decision, InputError


class Exact:
    """A token stays if it is the sampler's choice: the output is that of decoding one token per call."""

    name = "exact"
    ordinal = False

    def decide(self, block: Block, logits: Tensor, choices: Tensor) -> Decision:
        """Decide how much of a block stays (Acceptance.decide)."""
        return _longest_run(block.tokens[:, 1:] == choices[:, :-1], choices)


class Adaptive(Exact):
    """The exact rule, for blocks of only as many proposals as pay (``blockwise``).

    What pays depends on the drafter's confidence in its proposals, and on how long a call takes on this machine. The
    output does not depend on either. All proposals of a drafter without confidence are verified.

    Args:
        seconds: Of an iteration that verifies 1, 2, ... tokens; measured by default.
    """

    name = "adaptive"

    def __init__(self, *, seconds: Sequence[float] | None = None) -> None:
        self.seconds = seconds


class TopK:
    """A token stays if it is among the ``count`` most probable tokens (section 5.1).

    Raises:
        InputError: ``count`` is less than 1.
    """

    ordinal = False

    def __init__(self, count: int) -> None:
        if count < 1:
            raise InputError(f"top-{count} accepts nothing: N must be at least 1")
        self.count = count
        self.name = f"top-{count}"

    def decide(self, block: Block, logits: Tensor, choices: Tensor) -> Decision:
        """Decide how much of a block stays (Acceptance.decide)."""
        logits = logits[:, :-1]
        better = logits > logits.gather(2, block.tokens[:, 1:, None])
        return _longest_run(better.sum(-1) < self.count, choices)


class Distance:
    """A token stays if it is at most ``epsilon`` away from the sampler's choice (section 5.2).

    This is for tokens that are ordered values, such as intensities: token ids are compared as numbers.

    Raises:
        InputError: ``epsilon`` is negative.
    """

    ordinal = True

    def __init__(self, epsilon: int) -> None:
        if epsilon < 0:
            raise InputError(f"a distance of {epsilon} accepts nothing: it must be at least 0")
        self.epsilon = epsilon
        self.name = f"distance-{epsilon}"

    def decide(self, block: Block, logits: Tensor, choices: Tensor) -> Decision:
        """Decide how much of a block stays (Acceptance.decide)."""
        return _longest_run((block.tokens[:, 1:] - choices[:, :-1]).abs() <= self.epsilon, choices)


class MinimumBlock:
    """Accepts the tokens that ``inner`` accepts, but at least ``length`` tokens of each block (section 5.3).

    Raises:
        InputError: ``length`` is less than 1.
    """

    def __init__(self, length: int, inner: Acceptance = Exact()) -> None:  # noqa: B008  # it has no state
        if length < 1:
            raise InputError(f"minimum-{length} is not a block: N must be at least 1")
        self.length = length
        self.inner = inner
        self.name = f"minimum-{length}" + ("" if inner.name == "exact" else f"+{inner.name}")
        self.ordinal = inner.ordinal

    def decide(self, block: Block, logits: Tensor, choices: Tensor) -> Decision:
        """Decide how much of a block stays (Acceptance.decide)."""
        accepted, following = self.inner.decide(block, logits, choices)
        forced = accepted.clamp(min=min(self.length, block.tokens.size(1)))
        chosen = choices.gather(1, forced[:, None] - 1)[:, 0]
        return Decision(forced, torch.where(forced > accepted, chosen, following))


class Speculative:
    """The rule of speculative sampling (Leviathan et al. 2023, Chen et al. 2023), for sampled proposals.

    Proposal x, drawn from q, stays with probability min(1, p(x) / q(x)). The token after the first rejected one is
    drawn from the positive part of p - q. The output has the distribution of plain sampling, but is not the output of
    plain sampling with the same seed, which the exact rule gives.

    Args:
        sampler: The sampler that p and q come from.
    """

    name = "speculative"
    ordinal = False

    def __init__(self, sampler: Sampled) -> None:
        self.sampler = sampler

    def decide(self, block: Block, logits: Tensor, choices: Tensor) -> Decision:
        """Decide how much of a block stays (Acceptance.decide).

        Proposals without probabilities were certain choices: q is 1 for them.
        """
        proposed = block.tokens[:, 1:, None]
        if not proposed.numel():
            return Decision(torch.ones_like(block.positions), choices[:, 0])
        p = self.sampler.probabilities(logits[:, :-1])
        q = block.probabilities
        if q is None:
            q = torch.zeros_like(p).scatter_(2, proposed, 1.0)
        rows = block.rows[:, None]
        positions = block.positions[:, None] + torch.arange(proposed.size(1), device=rows.device)
        chance = uniform(self.sampler.seed, rows, positions, torch.zeros_like(positions), ACCEPTANCE_STREAM)
        stays = chance * q.gather(2, proposed)[..., 0] < p.gather(2, proposed)[..., 0]
        accepted, following = _longest_run(stays, choices)

        # The token that replaces the first rejected proposal, by the Gumbel-max trick.
        rejected = (accepted - 1).clamp(max=proposed.size(1) - 1)[:, None]
        index = rejected[..., None].expand(-1, -1, p.size(2))
        residual = (p - q).clamp(min=0).gather(1, index)[:, 0]
        tokens = torch.arange(p.size(2), device=p.device)
        noise = uniform(self.sampler.seed, rows, positions.gather(1, rejected), tokens, RESIDUAL_STREAM)
        drawn = (residual.log() - noise.log().neg().log()).argmax(-1)
        return Decision(accepted, torch.where(accepted > proposed.size(1), following, drawn))


RULES: dict[str, Callable[..., Acceptance]] = {
    "exact": Exact,
    "adaptive": Adaptive,
    "top": TopK,
    "distance": Distance,
    "minimum": MinimumBlock,
}
"""rules by their names in configurations; a number after a hyphen is the rule's argument"""

CHOICES = (
    "exact, top-N, distance-N, minimum-N or minimum-N+RULE, such as top-2 or minimum-2+top-3, or adaptive"
)


# Decoding asks for its rule with every batch, and looking at signatures takes half a millisecond.
@cache
def parse_acceptance(text: str) -> Acceptance:
    """Return the rule that a configuration names: rules have no state, so a text always gives the same one.

    Args:
        text: ``exact``, ``adaptive``, ``top-2``, ``distance-2``, ``minimum-2``, ``minimum-2+top-3``, or the import path
            of your own rule, such as ``my_package.rules.Near`` or ``my_package.rules.Near-2``.

    Raises:
        InputError: There is no such rule.
    """
    outer, plus, inner = text.partition("+")
    name, hyphen, number = outer.partition("-")
    rule = _imported(name) if "." in name else RULES.get(name)
    unknown = InputError(f"there is no acceptance rule {text!r}: choose {CHOICES}")
    if (
        rule is None
        or (hyphen and not re.fullmatch("[0-9]+", number))
        or inner.startswith(("minimum", "adaptive"))
    ):
        raise unknown
    arguments = [*([int(number)] if hyphen else []), *([parse_acceptance(inner)] if plus else [])]
    try:
        inspect.signature(rule).bind(*arguments)
    except TypeError:
        raise unknown from None
    return rule(*arguments)


def _imported(path: str) -> Callable[..., Acceptance] | None:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError:
        return None


def _longest_run(agrees: Tensor, choices: Tensor) -> Decision:
    """Accept the first token and those before the first disagreement (bool [B, K - 1]); add the choice after them."""
    agreeing = agrees.cumprod(1).sum(1, keepdim=True)
    return Decision(agreeing[:, 0] + 1, choices.gather(1, agreeing)[:, 0])
