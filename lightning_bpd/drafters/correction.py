"""The correction of each proposal by the token before it (the Markov head of DSpark).

Drafters that propose all tokens of a block in one pass choose each without knowing the others. A table of low rank adds
to the logits of each proposal what the token before it makes more or less probable, and proposals are chosen from left
to right.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from lightning_bpd.decoding import Greedy
from lightning_bpd.drafters.projected_loss import Factor
from lightning_bpd.interfaces import Proposal, Sampler
from lightning_bpd.kernels.linear import linear

# Numbers of a table that is computed once, 64 MiB of float32; what would need a larger one is computed as needed.
MOST_TABLE = 2**24
# Rows up to which a loop over rows is faster than seven calls of torch for each proposal.
MOST_ROWS_ON_HOST = 8


class Correction(nn.Module):
    """Adds ``before[previous token] @ after.T`` to logits; nothing at first.

    Args:
        vocabulary: V.
        rank: Rank of the table.
    """

    def __init__(self, vocabulary: int, rank: int) -> None:
        super().__init__()
        self.before = nn.Embedding(vocabulary, rank)
        self.after = nn.Parameter(torch.zeros(vocabulary, rank))
        nn.init.normal_(self.before.weight, std=rank**-0.5)

    def factor(self, previous: Tensor, candidates: Tensor | None) -> Factor:
        """Return the product that is added to logits [P, C] of the tokens after ``previous`` (int64 [P])."""
        after = self.after if candidates is None else self.after.index_select(0, candidates)
        return Factor(self.before(previous), after)


class LeftToRight:
    """Chooses proposals from left to right.

    Args:
        correction: Corrects each proposal by the token before it; None for no correction.
        candidates: int64 [C], the tokens that are proposed; None for all.
        vocabulary: V.
        dtype: Type of the logits.
    """

    def __init__(
        self, correction: Correction | None, candidates: Tensor | None, vocabulary: int, dtype: torch.dtype
    ) -> None:
        self._correction, self._candidates = correction, candidates
        self._vocabulary, self._dtype = vocabulary, dtype

    def choose(
        self, logits: Tensor, following: Tensor, positions: Tensor, rows: Tensor, sampler: Sampler
    ) -> Proposal:
        """Choose a token for each row of logits [B, n, C].

        Args:
            logits: The logits without correction.
            following: int64 [B], the certain token, which comes before the first proposal.
            positions: int64 [B], the position in its row of the first proposal.
            rows: int64 [B], the number of each row in its corpus.
            sampler: Chooses the tokens.
        """
        if self._correction is None:
            tokens = sampler.choose(logits, positions, rows, self._candidates)
            probabilities = self._all_tokens(sampler.probabilities(logits))
            return Proposal(tokens, probabilities, partial(self._confidence, logits, tokens))
        compiled = torch.compiler.is_compiling()
        if (
            not compiled
            and isinstance(sampler, Greedy)
            and logits.is_cpu
            and len(logits) <= MOST_ROWS_ON_HOST
        ):
            return self._greedily(logits, following)
        chosen, drawn_from, scores = [], [], []
        for index in range(logits.size(1)):
            corrected = (logits[:, index] + self._corrections(following))[:, None]
            token = sampler.choose(corrected, positions + index, rows, self._candidates)
            following = token[:, 0]
            chosen.append(token)
            drawn_from.append(sampler.probabilities(corrected))
            scores.append(corrected)
        known = [each for each in drawn_from if each is not None]
        probabilities = self._all_tokens(torch.cat(known, 1) if known else None)
        tokens = torch.cat(chosen, 1)
        return Proposal(tokens, probabilities, lambda: self._confidence(torch.cat(scores, 1), tokens))

    def _greedily(self, logits: Tensor, following: Tensor) -> Proposal:
        """Choose the most probable tokens of a few rows by NumPy, which takes a tenth of the time for a call."""
        candidates = self._candidate_list
        chosen, sure = [], []
        for scores, previous in zip(_array(logits), following.tolist(), strict=True):
            row = []
            for score in scores:
                corrected = score + self._on_host(previous)
                best = int(corrected.argmax())
                sure.append((corrected, corrected[best]))
                previous = best if candidates is None else candidates[best]
                row.append(previous)
            chosen.append(row)
        tokens = torch.tensor(chosen)

        def confidence() -> Tensor:
            return torch.tensor([1 / numpy.exp(each - highest).sum() for each, highest in sure]).view_as(
                tokens
            )

        return Proposal(tokens, None, confidence)

    def _confidence(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return the probabilities [B, n] of tokens (int64 [B, n]), each by its row of logits [B, n, C].

        A drafter learns to predict the token that the model chooses, so this is how sure it is that the model agrees.
        """
        index = tokens if self._candidates is None else torch.searchsorted(self._candidates, tokens)
        return logits.float().log_softmax(2).gather(2, index[..., None]).squeeze(2).exp()

    def _on_host(self, previous: int) -> Any:
        """Return what is added to the logits of the token after ``previous``, an array [C]."""
        if isinstance(self._table, Tensor):
            return self._arrays[0][previous]
        before, after = self._arrays
        return after @ before[previous]

    @cached_property
    def _candidate_list(self) -> list[int] | None:
        return None if self._candidates is None else self._candidates.tolist()

    @cached_property
    def _arrays(self) -> list[Any]:
        """The table, or its factors, as arrays."""
        tables = [self._table] if isinstance(self._table, Tensor) else self._table
        return [_array(table) for table in tables]

    @cached_property
    def _table(self) -> Tensor | tuple[Tensor, Tensor]:
        """The correction of each proposed token by the token before, [V, C]; if that is large, its two factors."""
        assert self._correction is not None
        before, after = (
            table.detach().to(self._dtype)
            for table in (self._correction.before.weight, self._correction.after)
        )
        after = after if self._candidates is None else after[self._candidates]
        return before @ after.t() if len(before) * len(after) <= MOST_TABLE else (before, after)

    def _corrections(self, previous: Tensor) -> Tensor:
        """Return what is added to the logits of the tokens after ``previous`` (int64 [B]), [B, C]."""
        if isinstance(self._table, Tensor):
            return self._table[previous]
        before, after = self._table
        return linear(before[previous], after)

    def _all_tokens(self, probabilities: Tensor | None) -> Tensor | None:
        """Spread probabilities of the candidates [..., C] over all tokens [..., V]."""
        if probabilities is None or self._candidates is None:
            return probabilities
        full = probabilities.new_zeros(*probabilities.shape[:-1], self._vocabulary)
        return full.index_copy_(-1, self._candidates, probabilities)


def _array(tensor: Tensor) -> Any:
    """The numbers of a tensor on the CPU as an array, at least float32; NumPy has no bfloat16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).numpy()
