"""How far a measured number may be trusted: bootstraps over sentences."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from lightning_bpd.interfaces import InputError

SEED = 12345


class BleuTest(NamedTuple):
    """A system beside its baseline."""

    baseline: float
    """BLEU, 0-100, as sacreBLEU finds it now"""
    system: float
    p_value: float
    """of the difference, by paired bootstrap resampling"""


def block_size_interval(
    tokens: Sequence[Sequence[int]], iterations: Sequence[Sequence[int]], resamples: int = 1000
) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean accepted block size.

    Sentences are drawn again, and each draw's block size is the ratio of its sums. Of several models the same
    sentences are drawn, and the mean of their block sizes is taken: the interval is about sentences, not seeds.

    Args:
        tokens: Of each model the tokens of each sentence, [models, sentences].
        iterations: The same of iterations.
        resamples: How often the sentences are drawn.

    Returns:
        Its lower and upper end, the 2.5th and the 97.5th percentile.
    """
    accepted, spent = np.array(tokens, dtype=float), np.array(iterations, dtype=float)
    count = accepted.shape[1]
    # How often each sentence was drawn says all of a draw, and makes the sums one matrix product.
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=resamples)
    means = (drawn @ accepted.T / (drawn @ spent.T)).mean(axis=1)
    lower, upper = np.percentile(means, [2.5, 97.5])
    return float(lower), float(upper)


def compare_bleu(
    baseline: Sequence[str],
    systems: Sequence[Sequence[str]],
    references: Sequence[str],
    signature: str,
    resamples: int = 1000,
) -> list[BleuTest]:
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
    results = [BleuTest(score, score, 1.0) for _ in systems]
    if different:
        named: list[tuple[str, Sequence[str]]] = [
            ("baseline", list(baseline)),
            *((str(place), list(systems[place])) for place in different),
        ]
        with _seed():
            test = PairedTest(
                named, {"BLEU": metric}, [list(references)], test_type="bs", n_samples=resamples
            )
        _, scores = test()
        for place, result in zip(different, scores["BLEU"][1:], strict=True):
            results[place] = BleuTest(score, float(result.score), float(result.p_value))  # type: ignore[union-attr, arg-type]
    return results


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
