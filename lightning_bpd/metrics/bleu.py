"""Corpus BLEU that is exact on any number of processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor
from torchmetrics import Metric

ORDER = 4


def bleu_statistics(outputs: Sequence[str], references: Sequence[str]) -> list[int]:
    """Sufficient statistics of BLEU, which add up over any split of a corpus.

    Returns:
        10 integers: output and reference length in words, n-gram matches for n = 1..4, n-grams for n = 1..4.
    """
    if not outputs:
        return [0] * (2 + 2 * ORDER)
    score = BLEU().corpus_score(list(outputs), [list(references)])
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


def bleu_score(statistics: Sequence[int]) -> float:
    """BLEU, 0-100, equal to ``sacrebleu.corpus_bleu`` of the whole corpus."""
    output_length, reference_length, *counts = statistics
    return BLEU.compute_bleu(
        correct=list(counts[:ORDER]),
        total=list(counts[ORDER:]),
        sys_len=output_length,
        ref_len=reference_length,
        smooth_method="exp",
    ).score


def bleu_signature() -> str:
    """The sacreBLEU signature of these scores."""
    # The number of references is known to the metric only once it has scored something.
    metric = BLEU()
    metric.corpus_score(["a"], [["a"]])
    return str(metric.get_signature())


class CorpusBleu(Metric):
    """BLEU over all rows of all ranks: integer sums, so neither order nor batches nor ranks change a digit."""

    full_state_update = False
    higher_is_better = True
    statistics: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("statistics", torch.zeros(2 + 2 * ORDER, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, outputs: Sequence[str], references: Sequence[str]) -> None:
        """Add rows: detokenised, cased text."""
        new = torch.tensor(bleu_statistics(outputs, references), device=self.statistics.device)
        # Never in place: spawned ranks start with states that share their memory.
        self.statistics = self.statistics + new

    def compute(self) -> Tensor:
        """BLEU, float64 scalar, 0-100."""
        return torch.tensor(bleu_score(self.statistics.tolist()), dtype=torch.float64)
