"""What one row of logits costs: losses, and their gradients by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Teacher(NamedTuple):
    """The base's distributions at M tokens."""

    probabilities: Tensor
    """[M, V]"""
    entropy: Tensor
    """[M], nats"""
    best: Tensor
    """int64 [M]"""
    temperature: float

    @classmethod
    def of(cls, logits: Tensor, temperature: float) -> Teacher:
        """Make the distributions of logits [M, V] at a temperature."""
        logits = logits / temperature
        probabilities, normalizer, best = _softmax(logits)
        return cls(probabilities, normalizer - _dot(probabilities, logits), best, temperature)


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses [P], whether the most probable token is the target [P], and the gradient of the logits [P, V]."""
    probabilities, normalizer, best = _softmax(logits)
    losses = normalizer - logits.gather(1, targets[:, None]).squeeze(1)
    probabilities.scatter_add_(1, targets[:, None], torch.full_like(losses, -1)[:, None])
    return losses, best == targets, probabilities


def divergence(logits: Tensor, teacher: Teacher, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Do as ``cross_entropy``, with the teacher's distributions at ``indices`` (int64 [P]) as targets."""
    temperature = teacher.temperature
    logits = logits / temperature
    probabilities, normalizer, best = _softmax(logits)
    expected = teacher.probabilities.index_select(0, indices)
    losses = (normalizer - _dot(expected, logits) - teacher.entropy[indices]) * temperature**2
    return losses, best == teacher.best[indices], probabilities.sub_(expected).mul_(temperature)


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return probabilities [P, V], the logarithm of their normalizer [P], and the most probable token [P]."""
    peak, best = logits.max(1, keepdim=True)
    probabilities = logits.softmax(1)
    # The most probable token has a probability of at least 1 / V, so its logarithm is finite.
    return probabilities, (peak - probabilities.gather(1, best).log()).squeeze(1), best.squeeze(1)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Compute row by row dot products of [P, V] and [P, V], [P], without the elementwise product in memory."""
    return torch.bmm(left[:, None], right[:, :, None]).flatten()


class KnownGradients(torch.autograd.Function):
    """A loss with known gradients, which are ``scale`` times too large."""

    @staticmethod
    def forward(
        ctx: Any, loss: Tensor, scale: Tensor, gradients: list[Tensor | None], *inputs: Tensor
    ) -> Tensor:
        """Return the loss, and keep its gradients."""
        ctx.scale, ctx.gradients = scale, gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Hand the gradients over, once."""
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss can be taken once only: compute the loss again")
        factor = gradient / ctx.scale
        gradients = [None if known is None else known.mul_(factor) for known in ctx.gradients]
        # The gradients are handed over: a second copy for the vocabulary would take as much memory as the weights.
        ctx.gradients = None
        return None, None, None, *gradients
