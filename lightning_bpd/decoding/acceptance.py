"""Which of the proposed tokens p_1 lets stand (Stern, Shazeer and Uszkoreit 2018, section 5).

A block's first token is certain, since p_1 itself chose it. Each rule says of every other token whether it may follow
those before it; the longest run of tokens that all may is accepted.
"""

from __future__ import annotations

import re

from torch import Tensor

from lightning_bpd.interfaces import InputError

CHOICES = "exact, top-N, distance-N, minimum-N or minimum-N+RULE, such as top-2 or minimum-2+top-3"
_RULE = r"exact|(?:top|distance)-\d+"


class Exact:
    """A token stays if it is p_1's first choice: the output is that of greedy decoding."""

    name = "exact"
    ordinal = False

    def decide(self, tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Accepted tokens and the next one, int64 [B] each, of tokens [B, K] and logits [B, K, V]."""
        choices = logits.argmax(-1)
        return _longest_run(tokens[:, 1:] == choices[:, :-1], choices)


class TopK:
    """A token stays if it is among p_1's ``count`` first choices (section 5.1).

    Raises:
        InputError: ``count`` is less than 1.
    """

    ordinal = False

    def __init__(self, count: int) -> None:
        if count < 1:
            raise InputError(f"top-{count} accepts nothing: N must be at least 1")
        self.count = count
        self.name = f"top-{count}"

    def decide(self, tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Accepted tokens and the next one, int64 [B] each, of tokens [B, K] and logits [B, K, V]."""
        choices = logits.argmax(-1)
        logits = logits[:, :-1]
        better = logits > logits.gather(2, tokens[:, 1:, None])
        return _longest_run(better.sum(-1) < self.count, choices)


class Distance:
    """A token stays if it is at most ``epsilon`` away from p_1's first choice (section 5.2).

    For tokens that are ordered values, such as intensities: token ids are compared as numbers.

    Raises:
        InputError: ``epsilon`` is negative.
    """

    ordinal = True

    def __init__(self, epsilon: int) -> None:
        if epsilon < 0:
            raise InputError(f"a distance of {epsilon} accepts nothing: it must be at least 0")
        self.epsilon = epsilon
        self.name = f"distance-{epsilon}"

    def decide(self, tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Accepted tokens and the next one, int64 [B] each, of tokens [B, K] and logits [B, K, V]."""
        choices = logits.argmax(-1)
        return _longest_run((tokens[:, 1:] - choices[:, :-1]).abs() <= self.epsilon, choices)


class MinimumBlock:
    """What ``inner`` accepts, but at least ``length`` tokens of each block, whatever they are (section 5.3).

    Raises:
        InputError: ``length`` is less than 1.
    """

    def __init__(self, length: int, inner: Exact | TopK | Distance) -> None:
        if length < 1:
            raise InputError(f"minimum-{length} is no block: N must be at least 1")
        self.length = length
        self.inner = inner
        self.name = f"minimum-{length}" + ("" if inner.name == "exact" else f"+{inner.name}")
        self.ordinal = inner.ordinal

    def decide(self, tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Accepted tokens and the next one, int64 [B] each, of tokens [B, K] and logits [B, K, V]."""
        accepted, _ = self.inner.decide(tokens, logits)
        accepted = accepted.clamp(min=min(self.length, tokens.size(1)))
        last = (accepted - 1)[:, None, None].expand(-1, -1, logits.size(-1))
        return accepted, logits.gather(1, last)[:, 0].argmax(-1)


def parse_acceptance(text: str) -> Exact | TopK | Distance | MinimumBlock:
    """The rule of that name: ``exact``, ``top-2``, ``distance-2``, ``minimum-2``, ``minimum-2+top-3``.

    Raises:
        InputError: There is no such rule.
    """
    match = re.fullmatch(rf"minimum-(\d+)(?:\+({_RULE}))?|({_RULE})", text)
    if match is None:
        raise InputError(f"there is no acceptance rule {text!r}: choose {CHOICES}")
    minimum, inner, plain = match.groups()
    kind, _, number = (plain or inner or "exact").partition("-")
    rule = Exact() if kind == "exact" else (TopK if kind == "top" else Distance)(int(number))
    return rule if minimum is None else MinimumBlock(int(minimum), rule)


def _longest_run(agrees: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
    """The first token and all up to the first that does not agree (bool [B, K - 1]); p_1's choice after them."""
    agreeing = agrees.cumprod(1).sum(1, keepdim=True)
    return agreeing[:, 0] + 1, choices.gather(1, agreeing)[:, 0]
