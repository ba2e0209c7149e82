"""Beam search, on the SequenceModel contract alone."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.interfaces import DecodeResult, SequenceModel, State, TokenRows


def length_penalty(length: Tensor | int, alpha: float) -> Tensor | float:
    """((5 + length) / 6) ** alpha, which log-probabilities are divided by (Wu et al. 2016, equation 14)."""
    return ((5.0 + length) / 6.0) ** alpha


@torch.inference_mode()
def beam_search(
    model: SequenceModel[State], source: TokenRows, beam: int = 4, alpha: float = 0.6, extra_length: int = 50
) -> DecodeResult:
    """The best row found by keeping the ``beam`` most probable prefixes of each source.

    A hypothesis ends with its end token or after source length + ``extra_length`` tokens, and counts as its
    log-probability divided by the length penalty. A source is finished when no prefix still alive can beat the
    best ended hypothesis whatever follows, and then leaves the batch.

    Args:
        model: Any SequenceModel, in eval mode.
        source: What to decode from, int64 [B, S] and [B], on the model's device.
        beam: Prefixes kept for each source.
        alpha: Exponent of the length penalty; 0 for none.
        extra_length: Tokens that a row may be longer than its source.
    """
    device = source.lengths.device
    limits = length_limits(model, source, extra_length)
    sources, longest = len(limits), int(limits.max())
    state = model.start(source, torch.arange(sources, device=device).repeat_interleave(beam), longest)

    best_tokens = torch.zeros(sources, longest, dtype=torch.long, device=device)
    best_lengths = torch.zeros_like(limits)
    best_scores: Tensor | None = None
    calls_of = torch.zeros_like(limits)

    active = torch.arange(sources, device=device)
    prefixes = torch.zeros(sources, beam, longest, dtype=torch.long, device=device)
    newest = torch.full((sources, beam), model.bos_id, dtype=torch.long, device=device)
    log_probabilities: Tensor | None = None
    calls = 0
    while len(active):
        logits = model.project(model.step(newest.view(-1, 1), state)[:, -1])
        vocabulary = logits.size(-1)
        step_scores = logits.log_softmax(-1).view(len(active), beam, vocabulary)
        if log_probabilities is None or best_scores is None:
            # All prefixes of a source are the same before the first token: let only one of them grow.
            log_probabilities = step_scores.new_full((sources, beam), -torch.inf)
            log_probabilities[:, 0] = 0.0
            best_scores = step_scores.new_full((sources,), -torch.inf)
        calls += 1
        calls_of[active] = calls

        # Each prefix has one ending continuation, so 2 * beam candidates always hold `beam` that go on.
        grown = (log_probabilities[:, :, None] + step_scores).flatten(1)
        candidates, places = grown.topk(min(2 * beam, grown.size(1)))
        parents, tokens = places // vocabulary, places % vocabulary
        ended = (tokens == model.eos_id) | (limits[active] == calls)[:, None]

        # The best hypothesis that ends here against the best that ended before.
        ending = candidates.masked_fill(~ended, -torch.inf) / length_penalty(calls, alpha)
        score, place = ending.max(1)
        better = (score > best_scores[active]).nonzero().squeeze(1)
        if len(better):
            place, rows = place[better], active[better]
            best_tokens[rows] = prefixes[better, parents[better, place]]
            best_tokens[rows, calls - 1] = tokens[better, place]
            best_lengths[rows] = calls
            best_scores[rows] = score[better]

        # The prefixes that go on.
        log_probabilities, kept = candidates.masked_fill(ended, -torch.inf).topk(beam)
        parents, newest = parents.gather(1, kept), tokens.gather(1, kept)
        prefixes = prefixes.gather(1, parents[:, :, None].expand(-1, -1, longest))
        prefixes[:, :, calls - 1] = newest

        # Log-probabilities only fall, and the largest divisor is the one at the length limit.
        hope = log_probabilities[:, 0] / length_penalty(limits[active], alpha)
        going = (hope > best_scores[active]).nonzero().squeeze(1)
        rows = torch.arange(len(active), device=device)[:, None] * beam + parents
        if len(going) < len(active):
            active, prefixes, newest = active[going], prefixes[going], newest[going]
            log_probabilities, rows = log_probabilities[going], rows[going]
        if len(active):
            state.reorder(rows.flatten())
    return DecodeResult(best_tokens[:, :calls], best_lengths, best_scores, calls_of)
