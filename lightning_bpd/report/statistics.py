"""The uncertainty of measured numbers: bootstraps over rows, which are sentences or images."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest as PairedBleuTest
from scipy.stats import bootstrap

from lightning_bpd.interfaces import InputError

SEED = 12345
# The largest possible squared error of an intensity.
PEAK = 255.0**2


class PairedTest(NamedTuple):
    """A system beside its baseline."""

    baseline: float
    """quality, computed from the rows"""
    system: float
    p_value: float
    """of the difference, by paired bootstrap resampling"""


def block_size_interval(
    tokens: Sequence[Sequence[int]], iterations: Sequence[Sequence[int]], resamples: int = 1000
) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean accepted block size.

    Rows are resampled, and the block size of each resample is the ratio of its sums. For several models the same rows
    are drawn and the mean of their block sizes is taken: the interval is about rows, not about seeds.

    Args:
        tokens: Tokens of each row, for each model: [models, rows].
        iterations: Iterations, likewise.
        resamples: How often the rows are drawn.

    Returns:
        The 2.5th and the 97.5th percentile.
    """
    accepted, spent = np.array(tokens), np.array(iterations)

    def mean_block_size(rows: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        rows = rows.astype(int)
        return (accepted[:, rows].sum(axis) / spent[:, rows].sum(axis)).mean(0)

    rows = np.arange(accepted.shape[1])
    if len(rows) == 1:
        return (float(mean_block_size(rows)),) * 2
    rng = np.random.default_rng(SEED)
    drawn = bootstrap(
        (rows,), mean_block_size, n_resamples=resamples, batch=100, method="percentile", rng=rng
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def compare_bleu(
    baseline: Sequence[str],
    systems: Sequence[Sequence[str]],
    references: Sequence[str],
    signature: str,
    resamples: int = 1000,
) -> list[PairedTest]:
    """Test each system against one baseline by sacreBLEU's paired bootstrap, with a fixed seed.

    Args:
        baseline: The output of the baseline, one text for each sentence.
        systems: The outputs of the systems.
        references: One text for each sentence.
        signature: The sacreBLEU signature that names the settings of BLEU.
        resamples: Number of draws of the sentences.

    Returns:
        One result for each system. If a system has the output of the baseline, its p is 1, although sacreBLEU returns
        the smallest possible p for it.

    Raises:
        InputError: The signature is not that of a BLEU with one reference.
    """
    metric = bleu_of(signature)
    score = metric.corpus_score(list(baseline), [list(references)]).score
    results = [PairedTest(score, score, 1.0) for _ in systems]
    different = [number for number, outputs in enumerate(systems) if list(outputs) != list(baseline)]
    if different:
        named = [
            ("baseline", list(baseline)),
            *((str(number), list(systems[number])) for number in different),
        ]
        # sacreBLEU reads the seed from the environment only.
        with patch.dict(os.environ, SACREBLEU_SEED=str(SEED)):
            test = PairedBleuTest(named, {"BLEU": metric}, [list(references)], "bs", resamples)  # type: ignore[arg-type]
        _, scores = test()
        for number, result in zip(different, scores["BLEU"][1:], strict=True):
            results[number] = PairedTest(score, float(result.score), float(result.p_value))  # type: ignore[union-attr, arg-type]
    return results


def compare_psnr(
    baseline: Sequence[int], systems: Sequence[Sequence[int]], intensities: int, resamples: int = 1000
) -> list[PairedTest]:
    """Test PSNR over images as sacreBLEU tests BLEU over sentences.

    Args:
        baseline: The sum of squared errors of each image.
        systems: The same sums for each system.
        intensities: Number of intensities in each image.
        resamples: Number of draws of the images.
    """
    count = len(baseline)
    # How often each image is drawn, [resamples, images]: sums over a resample are one matrix product.
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=resamples)

    def scores(errors: Sequence[int]) -> tuple[float, NDArray[np.float64]]:
        """PSNR of all images, and of each resample."""
        sums = drawn @ np.array(errors, dtype=float)
        return float(psnr(sum(errors), count * intensities)), psnr(sums, count * intensities)

    plain, drawn_plain = scores(baseline)
    results = []
    for errors in systems:
        score, drawn_scores = scores(errors)
        differences = np.abs(drawn_scores - drawn_plain)
        larger = int((differences - differences.mean() > abs(score - plain)).sum())
        same = list(errors) == list(baseline)
        results.append(PairedTest(plain, score, 1.0 if same else (larger + 1) / (resamples + 1)))
    return results


def psnr(errors: ArrayLike, intensities: int) -> NDArray[np.float64]:
    """PSNR in decibels, from sums of squared errors over this many intensities.

    A sum of 0, which a resample of few images may have, counts as 1, the smallest sum that gives a finite PSNR.
    """
    return 10 * np.log10(PEAK * intensities / np.maximum(np.asarray(errors, dtype=float), 1.0))


def bleu_of(signature: str) -> BLEU:
    """The metric that a sacreBLEU signature describes. Raises InputError unless it is a BLEU with one reference."""
    parts = dict(part.split(":", 1) for part in signature.split("|") if ":" in part)
    smoothing = re.fullmatch(r"(\w+)(?:\[([\d.]+)\])?", parts.get("smooth", "exp"))
    try:
        if parts.get("nrefs") != "1" or smoothing is None:
            raise ValueError("another metric")
        return BLEU(
            lowercase=parts.get("case") == "lc",
            tokenize=parts["tok"],
            smooth_method=smoothing[1],
            smooth_value=None if smoothing[2] is None else float(smoothing[2]),
            effective_order=parts.get("eff") == "yes",
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise InputError(f"{signature!r} is not the signature of a BLEU with one reference") from error
