"""Losses of proposals that were computed in groups: a real token, and the tokens to be proposed after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bpd.drafters.correction import Correction
from lightning_bpd.drafters.groups import Groups
from lightning_bpd.drafters.losses import LEAST_BIAS, HeadLosses
from lightning_bpd.drafters.module import Base, TrainedDrafter
from lightning_bpd.drafters.projected_loss import Factor, projected_loss
from lightning_bpd.drafters.scores import Teacher, cross_entropy, divergence
from lightning_bpd.interfaces import Reading, TokenRows
from lightning_bpd.kernels.linear import linear
from lightning_bpd.rows import inside


class Batch(NamedTuple):
    """What losses are computed from, apart from the outputs of the drafter."""

    base: Base
    hidden: Tensor
    """[B, T, D], the hidden states that p_1 projects"""
    rows: TokenRows
    """target rows, whose padding is any token"""
    groups: Groups
    """the groups of mask tokens; real tokens are the first output of their groups"""
    correction: Correction | None

    @classmethod
    def of(
        cls,
        base: Base,
        reading: Reading,
        rows: TokenRows,
        depths: int,
        correction: Correction | None,
        groups: Groups | None = None,
    ) -> Batch:
        """Make a batch of target rows with any padding, by default with all groups of ``depths`` mask tokens."""
        length = rows.tokens.size(1)
        tokens = rows.tokens.masked_fill(~inside(rows.lengths, length), 0)
        groups = groups or Groups.all(len(tokens), length, depths, tokens.device)
        hidden = reading.hidden[..., : base.output_weight.size(1)]
        return cls(base, hidden, TokenRows(tokens, rows.lengths), groups, correction)


def group_losses(
    drafter: TrainedDrafter,
    batch: Batch,
    outputs: Callable[[], Tensor],
    which: range,
    weights: Tensor,
    temperature: float | None,
    divisor: Tensor | None,
) -> HeadLosses:
    """Compute the losses of p_1, the base itself, and of proposals (TrainedDrafter.losses).

    Args:
        drafter: Which tokens are candidates.
        batch: The batch.
        outputs: Returns the outputs at real tokens, then at mask tokens depth by depth, [B, T + G, D].
        which: Numbers of heads, from 1.
        weights: [n], the weight of each head of ``which`` in the loss.
        temperature: Of distillation; None for cross-entropy.
        divisor: Scalar by which each head's summed loss is divided; by default the head's number of targets.
    """
    hidden = batch.hidden
    # Shares are divided by numbers of tokens, which must not round what is computed in float64.
    weights = weights.to(hidden.device, torch.promote_types(hidden.dtype, torch.float32))
    shares = weights / weights.sum()
    parts = []
    if which.start == 1:
        parts.append(_loss_of_base(batch, shares[:1], divisor))
    if which.stop > 2:
        others = range(max(which.start, 2), which.stop)
        own = shares[-len(others) :]
        parts.append(
            _loss_of_proposals(
                batch,
                drafter.candidates_of(len(batch.base.output_weight)),
                outputs(),
                others,
                own,
                temperature,
                divisor,
            )
        )
    losses = parts[0] if len(parts) == 1 else parts[0].joined(parts[1])
    if torch.is_grad_enabled():
        # DDP waits for a gradient of each parameter, of mask tokens that this loss does not use, too.
        unused = torch.stack([weight.sum() for weight in drafter.parameters()]).sum() * 0
        losses = losses._replace(loss=losses.loss + unused.to(losses.loss.dtype))
    return losses


def _loss_of_base(batch: Batch, share: Tensor, divisor: Tensor | None) -> HeadLosses:
    """The cross-entropy of p_1 against the data."""
    filled = inside(batch.rows.lengths, batch.rows.tokens.size(1))
    targets, bias = batch.rows.tokens[filled], _finite(batch.base.output_bias)
    count = filled.sum()
    shares = (share / (count if divisor is None else divisor)).expand(len(targets))
    factors = [Factor(batch.hidden[filled], batch.base.output_weight)]
    loss, losses, correct = projected_loss(factors, bias, partial(_against, targets=targets), shares)
    return HeadLosses(loss, losses.sum()[None], correct.sum()[None], count[None])


def _loss_of_proposals(
    batch: Batch,
    candidates: Tensor | None,
    outputs: Tensor,
    which: range,
    shares: Tensor,
    temperature: float | None,
    divisor: Tensor | None,
) -> HeadLosses:
    (tokens, lengths), groups = batch.rows, batch.groups
    device, length = tokens.device, tokens.size(1)
    weight, bias, ids = _projection(batch.base, candidates)

    # An output at depth d predicts the token d + 1 positions after its anchor; [B, T + G], depth by depth.
    sizes = [length, *groups.counts]
    depth = torch.arange(len(sizes), device=device).repeat_interleave(torch.tensor(sizes, device=device))
    place = torch.cat((groups.every(length), groups.of_all_depths()), 1) + depth + 1
    exists = place < lengths[:, None]
    target = ids[tokens.gather(1, place.clamp(max=length - 1))]
    head = depth - (which.start - 2)
    chosen = exists & (head >= 0) & (shares > 0)[head.clamp(min=0)]
    if temperature is None:
        chosen &= target >= 0
    row, column = chosen.nonzero().unbind(1)
    head = head[column]
    counts = _sums(torch.ones_like(head), head, len(which))

    each = shares / (counts.clamp(min=1) if divisor is None else divisor)
    if divisor is not None:
        # A group that was drawn stands for those that were left out.
        there = (lengths[:, None] - torch.arange(1, which.stop - 1, device=device)).clamp(min=0).sum(0)
        drawn = _sums(exists.sum(0), depth, which.stop - 2)
        each = each * (there / drawn.clamp(min=1))[which.start - 2 :]
    factors = [Factor(outputs[row, column], weight)]
    if batch.correction is not None:
        factors.append(batch.correction.factor(tokens[row, place[row, column] - 1], candidates))
    score = partial(_against, targets=target[row, column])
    if temperature is not None:
        taught = batch.hidden[row, place[row, column]].detach()
        score = partial(_taught, hidden=taught, weight=weight.detach(), bias=bias, temperature=temperature)
    loss, losses, correct = projected_loss(factors, bias, score, each[head])
    return HeadLosses(loss, _sums(losses, head, len(which)), _sums(correct.long(), head, len(which)), counts)


def _projection(base: Base, candidates: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
    """Projection and bias of the candidates, and the index of each token among them, int64 [V]; -1 for others."""
    weight, bias = base.output_weight, base.output_bias
    ids = torch.arange(len(weight), device=weight.device)
    if candidates is not None:
        ids = torch.full_like(ids, -1)
        ids[candidates] = torch.arange(len(candidates), device=ids.device)
        weight = weight.index_select(0, candidates)
    if bias is not None:
        ids = ids.masked_fill(bias.isneginf(), -1)
        bias = bias if candidates is None else bias.index_select(0, candidates)
    return weight, _finite(bias), ids


def _finite(bias: Tensor | None) -> Tensor | None:
    # Forbidden tokens have a logit of -inf. Their term in the divergence would be 0 times -inf, which is NaN.
    return None if bias is None else bias.detach().clamp(min=LEAST_BIAS)


def _against(logits: Tensor, part: slice, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return cross_entropy(logits, targets[part])


def _taught(
    logits: Tensor, part: slice, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses against the base's distributions, whose hidden states are ``hidden`` [P, D]."""
    own = linear(hidden[part], weight.to(hidden.dtype)).to(logits.dtype)
    teacher = Teacher.of(own if bias is None else own + bias, temperature)
    return divergence(logits, teacher, torch.arange(len(logits), device=logits.device))


def _sums(values: Tensor, index: Tensor, count: int) -> Tensor:
    """The sums of the values [P] with each index 0..count - 1."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add_(0, index, values)
