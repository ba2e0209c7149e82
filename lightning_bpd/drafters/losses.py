"""Losses of the heads, computed without the logits of all tokens and heads in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_bpd.drafters.layer import HeadLayer, add_product
from lightning_bpd.drafters.scores import KnownGradients, Teacher, cross_entropy, divergence
from lightning_bpd.drafters.targets import shifted_targets
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.kernels.linear import linear

if TYPE_CHECKING:
    from lightning_bpd.drafters.block_heads import BlockHeads

# Logits held at once. On a CPU just under 32 MiB of float32: malloc gets larger blocks from the kernel each time.
CPU_LOGITS, GPU_LOGITS = 8_000_000, 64_000_000
# A token with this bias has probability 0 in float32, and float16 can hold the bias.
LEAST_BIAS = -30_000.0

# Maps logits [P, V] to losses [P], a mask of right predictions [P], and the gradient of the logits [P, V].
Score = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class HeadLosses(NamedTuple):
    """The losses of n heads over a batch."""

    loss: Tensor
    """scalar to minimise: the weighted mean over the heads of each head's summed loss over the divisor"""
    sums: Tensor
    """[n], nats: each head's loss summed over its targets, detached; float32 or wider, as ``loss``"""
    correct: Tensor
    """int64 [n]: how often a head's most probable token is the target, or in distillation the teacher's best token"""
    counts: Tensor
    """int64 [n]: number of targets of each head"""

    def joined(self, others: HeadLosses) -> HeadLosses:
        """Return the losses of these heads and of others after them; the weights of all add up to 1."""
        joined = (torch.cat(parts) for parts in zip(self[1:], others[1:], strict=True))
        return HeadLosses(self.loss + others.loss, *joined)


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
    """Compute the cross-entropy of a range of heads, or their divergence from the base's predictions.

    The tokens are processed in parts. The gradients of each part are computed at once and only sums are kept, so eight
    heads take the memory of one. Only existing targets are projected. ``loss.backward()`` works once, and gives no
    second derivatives.

    Heads with candidates, except head 1, are trained on the candidates only, which makes the loss cheaper. Targets
    outside the candidates are ignored, and a teacher's distribution is over the candidates, too. Tokens with a bias of
    -inf are ignored as targets, because p_1 never chooses them.

    With a temperature T the heads learn from a teacher instead of the data. Head i at position t learns from
    p_1 = softmax((hidden @ weight.T + bias) / T) at position t + i - 1, held fixed. The loss is
    KL(teacher || head) * T**2 (Hinton et al. 2015), and only the lengths of ``rows`` matter.

    Args:
        heads: The heads.
        hidden: The base's hidden states [B, T, D]; position t has read the start token and t tokens.
        weight: The vocabulary projection, [V, D].
        rows: Target rows, int64 [B, T] and [B].
        which: Numbers of heads, from 1: all, such as ``range(2, 9)``, or one, such as ``range(3, 4)``.
        head_weights: [n], one for each head of ``which``, on the CPU; equal by default. A head with weight 0 is not
            computed and counts no targets.
        temperature: Temperature of distillation; None for cross-entropy.
        most_logits: Number of logits to hold at once; by default chosen for the device.
        bias: Bias of the logits, [V], or None. Values below -30,000 are raised to -30,000.
        divisor: Scalar by which each head's summed loss is divided; by default the head's number of targets. With a
            divisor of 1, the losses of several batches add up to the loss of their union.

    Raises:
        InputError: There are no such heads; the weights are not one for each head, not finite, negative or all 0; or
            the temperature is not above 0.
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
    # The target of each token id; -1 for a forbidden token.
    target_ids = torch.arange(len(weight), device=weight.device)
    if bias is not None:
        target_ids = target_ids.masked_fill(bias.isneginf(), -1)
        # Forbidden tokens have a logit of -inf. Their term in the divergence would be 0 times -inf, which is NaN.
        bias = bias.clamp(min=LEAST_BIAS)
    candidates = heads.candidates_of(len(weight))
    losses_over = partial(
        _losses_over, heads, hidden, temperature=temperature, most_logits=most_logits, divisor=divisor
    )
    if candidates is None or which.stop == 2:
        return losses_over(weight, bias, target_ids[tokens], rows.lengths, which, shares)
    # The index of each token id among the candidates; -1 for other tokens.
    indices = torch.full((len(weight),), -1, device=candidates.device)
    indices[candidates] = torch.arange(len(candidates), device=candidates.device)
    indices = torch.where(target_ids < 0, -1, indices)
    others = range(max(which.start, 2), which.stop)
    other = losses_over(
        weight.index_select(0, candidates),
        None if bias is None else bias.index_select(0, candidates),
        indices[tokens],
        rows.lengths,
        others,
        shares[-len(others) :],
    )
    if which.start > 1:
        return other
    first = losses_over(weight, bias, target_ids[tokens], rows.lengths, range(1, 2), shares[:1])
    return first.joined(other)


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
    """Compute ``head_losses`` over the rows of ``weight``, which ``tokens`` index; negative tokens are not targets."""
    targets, mask = shifted_targets(TokenRows(tokens, lengths), which.stop - 1)
    positions = mask[..., 0].flatten().nonzero().squeeze(1)
    columns = slice(which.start - 1, None)
    targets, mask = (
        table[..., columns].flatten(0, 1).index_select(0, positions) for table in (targets, mask)
    )
    if temperature is None:
        mask = mask & (targets >= 0)
    kept = hidden.flatten(0, 1).index_select(0, positions)

    wide = torch.promote_types(hidden.dtype, torch.float32)
    shares = shares.to(hidden.device, wide)
    # Heads with weight 0 are left out, because an overflowing loss times 0 is NaN.
    mask = mask & (shares > 0)
    counts = mask.sum(0)
    shares = shares / (counts.clamp(min=1) if divisor is None else divisor)
    # The loss is multiplied by this factor for its gradients, because float16 would lose shares of 1 / 30,000.
    scale = counts.sum().clamp(min=1).to(wide)
    inputs = (kept, weight, torch.zeros(0) if bias is None else bias, *heads.layer)
    needed = [torch.is_grad_enabled() and tensor.requires_grad for tensor in inputs]
    # The gradients of the layer are computed together or not at all.
    needed[3:] = [any(needed[3:])] * len(heads.layer)
    gradients = [
        torch.zeros_like(tensor, dtype=wide) if need else None
        for tensor, need in zip(inputs, needed, strict=True)
    ]
    of_hidden, of_weight, of_bias, *of_layer = gradients
    losses = torch.zeros(mask.numel(), dtype=wide, device=hidden.device)
    correct = torch.zeros_like(losses, dtype=torch.bool)
    device = hidden.device.type
    narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    if most_logits is None:
        most_logits = CPU_LOGITS if device == "cpu" else GPU_LOGITS
        if narrow != heads.layer.hidden_weight.dtype:
            # Narrow copies of the heads' weights use memory of the logits, which are held once narrow and twice wide.
            copied = sum(tensor.numel() for tensor in heads.layer.of(heads.learned(which)))
            taken = copied * narrow.itemsize // (narrow.itemsize + 2 * wide.itemsize)
            most_logits = max(most_logits - taken, most_logits // 4)
    rows_at_once = max(most_logits // len(weight), 1)
    # All parts but the last have equally many pairs, because oneDNN prepares itself for every new shape.
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
    if any(needed):
        loss = KnownGradients.apply(loss, scale, gradients, *inputs)
    return HeadLosses(loss, sums, correct.view_as(mask).sum(0), counts)


class _Work(NamedTuple):
    """The work on M tokens and n heads. A pair is one token and one head; pairs are numbered token by token."""

    heads: _Heads
    hidden: Tensor
    """[M, D]"""
    weight: Tensor
    """[V, D], in the dtype of the products"""
    bias: Tensor | None
    """[V], in the dtype of the logits"""
    targets: Tensor
    """int64 [M * n]"""
    shares: Tensor
    """[n]: weight of a target of each head in the loss, about 1"""
    temperature: float | None
    losses: Tensor
    """[M * n], to be filled in; 0 for pairs without a target"""
    correct: Tensor
    """bool [M * n], to be filled in; False for pairs without a target"""
    of_hidden: Tensor | None
    """[M, D], the gradient to be added to, or None"""
    of_weight: Tensor | None
    """[V, D], the gradient to be added to, or None"""
    of_bias: Tensor | None
    """[V], likewise"""

    def logits(self, rows: Tensor) -> Tensor:
        """Compute logits [P, V] of rows [P, D] in the dtype of ``weight``."""
        logits = linear(rows, self.weight).to(self.losses.dtype)
        return logits if self.bias is None else logits.add_(self.bias)


def _score_part(work: _Work, part: slice, pairs: Tensor) -> None:
    """Compute losses and gradients of some pairs (int64 [P]), whose tokens are in ``part``.

    This is a function, so that the memory of a part is free when the next part begins.
    """
    heads, weight, wide = work.heads, work.weight, work.losses.dtype
    which, hidden = heads.which, work.hidden[part]
    token, head = pairs // len(which) - part.start, pairs % len(which)
    outputs, units = heads.forward(hidden)
    rows = outputs[token, head].to(weight.dtype)
    score: Score = partial(cross_entropy, targets=work.targets[pairs])
    if work.temperature is not None:
        # Head i at token t learns from the base at token t + i - 1, so heads share teacher distributions.
        ahead, indices = (part.start + which.start - 1 + token + head).unique(return_inverse=True)
        teacher = Teacher.of(work.logits(work.hidden[ahead].to(weight.dtype)), work.temperature)
        score = partial(divergence, teacher=teacher, indices=indices)
    # The logits have no name here, so that their memory is free once their gradient is computed.
    work.losses[pairs], work.correct[pairs], of_logits = score(work.logits(rows))
    gradients = (work.of_hidden, work.of_weight, work.of_bias, heads.totals)
    if all(gradient is None for gradient in gradients):
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
        # Added, because the pairs of a token may be in two parts.
        work.of_hidden[part] += of_hidden


class _Heads:
    """A range of heads, computed in ``dtype``; their gradients are added to views of ``totals``."""

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
        """Map hidden states [M, D] to outputs [M, n, D]; also return the hidden units for ``backward``."""
        if self.layer is None:
            return hidden[:, None], None
        units = self.layer.units(hidden.to(self.dtype))
        outputs = self.layer.outputs(hidden, units)
        return (torch.cat([hidden[:, None], outputs], 1) if self.identity else outputs), units

    def backward(self, hidden: Tensor, units: Tensor | None, gradient: Tensor) -> Tensor:
        """Map the gradient of the outputs, [M, n, D], to the gradient of the hidden states, [M, D]."""
        if self.layer is None or units is None:
            return gradient[:, 0]
        learned = gradient[:, int(self.identity) :]
        of_hidden = self.layer.backward(hidden.to(self.dtype), units, learned, self.totals)
        return of_hidden + gradient[:, 0] if self.identity else of_hidden
