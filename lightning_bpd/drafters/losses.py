"""Losses of the heads, without the logits of all tokens and heads in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_bpd.drafters.block_heads import BlockHeads
from lightning_bpd.drafters.layer import HeadLayer, add_product
from lightning_bpd.drafters.targets import shifted_targets
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.kernels.linear import linear

# Logits held at once. On a CPU just under 32 MiB of float32: what is larger malloc fetches from the kernel each time.
CPU_LOGITS, GPU_LOGITS = 8_000_000, 64_000_000
# Its probability is 0 in float32 beside any other token's, and float16 can hold it.
LEAST_BIAS = -30_000.0

# From logits [P, V]: losses [P], whether predictions are right [P], and the gradient of the logits [P, V].
Score = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class HeadLosses(NamedTuple):
    """The losses of n heads over a batch."""

    loss: Tensor
    """scalar, to minimise: the weighted mean over the heads of each head's sum, divided as ``head_losses`` was told"""
    sums: Tensor
    """[n], nats: each head's loss summed over its targets, detached; float32 or wider, as ``loss``"""
    correct: Tensor
    """int64 [n]: targets that were a head's most probable token; of distillation, the teacher's"""
    counts: Tensor
    """int64 [n]: targets that each head had"""


def head_losses(
    heads: BlockHeads,
    hidden: Tensor,
    weight: Tensor,
    rows: TokenRows,
    which: range,
    head_weights: Tensor | None = None,
    temperature: float | None = None,
    most_logits: int | None = None,
    bias: Tensor | None = None,
    divisor: Tensor | None = None,
) -> HeadLosses:
    """Cross-entropy of a range of heads, or their divergence from the base's own predictions.

    Works through the tokens part by part, and takes the gradients of each part at once, so that nothing but sums is
    kept: the memory for eight heads is that for one. Only targets that exist are projected. ``loss.backward()`` works
    once, and gives no second derivatives.

    Where heads propose among candidates, all but head 1 learn to choose among these alone, which costs as much less: a
    target that is no candidate is none, and a teacher's distribution is over candidates too. Nor is a token whose bias
    is -inf a target: p_1 never gives it.

    With a temperature T the heads learn from the teacher instead of the data: head i at position t from
    p_1 = softmax((hidden @ weight.T + bias) / T) at position t + i - 1, held fixed; the loss is
    KL(teacher || head) * T**2 (Hinton et al. 2015), and of ``rows`` only the lengths matter.

    Args:
        heads: The heads.
        hidden: The base's hidden states [B, T, D]; position t has read the start token and t tokens.
        weight: The vocabulary projection, [V, D].
        rows: Target rows, int64 [B, T] and [B].
        which: Numbers of heads, from 1: all, such as ``range(2, 9)``, or one, such as ``range(3, 4)``.
        head_weights: [n], one for each head of ``which``, on the CPU; equal if not given. A head with weight 0 is not
            computed: it has no targets.
        temperature: Of distillation; None for cross-entropy.
        most_logits: Numbers of the logits to hold at once; chosen by the device if not given.
        bias: What is added to the logits, [V]; nothing if not given. Below -30,000 it counts as that.
        divisor: Scalar by which each head's summed loss is divided; each head's own number of targets if not given.
            With a divisor of 1, the losses of several batches add up to the loss of their union.

    Raises:
        InputError: There are no such heads; the weights are not one for each, not finite, negative or all 0; or the
            temperature is not above 0.
    """
    heads.check(which)
    shares = torch.ones(len(which)) if head_weights is None else head_weights
    if shares.shape != (len(which),) or not (shares >= 0).all() or not 0 < shares.sum() < torch.inf:
        raise InputError(
            f"head_weights must be {len(which)} numbers, one for each head, finite, at least 0 and not all 0, not "
            f"{shares.tolist()}"
        )
    shares = shares / shares.sum()
    if temperature is not None and temperature <= 0:
        raise InputError(f"the temperature of distillation must be above 0, not {temperature}")
    inside = shifted_targets(rows, 1)[1].squeeze(2)
    tokens = torch.where(inside, rows.tokens, 0)
    # What each word is as a target; -1 for one that never comes.
    words = torch.arange(len(weight), device=weight.device)
    if bias is not None:
        words = words.masked_fill(bias.isneginf(), -1)
        # -inf times its probability, 0, would be no number.
        bias = bias.clamp(min=LEAST_BIAS)
    candidates = heads.candidates_of(len(weight))
    over_words = partial(
        _losses_over, heads, hidden, temperature=temperature, most_logits=most_logits, divisor=divisor
    )
    if candidates is None or which.stop == 2:
        return over_words(weight, bias, words[tokens], rows.lengths, which, shares)
    # Where each word is among the candidates; -1 for one that is not.
    places = torch.full((len(weight),), -1, device=candidates.device)
    places[candidates] = torch.arange(len(candidates), device=candidates.device)
    places = torch.where(words < 0, -1, places)
    others = range(max(which.start, 2), which.stop)
    other = over_words(
        weight.index_select(0, candidates),
        None if bias is None else bias.index_select(0, candidates),
        places[tokens],
        rows.lengths,
        others,
        shares[-len(others) :],
    )
    if which.start > 1:
        return other
    first = over_words(weight, bias, words[tokens], rows.lengths, range(1, 2), shares[:1])
    return HeadLosses(
        first.loss + other.loss,
        *(torch.cat(both) for both in zip(first[1:], other[1:], strict=True)),
    )


