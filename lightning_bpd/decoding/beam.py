"""Beam search, which needs the SequenceModel contract only."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.interfaces import DecodeResult, InputError, SequenceModel, State, TokenRows


def length_penalty(length: Tensor | int, alpha: float) -> Tensor | float:
    """Compute ((5 + length) / 6) ** alpha, the divisor of log-probabilities (Wu et al. 2016, equation 14)."""
    return ((5.0 + length) / 6.0) ** alpha


@torch.inference_mode()
def beam_search(
    model: SequenceModel[State],
    source: TokenRows,
    beam: int = 4,
    alpha: float = 0.6,
    extra_length: int | Tensor = 50,
    best: int = 1,
) -> DecodeResult:
    """Find the best rows by keeping the ``beam`` most probable prefixes of each source.

    A hypothesis ends with its end token or after source length + ``extra_length`` tokens. Its score is its
    log-probability divided by the length penalty. A source is finished, and leaves the batch, when no continuation of
    its prefixes can beat the ``best`` ended hypotheses.

    Args:
        model: Any SequenceModel, in eval mode.
        source: The rows to decode from, int64 [B, S] and [B], on the model's device.
        beam: Prefixes kept for each source.
        alpha: Exponent of the length penalty; 0 for none.
        extra_length: Tokens that a row may be longer than its source, one number or int64 [B].
        best: Hypotheses to return for each source, at most ``beam``.

    Returns:
        B * ``best`` rows: all rows of the first source, best first, then those of the next. If a source has fewer
        hypotheses, its last rows have length 0.

    Raises:
        InputError: ``best`` is not between 1 and ``beam``.
    """
    if not 1 <= best <= beam:
        raise InputError(f"a beam of {beam} gives the best 1 to {beam} hypotheses, not {best}")
    device = source.lengths.device
    limits = length_limits(model, source, extra_length)
    sources, longest = len(limits), int(limits.max())
    state = model.start(source, torch.arange(sources, device=device).repeat_interleave(beam), longest)

    ended_rows = _Best(sources, best, longest, device)
    calls_of = torch.zeros_like(limits)
    ends = torch.tensor(sorted(model.ends), dtype=torch.long, device=device)

    active = torch.arange(sources, device=device)
    prefixes = torch.zeros(sources, beam, longest, dtype=torch.long, device=device)
    newest = torch.full((sources, beam), model.bos_id, dtype=torch.long, device=device)
    log_probabilities: Tensor | None = None
    calls = 0
    while len(active):
        logits = model.project(model.step(newest.view(-1, 1), state)[:, -1])
        vocabulary = logits.size(-1)
        # Sums of log-probabilities need at least float32.
        wide = torch.promote_types(logits.dtype, torch.float32)
        step_scores = logits.log_softmax(-1, dtype=wide).view(len(active), beam, vocabulary)
        if log_probabilities is None:
            # All prefixes of a source are equal before the first token: only one of them grows.
            log_probabilities = step_scores.new_full((sources, beam), -torch.inf)
            log_probabilities[:, 0] = 0.0
        calls += 1
        calls_of[active] = calls

        # A prefix has one ending per end token, so at least `beam` of these candidates go on.
        grown = step_scores.add_(log_probabilities[:, :, None]).flatten(1)
        candidates, indices = grown.topk(min((1 + max(len(ends), 1)) * beam, grown.size(1)))
        parents, tokens = indices // vocabulary, indices % vocabulary
        ended = (tokens[..., None] == ends).any(-1) | (limits[active] == calls)[:, None]

        ending = candidates.masked_fill(~ended, -torch.inf) / length_penalty(calls, alpha)
        ended_rows.take(active, ending, prefixes, parents, tokens, calls)

        # The prefixes that go on.
        log_probabilities, kept = candidates.masked_fill(ended, -torch.inf).topk(beam)
        parents, newest = parents.gather(1, kept), tokens.gather(1, kept)
        prefixes = prefixes.gather(1, parents[:, :, None].expand(-1, -1, longest))
        prefixes[:, :, calls - 1] = newest

        # Log-probabilities only fall, and the largest divisor is the one at the length limit.
        hope = log_probabilities[:, 0] / length_penalty(limits[active], alpha)
        going = (hope > ended_rows.scores[active, -1]).nonzero().squeeze(1)
        rows = torch.arange(len(active), device=device)[:, None] * beam + parents
        if len(going) < len(active):
            active, prefixes, newest = active[going], prefixes[going], newest[going]
            log_probabilities, rows = log_probabilities[going], rows[going]
        if len(active):
            state.reorder(rows.flatten())
    return ended_rows.result(calls, calls_of)


class _Best:
    """The best ended hypotheses of each source so far, best first."""

    def __init__(self, sources: int, best: int, longest: int, device: torch.device) -> None:
        # Wide enough for the scores of any model.
        self.scores = torch.full((sources, best), -torch.inf, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(sources, best, longest, dtype=torch.long, device=device)
        self.lengths = torch.zeros(sources, best, dtype=torch.long, device=device)

    def take(
        self, active: Tensor, ending: Tensor, prefixes: Tensor, parents: Tensor, tokens: Tensor, calls: int
    ) -> None:
        """Keep the hypotheses that end with this call and beat the kept ones.

        Args:
            active: int64 [A], the sources.
            ending: [A, C], scores; -inf for a candidate that does not end.
            prefixes: int64 [A, beam, longest], which candidates continue.
            parents: int64 [A, C], the prefix of each candidate.
            tokens: int64 [A, C], the last token of each candidate.
            calls: Length of the candidates.
        """
        best = self.scores.size(1)
        improved = (ending.amax(1) > self.scores[active, -1]).nonzero().squeeze(1)
        if not len(improved):
            return
        sources = active[improved]
        pool = torch.cat([self.scores[sources], ending[improved].double()], 1)
        self.scores[sources], indices = pool.topk(best)
        known = indices < best
        old, new = indices.clamp(max=best - 1), (indices - best).clamp(min=0)
        rows = prefixes[improved[:, None], parents[improved].gather(1, new)]
        rows[:, :, calls - 1] = tokens[improved].gather(1, new)
        group = sources[:, None]
        self.tokens[sources] = torch.where(known[:, :, None], self.tokens[group, old], rows)
        self.lengths[sources] = self.lengths[group, old].where(known, torch.full_like(indices, calls))

    def result(self, longest: int, calls: Tensor) -> DecodeResult:
        """Return all hypotheses as rows; missing ones have length 0."""
        best = self.scores.size(1)
        found = self.scores > -torch.inf
        return DecodeResult(
            self.tokens[:, :, :longest].flatten(0, 1),
            (self.lengths * found).flatten(),
            self.scores.flatten(),
            calls.repeat_interleave(best),
        )
