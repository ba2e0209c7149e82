"""Cross-entropy over the vocabulary, for the tokens that count only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_bpd.interfaces import TokenRows
from lightning_bpd.kernels.linear import linear


def decoder_inputs(target: TokenRows, bos_id: int) -> Tensor:
    """The target rows moved one place to the right behind the start token, int64 [B, T]."""
    shifted = target.tokens.roll(1, dims=1)
    shifted[:, 0] = bos_id
    return shifted


def token_mask(rows: TokenRows) -> Tensor:
    """bool [B, T], True for tokens, the end token included, and False for padding."""
    return torch.arange(rows.tokens.size(1), device=rows.lengths.device) < rows.lengths[:, None]


def without_padding(hidden: Tensor, rows: TokenRows) -> tuple[Tensor, Tensor]:
    """The hidden states [N, D] and token ids [N] of all tokens that are not padding, from [B, T, D] and [B, T]."""
    hidden, tokens = hidden.flatten(0, 1), rows.tokens.flatten()
    if rows.lengths.device.type == "cpu" and int(rows.lengths.min()) == rows.tokens.size(1):
        return hidden, tokens
    places = token_mask(rows).flatten().nonzero().squeeze(1)
    return hidden.index_select(0, places), tokens.index_select(0, places)


def summed_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of ``hidden @ weight.T`` against ``targets``, summed over tokens, in nats.

    Smoothing asks for the mean logit of each token, which is its hidden state times the mean row of the
    projection: so it costs no pass over the logits. It equals ``F.cross_entropy(..., label_smoothing=...)``.

    Args:
        hidden: [N, D].
        weight: The vocabulary projection, [V, D].
        targets: int64 [N].
        label_smoothing: Probability spread evenly over the vocabulary (Szegedy et al. 2016).

    Returns:
        The loss to minimise and the cross-entropy without smoothing (detached), float32 scalars or wider.
    """
    logits = linear(hidden, weight)
    plain = F.cross_entropy(
        logits if logits.dtype == torch.float64 else logits.float(), targets, reduction="sum"
    )
    if label_smoothing == 0.0:
        return plain, plain.detach()
    hidden = hidden.to(plain.dtype)
    weight = weight.to(plain.dtype)
    target_logits = (hidden * F.embedding(targets, weight)).sum()
    mean_logits = torch.dot(hidden.sum(0), weight.mean(0))
    return plain + label_smoothing * (target_logits - mean_logits), plain.detach()