def _losses_over(
    heads: BlockHeads,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    lengths: Tensor,
    which: range,
    shares: Tensor,
    temperature: float | None,
    most_logits: int | None,
    divisor: Tensor | None,
) -> HeadLosses:
    """``head_losses`` over the words of ``weight``, by which ``tokens`` are numbered; those below 0 are no targets."""
    targets, mask = shifted_targets(TokenRows(tokens, lengths), which.stop - 1)
    places = mask[..., 0].flatten().nonzero().squeeze(1)
    own = slice(which.start - 1, None)
    targets, mask = (table[..., own].flatten(0, 1).index_select(0, places) for table in (targets, mask))
    if temperature is None:
        mask = mask & (targets >= 0)
    kept = hidden.flatten(0, 1).index_select(0, places)

    wide = torch.promote_types(hidden.dtype, torch.float32)
    shares = shares.to(hidden.device, wide)
    # A loss that overflows would make NaN of a weight of 0.
    mask = mask & (shares > 0)
    counts = mask.sum(0)
    shares = shares / (counts.clamp(min=1) if divisor is None else divisor)
    # Gradients are taken of a loss that is larger by this factor: float16 would lose shares of 1 / 30,000.
    scale = counts.sum().clamp(min=1).to(wide)
    inputs = (kept, weight, torch.zeros(0) if bias is None else bias, *heads.layer)
    wanted = [torch.is_grad_enabled() and tensor.requires_grad for tensor in inputs]
    # The layer's gradients come together or not at all.
    wanted[3:] = [any(wanted[3:])] * len(heads.layer)
    gradients = [
        torch.zeros_like(tensor, dtype=wide) if want else None
        for tensor, want in zip(inputs, wanted, strict=True)
    ]
    of_hidden, of_weight, of_bias, *of_layer = gradients
    losses = torch.zeros(mask.numel(), dtype=wide, device=hidden.device)
    correct = torch.zeros_like(losses, dtype=torch.bool)
    device = hidden.device.type
    narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    if most_logits is None:
        most_logits = CPU_LOGITS if device == "cpu" else GPU_LOGITS
        if narrow != heads.layer.hidden_weight.dtype:
            # Narrow copies of the heads' weights take the place of logits, which are held once narrow and twice wide.
            copied = sum(tensor.numel() for tensor in heads.layer.of(heads.learned(which)))
            taken = copied * narrow.itemsize // (narrow.itemsize + 2 * wide.itemsize)
            most_logits = max(most_logits - taken, most_logits // 4)
    rows_at_once = max(most_logits // len(weight), 1)
    # Parts have equally many pairs, up to the last: oneDNN prepares itself for every new shape.
    pairs = mask.flatten().nonzero().squeeze(1)
    starts = torch.arange(0, len(pairs), rows_at_once, device=pairs.device)
    ends = (starts + rows_at_once).clamp(max=len(pairs)) - 1
    first_and_last_tokens = (pairs[torch.stack([starts, ends])] // len(which)).tolist()
    with torch.no_grad(), torch.autocast(device, enabled=False):
        work = _Work(
            _Heads(heads, which, narrow, of_layer),
            kept.detach(),
            weight.to(narrow),
            None if bias is None else bias.detach().to(wide),
            targets.flatten(),
            shares * scale,
            temperature,
            losses,
            correct,
            of_hidden,
            of_weight,
            of_bias,
        )
        for start, first, last in zip(
            range(0, len(pairs), rows_at_once), *first_and_last_tokens, strict=True
        ):
            _score_part(work, slice(first, last + 1), pairs[start : start + rows_at_once])
    sums = losses.view_as(mask).sum(0)
    loss = (sums * shares).sum()
    if any(wanted):
        loss = _KnownGradients.apply(loss, scale, gradients, *inputs)
    return HeadLosses(loss, sums, correct.view_as(mask).sum(0), counts)


class _Work(NamedTuple):
    """M tokens and n heads. A pair is one of each, numbered token by token."""

    heads: _Heads
    hidden: Tensor
    """[M, D]"""
    weight: Tensor
    """[V, D], of the type that products are computed in"""
    bias: Tensor | None
    """[V], of the type of the logits"""
    targets: Tensor
    """int64 [M * n]"""
    shares: Tensor
    """[n]: what a target of each head counts in the loss, about 1"""
    temperature: float | None
    losses: Tensor
    """[M * n], to be filled in; 0 for pairs without a target"""
    correct: Tensor
    """bool [M * n], to be filled in; False for pairs without a target"""
    of_hidden: Tensor | None
    """[M, D], the gradient to be added to, if it is wanted"""
    of_weight: Tensor | None
    """[V, D], the gradient to be added to, if it is wanted"""
    of_bias: Tensor | None
    """[V], likewise"""

    def logits(self, rows: Tensor) -> Tensor:
        """[P, V] of rows [P, D] of the type of ``weight``."""
        logits = linear(rows, self.weight).to(self.losses.dtype)
        return logits if self.bias is None else logits.add_(self.bias)


def _score_part(work: _Work, part: slice, pairs: Tensor) -> None:
    """Losses and gradients of some pairs (int64 [P]), whose tokens are those of ``part``.

    A function of its own so that nothing is left of a part when the next begins.
    """
    heads, weight, wide = work.heads, work.weight, work.losses.dtype
    which, hidden = heads.which, work.hidden[part]
    token, head = pairs // len(which) - part.start, pairs % len(which)
    outputs, units = heads.forward(hidden)
    rows = outputs[token, head].to(weight.dtype)
    score: Score = partial(_cross_entropy, targets=work.targets[pairs])
    if work.temperature is not None:
        # Head i at token t learns from the base at token t + i - 1: the heads share their teachers.
        ahead, places = (part.start + which.start - 1 + token + head).unique(return_inverse=True)
        teacher = _Teacher.of(work.logits(work.hidden[ahead].to(weight.dtype)), work.temperature)
        score = partial(_divergence, teacher=teacher, places=places)
    # The logits have no name here, so that they go as soon as their gradient has come.
    work.losses[pairs], work.correct[pairs], of_logits = score(work.logits(rows))
    wanted = (work.of_hidden, work.of_weight, work.of_bias, heads.totals)
    if all(gradient is None for gradient in wanted):
        return
    shares = work.shares[head, None]
    if work.of_bias is not None:
        work.of_bias.add_((of_logits * shares).sum(0))
    of_logits = of_logits.to(weight.dtype)
    if work.of_weight is not None:
        add_product(work.of_weight, of_logits, (rows * shares).to(weight.dtype))
    of_outputs = torch.zeros_like(outputs, dtype=wide)
    of_outputs[token, head] = linear(of_logits, weight.t()) * shares
    of_hidden = heads.backward(hidden, units, of_outputs)
    if work.of_hidden is not None:
        # Added, as a token's pairs may be in two parts.
        work.of_hidden[part] += of_hidden


class _Heads:
    """A range of heads, computed in ``dtype``, with their gradients, which are added to views of ``totals``."""

    def __init__(
        self, heads: BlockHeads, which: range, dtype: torch.dtype, totals: Sequence[Tensor | None]
    ) -> None:
        learned = heads.learned(which)
        self.which = which
        self.dtype = dtype
        self.identity = which.start < heads.first
        self.layer: HeadLayer | None = None
        self.totals: HeadLayer | None = None
        if learned.start < learned.stop:
            self.layer = HeadLayer(*(tensor.detach().to(dtype) for tensor in heads.layer.of(learned)))
            self.totals = None if totals[0] is None else HeadLayer(*totals).of(learned)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """From [M, D] to outputs [M, n, D], and hidden units to be given back to ``backward``."""
        if self.layer is None:
            return hidden[:, None], None
        units = self.layer.units(hidden.to(self.dtype))
        outputs = self.layer.outputs(hidden, units)
        return (torch.cat([hidden[:, None], outputs], 1) if self.identity else outputs), units

    def backward(self, hidden: Tensor, units: Tensor | None, gradient: Tensor) -> Tensor:
        """From the gradient of the outputs, [M, n, D], to that of the hidden states, [M, D]."""
        if self.layer is None or units is None:
            return gradient[:, 0]
        own = gradient[:, int(self.identity) :]
        of_hidden = self.layer.backward(hidden.to(self.dtype), units, own, self.totals)
        return of_hidden + gradient[:, 0] if self.identity else of_hidden


class _Teacher(NamedTuple):
    """The base's own distributions at M tokens."""

    probabilities: Tensor
    """[M, V]"""
    entropy: Tensor
    """[M], nats"""
    best: Tensor
    """int64 [M]"""
    temperature: float

    @classmethod
    def of(cls, logits: Tensor, temperature: float) -> _Teacher:
        logits = logits / temperature
        probabilities, normalizer, best = _softmax(logits)
        return cls(probabilities, normalizer - _dot(probabilities, logits), best, temperature)


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [P], whether the most probable token is the target [P], and the gradient of the logits [P, V]."""
    probabilities, normalizer, best = _softmax(logits)
    losses = normalizer - logits.gather(1, targets[:, None]).squeeze(1)
    probabilities.scatter_add_(1, targets[:, None], torch.full_like(losses, -1)[:, None])
    return losses, best == targets, probabilities


def _divergence(logits: Tensor, teacher: _Teacher, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same against the teacher's distributions at ``places`` (int64 [P])."""
    temperature = teacher.temperature
    logits = logits / temperature
    probabilities, normalizer, best = _softmax(logits)
    expected = teacher.probabilities.index_select(0, places)
    losses = (normalizer - _dot(expected, logits) - teacher.entropy[places]) * temperature**2
    return losses, best == teacher.best[places], probabilities.sub_(expected).mul_(temperature)


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities [P, V], the logarithm of what they were normalized by [P], the most probable token [P]."""
    peak, best = logits.max(1, keepdim=True)
    probabilities = logits.softmax(1)
    # The most probable token's probability is at least 1 / V: its logarithm is safe.
    return probabilities, (peak - probabilities.gather(1, best).log()).squeeze(1), best.squeeze(1)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Row by row, [P, V] and [P, V] to [P], without their product in memory."""
    return torch.bmm(left[:, None], right[:, :, None]).flatten()


class _KnownGradients(torch.autograd.Function):
    """A loss whose gradients were computed with it, ``scale`` times too large."""

    @staticmethod
    def forward(
        ctx: Any, loss: Tensor, scale: Tensor, gradients: list[Tensor | None], *inputs: Tensor
    ) -> Tensor:
        ctx.scale, ctx.gradients = scale, gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of head_losses can be taken once only: compute the loss again")
        factor = gradient / ctx.scale
        gradients = [None if known is None else known.mul_(factor) for known in ctx.gradients]
        # They are given away: a second copy of the vocabulary's would cost as much memory as the weights.
        ctx.gradients = None
        return None, None, None, *gradients
