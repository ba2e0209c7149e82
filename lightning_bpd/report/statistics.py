"""How far a measured number may be trusted: bootstraps over rows, which are sentences or images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest as PairedBleuTest

from lightning_bpd.interfaces import InputError

SEED = 12345


# The most that an intensity can be wrong, squared.
PEAK = 255.0**2


class PairedTest(NamedTuple):
    """A system beside its baseline."""

    baseline: float
    """quality, as it is found now"""
    system: float
    p_value: float
    """of the difference, by paired bootstrap resampling"""


def block_size_interval(
    tokens: Sequence[Sequence[int]], iterations: Sequence[Sequence[int]], resamples: int = 1000
) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean accepted block size.

    Rows are drawn again, and each draw's block size is the ratio of its sums. Of several models the same rows are
    drawn, and the mean of their block sizes is taken: the interval is about rows, not seeds.

    Args:
        tokens: Of each model the tokens of each row, [models, rows].
        iterations: The same of iterations.
        resamples: How often the rows are drawn.

    Returns:
        Its lower and upper end, the 2.5th and the 97.5th percentile.
    """
    accepted, spent = np.array(tokens, dtype=float), np.array(iterations, dtype=float)
    drawn = _draws(accepted.shape[1], resamples)
    means = (drawn @ accepted.T / (drawn @ spent.T)).mean(axis=1)
    lower, upper = np.percentile(means, [2.5, 97.5])
    return float(lower), float(upper)


def compare_bleu(
    baseline: Sequence[str],
    systems: Sequence[Sequence[str]],
    references: Sequence[str],
    signature: str,
    resamples: int = 1000,
) -> list[PairedTest]:
    """sacreBLEU's paired bootstrap of each system against one baseline, with a fixed seed.

    Args:
        baseline: Its output, one text a sentence.
        systems: Those of the others.
        references: One a sentence.
        signature: The sacreBLEU signature whose settings are to be used.
        resamples: How often the sentences are drawn.

    Returns:
        One result a system. Of output that is the baseline's own, p is 1: with nothing to tell apart sacreBLEU
        would give the least p of all.

    Raises:
        InputError: The signature is not that of a BLEU with one reference.
    """
    metric = bleu_of(signature)
    different = [place for place, outputs in enumerate(systems) if list(outputs) != list(baseline)]
    score = metric.corpus_score(list(baseline), [list(references)]).score
    results = [PairedTest(score, score, 1.0) for _ in systems]
    if different:
        named: list[tuple[str, Sequence[str]]] = [
            ("baseline", list(baseline)),
            *((str(place), list(systems[place])) for place in different),
        ]
        with _seed():
            test = PairedBleuTest(
                named, {"BLEU": metric}, [list(references)], test_type="bs", n_samples=resamples
            )
        _, scores = test()
        for place, result in zip(different, scores["BLEU"][1:], strict=True):
            results[place] = PairedTest(score, float(result.score), float(result.p_value))  # type: ignore[union-attr, arg-type]
    return results


def compare_psnr(
    baseline: Sequence[int], systems: Sequence[Sequence[int]], intensities: int, resamples: int = 1000
) -> list[PairedTest]:
    """The same test of PSNR over images, as sacreBLEU does it of BLEU over sentences.

    Args:
        baseline: The sum of squared errors of each image.
        systems: Those of the others.
        intensities: Of an image.
        resamples: How often the images are drawn.
    """
    drawn = _draws(len(baseline), resamples)

    def scores(errors: Sequence[int]) -> NDArray[np.float64]:
        return psnr(drawn @ np.array(errors, dtype=float), len(errors) * intensities)

    plain, drawn_plain = float(psnr(sum(baseline), len(baseline) * intensities)), scores(baseline)
    results = []
    for errors in systems:
        score = float(psnr(sum(errors), len(errors) * intensities))
        if list(errors) == list(baseline):
            results.append(PairedTest(plain, score, 1.0))
            continue
        differences = np.abs(scores(errors) - drawn_plain)
        larger = int((differences - differences.mean() > abs(score - plain)).sum())
        results.append(PairedTest(plain, score, (larger + 1) / (resamples + 1)))
    return results


def psnr(errors: ArrayLike, intensities: int) -> NDArray[np.float64]:
    """Decibels, of sums of squared errors over so many intensities.

    The mean squared error is that of all images together. A sum of 0, which a draw of few images may give, is taken
    for the least that differs from it, 1, whose PSNR is finite.
    """
    return 10 * np.log10(PEAK * intensities / np.maximum(np.asarray(errors, dtype=float), 1.0))


def _draws(count: int, resamples: int) -> NDArray[np.int64]:
    """How often each row is drawn, [draws, rows]: it says all of a draw, and makes sums one matrix product."""
    return np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=resamples)


def bleu_of(signature: str) -> BLEU:
    """The metric that a signature describes.

    Raises:
        InputError: It is not that of a BLEU with one reference.
    """
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


@contextmanager
def _seed() -> Iterator[None]:
    """sacreBLEU takes its seed from the environment alone."""
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = str(SEED)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = before
