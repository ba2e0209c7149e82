"""Corpus BLEU and chrF that are exact on any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor

from lightning_bpd.interfaces import InputError
from lightning_bpd.metrics.sums import Sums, scalar

ORDER = 4
DEFAULT_TOKENIZER = "13a"
_PACKAGES = {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]"}


@cache
def _bleu(tokenizer: str) -> BLEU:
    """Make sacreBLEU's metric. Its message about a missing package has several lines, and it may end the process."""
    if tokenizer not in BLEU.TOKENIZERS:
        raise InputError(
            f"sacreBLEU has no tokenizer {tokenizer!r}: choose one of {', '.join(BLEU.TOKENIZERS)}"
        )
    try:
        metric = BLEU(tokenize=tokenizer)
    except (Exception, SystemExit) as error:
        if tokenizer in _PACKAGES:
            problem = f"needs a package that is not installed: pip install '{_PACKAGES[tokenizer]}'"
        else:
            problem = (
                f"cannot be loaded ({error}): sacreBLEU downloads its model once, to ~/.sacrebleu/models"
            )
        raise InputError(f"BLEU's tokenizer {tokenizer} {problem}") from error
    # The signature needs the number of references, which the metric learns from its first score.
    metric.corpus_score(["a"], [["a"]])
    return metric


def bleu_statistics(
    outputs: Sequence[str], references: Sequence[str], tokenizer: str = DEFAULT_TOKENIZER
) -> list[int]:
    """Compute sufficient statistics of BLEU, which add up over any split of a corpus.

    Args:
        outputs: Detokenised, cased text.
        references: As many.
        tokenizer: One of sacreBLEU's, such as ``zh``, ``ja-mecab`` or ``flores200``.

    Returns:
        10 integers: output and reference length in tokens, n-gram matches for n = 1..4, n-grams for n = 1..4.

    Raises:
        InputError: The tokenizer is unknown, or a package or model that it needs is missing.
    """
    if not outputs:
        return [0] * (2 + 2 * ORDER)
    score = _bleu(tokenizer).corpus_score(list(outputs), [list(references)])
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


def bleu_score(statistics: Sequence[int]) -> float:
    """Compute BLEU, 0-100, equal to ``sacrebleu.corpus_bleu`` of the whole corpus."""
    output_length, reference_length, *counts = statistics
    return BLEU.compute_bleu(
        correct=list(counts[:ORDER]),
        total=list(counts[ORDER:]),
        sys_len=output_length,
        ref_len=reference_length,
        smooth_method="exp",
    ).score


def bleu_signature(tokenizer: str = DEFAULT_TOKENIZER) -> str:
    """Return the sacreBLEU signature of BLEU. Raises InputError as ``bleu_statistics`` does."""
    return str(_bleu(tokenizer).get_signature())


def chrf_statistics(outputs: Sequence[str], references: Sequence[str]) -> list[int]:
    """Compute sufficient statistics of chrF, which add up over any split of a corpus.

    Returns:
        18 integers: for n = 1..6 the number of character n-grams of outputs, of references, and of their matches.
    """
    rows: Any = [] if not outputs else CHRF()._extract_corpus_statistics(list(outputs), [list(references)])
    return [sum(column) for column in zip([0] * 3 * CHRF.CHAR_ORDER, *rows, strict=True)]


def chrf_score(statistics: Sequence[int]) -> float:
    """Compute chrF, 0-100, equal to ``sacrebleu.corpus_chrf`` of the whole corpus."""
    return CHRF()._compute_f_score(list(statistics))


def chrf_signature() -> str:
    """Return the sacreBLEU signature of chrF."""
    metric = CHRF()
    metric.corpus_score(["a"], [["a"]])
    return str(metric.get_signature())


class CorpusBleu(Sums):
    """BLEU over all rows of all ranks, with one of sacreBLEU's tokenizers."""

    higher_is_better = True

    def __init__(self, tokenizer: str = DEFAULT_TOKENIZER) -> None:
        super().__init__(2 + 2 * ORDER)
        self.tokenizer = tokenizer

    def update(self, outputs: Sequence[str], references: Sequence[str]) -> None:
        """Add rows: detokenised, cased text."""
        self.add(*bleu_statistics(outputs, references, self.tokenizer))

    def compute(self) -> Tensor:
        """Return the score, float64 scalar, 0-100."""
        return scalar(bleu_score(self.sums.tolist()))


class CorpusChrf(Sums):
    """chrF (Popović 2015) over all rows of all ranks, character n-grams up to 6."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__(3 * CHRF.CHAR_ORDER)

    def update(self, outputs: Sequence[str], references: Sequence[str]) -> None:
        """Add rows: detokenised, cased text."""
        self.add(*chrf_statistics(outputs, references))

    def compute(self) -> Tensor:
        """Return the score, float64 scalar, 0-100."""
        return scalar(chrf_score(self.sums.tolist()))
