"""Samplers, which turn logits into tokens, for one token per call and for blocks.

A sampled token is the argmax of transformed logits plus Gumbel noise, which draws from the softmax of the transformed
logits (the Gumbel-max trick). The noise is a pure function of (seed, row, position, token id). So sampling is greedy
decoding of perturbed logits, and every equality that holds for greedy decoding holds for sampling, token for token:
blocks of any size, batches of any size, replay. Drafter and model share the noise of a position, which makes them
agree more often than independent draws would (arXiv 2510.24211).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_bpd.interfaces import InputError, Sampler


@dataclass(frozen=True)
class Greedy(Sampler):
    """Chooses the most probable token."""

    def scores(self, logits: Tensor, positions: Tensor, rows: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return the logits themselves (Sampler.scores)."""
        return logits

    def choose(self, logits: Tensor, positions: Tensor, rows: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return the argmax of logits [B, T, V], int64 [B, T] (Sampler.choose)."""
        best = logits.argmax(-1)
        return best if tokens is None else tokens[best]

    def probabilities(self, logits: Tensor) -> None:
        """Return None: nothing is random (Sampler.probabilities)."""


@dataclass(frozen=True)
class Sampled(Sampler):
    """Draws tokens at random, reproducibly: the same seed, row and prefix give the same token in every decoder.

    The transformations are those of transformers' ``generate``, in its order: temperature, top-k, top-p.

    Args:
        temperature: Divides the logits, more than 0.
        top_k: Draw from the k most probable tokens only; None for all.
        top_p: Draw from the smallest set of most probable tokens whose probabilities add up to at least top_p.
        seed: Selects the noise, 0 to 2**63 - 1.

    Raises:
        InputError: A number is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InputError(
                f"temperature must be more than 0, not {self.temperature}; for 0 leave sampling out"
            )
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k must be at least 1, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be more than 0 and at most 1, not {self.top_p}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be between 0 and 2**63 - 1, not {self.seed}")

    def scores(self, logits: Tensor, positions: Tensor, rows: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return perturbed logits [B, T, V] in float64; -inf for tokens outside top-k and top-p (Sampler.scores)."""
        kept, columns = self._kept(logits)
        perturbed = kept + self._noise(kept, columns if tokens is None else tokens[columns], positions, rows)
        return perturbed.new_full(logits.shape, -torch.inf).scatter_(
            -1, columns.expand(kept.shape), perturbed
        )

    def choose(self, logits: Tensor, positions: Tensor, rows: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return the argmax of the perturbed logits, int64 [B, T] (Sampler.choose).

        Noise is computed for the tokens within top-k only, so a small top_k is much cheaper than none.
        """
        kept, columns = self._kept(logits)
        ids = (columns if tokens is None else tokens[columns]).expand(kept.shape)
        best = (kept + self._noise(kept, ids, positions, rows)).argmax(-1, keepdim=True)
        return ids.gather(-1, best)[..., 0]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the softmax of the transformed logits, [..., V] in float64 (Sampler.probabilities)."""
        kept, columns = self._kept(logits)
        full = torch.zeros_like(logits, dtype=torch.double)
        return full.scatter_(-1, columns.expand(kept.shape), kept.softmax(-1))

    def _kept(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Transformed logits [..., C] in float64, and their columns, int64 [C] or [..., C]; -inf is left out."""
        logits = logits.double() / self.temperature
        vocabulary = logits.size(-1)
        if self.top_k is None and self.top_p == 1:
            return logits, torch.arange(vocabulary, device=logits.device)
        kept, columns = logits.topk(min(self.top_k or vocabulary, vocabulary))
        if self.top_p < 1:
            # A token stays if the more probable ones do not yet add up to top_p. So the first one always stays.
            probabilities = kept.softmax(-1)
            before = probabilities.cumsum(-1) - probabilities
            kept = kept.masked_fill(before >= self.top_p, -torch.inf)
        return kept, columns

    def _noise(self, like: Tensor, tokens: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
        """Standard Gumbel noise [B, T, C] of the tokens (int64 [C] or [B, T, C]) at consecutive positions."""
        positions = positions[:, None] + torch.arange(like.size(1), device=positions.device)
        return -uniform(self.seed, rows[:, None, None], positions[:, :, None], tokens).log().neg().log()


def make_sampler(
    sample: bool, temperature: float, top_k: int | None, top_p: float, seed: int
) -> Greedy | Sampled:
    """Return the sampler that a command's options ask for.

    Raises:
        InputError: A number is out of its range, or settings of sampling are given and sampling is off.
    """
    sampled = Sampled(temperature, top_k, top_p, seed)
    if not sample and sampled != Sampled():
        raise InputError(
            "temperature, top_k, top_p and seed are for sampling: add --sample true, or leave them out"
        )
    return sampled if sample else Greedy()


# Streams of noise for a position besides stream 0, the noise of its tokens.
ACCEPTANCE_STREAM, RESIDUAL_STREAM, GUESS_STREAM = 1, 2, 3


def uniform(seed: int, rows: Tensor, positions: Tensor, tokens: Tensor, stream: int = 0) -> Tensor:
    """Uniform noise strictly between 0 and 1, float64, a pure function of its arguments on any device.

    Args:
        seed: Any integer of at most 63 bits.
        rows: int64, broadcast with the other tensors.
        positions: int64.
        tokens: int64, the token ids.
        stream: Separates noise for different purposes.
    """
    # Each part of the key has its own round of mixing, so keys that differ in one bit give unrelated noise.
    low, high = seed & 0xFFFFFFFF, seed >> 32
    key = _mixed(_mixed(rows + (low ^ 0x9E3779B9)) + positions + (high << 1) + (stream << 40))
    # Half a step keeps the logarithms of the noise finite.
    return (_mixed(key ^ _mixed(tokens)) + 0.5) * 2.0**-32


def _mixed(x: Tensor) -> Tensor:
    """A 32-bit integer hash of int64 values (the finalizer "lowbias32" of hash-prospector), 0..2**32 - 1."""
    x = (x ^ (x >> 32)) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
