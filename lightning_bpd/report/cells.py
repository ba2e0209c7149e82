"""The cells of the paper's tables: which runs belong to one, and what they come to together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from lightning_bpd.report.data import DATA, Arm, Run
from lightning_bpd.report.statistics import (
    PairedTest,
    block_size_interval,
    compare_bleu,
    compare_psnr,
)

EXACT = "exact"


class Place(NamedTuple):
    """Where a cell stands."""

    regime: str
    data: str
    rule: str
    block_size: int
    """k as trained, and k' as decoded"""


class Sample(NamedTuple):
    """What one run puts into a cell."""

    run: Run
    arm: Arm
    baseline: Run | None
    """whose greedy decoding its quality is compared with; None where there is none or it is the baseline itself"""


@dataclass(frozen=True)
class Result:
    """What the samples of a cell come to, each list in the order of ``runs``."""

    runs: list[str]
    seeds: list[int | None]
    quality: float
    """the principal one; of several runs the mean of theirs"""
    qualities: list[float]
    others: dict[str, list[float]]
    """further measures of quality, by name"""
    block_size: float
    """mean accepted block size; of several runs the mean of theirs"""
    block_sizes: list[float]
    interval: tuple[float, float] | None
    """95 % bootstrap interval of the block size over rows; None for greedy decoding"""
    greedy_agreement: float
    speed_up: float | None
    """None unless all were timed"""
    speed_ups: list[float]
    baselines: list[str]
    quality_difference: float | None
    """to the baselines; None unless all samples have one"""
    quality_differences: list[float]
    p_values: list[float]


def columns_of(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Regime and data of each column that has a run of its own."""
    return [
        (regime, data)
        for regime in ("frozen", "joint")
        for data in DATA
        if any((run.regime, run.data) == (regime, data) for run in runs)
    ]


def paper_columns(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The paper's columns, which are shown even where nothing was measured, and what else there is."""
    return sorted(
        {*runs[0].words.columns, *columns_of(runs)}, key=lambda column: (column[0], DATA.index(column[1]))
    )


def rules_of(runs: Sequence[Run]) -> list[str]:
    """Acceptance rules, the exact one first, then by kind and number."""

    def key(rule: str) -> tuple[int, str, int, str]:
        kind, _, tail = rule.partition("-")
        number = re.match(r"\d+", tail)
        order = ["exact", "top", "distance", "minimum"]
        return order.index(kind) if kind in order else len(order), kind, int(number[0]) if number else 0, rule

    return sorted({arm.acceptance for run in runs for arm in run.arms} | {EXACT}, key=key)


def timed_rules(runs: Sequence[Run]) -> list[str]:
    """The rules whose wall clock the paper has: the exact one, and of images distances."""
    return [rule for rule in rules_of(runs) if rule == EXACT or rule.startswith("distance-")]


def baseline_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """The k = 1 that a run is compared with: of its regime and data, or the base where there is none.

    Of several the one with the run's seed, or the first; a frozen run's base is known by giving the same greedy output.
    """
    if run.block_size == 1:
        return None
    own = [each for each in runs if (each.regime, each.data, each.block_size) == (run.regime, run.data, 1)]
    if own:
        return min(own, key=lambda each: each.seed != run.seed)
    bases = [each for each in runs if each.regime == "base"]
    if not bases:
        return None
    return min(
        bases,
        key=lambda each: (
            run.regime == "frozen" and each.greedy.rows != run.greedy.rows,
            each.data != run.data,
            each.seed != run.seed,
        ),
    )


def gather(runs: Sequence[Run]) -> dict[Place, list[Sample]]:
    """The samples of each cell at k' = k. A frozen base's k = 1 is the base itself."""
    cells: dict[Place, list[Sample]] = {}
    for run in runs:
        if run.regime == "base":
            continue
        baseline = baseline_of(run, runs)
        if run.block_size == 1:
            cells.setdefault(Place(run.regime, run.data, EXACT, 1), []).append(Sample(run, run.greedy, None))
            continue
        for rule in rules_of([run]):
            arm = run.arm(run.block_size, rule)
            if arm is not None:
                place = Place(run.regime, run.data, rule, run.block_size)
                cells.setdefault(place, []).append(Sample(run, arm, baseline))
    for regime, data in paper_columns(runs):
        place = Place(regime, data, EXACT, 1)
        if regime == "frozen" and place not in cells:
            of_heads = [run for run in runs if (run.regime, run.data) == (regime, data)]
            bases = {base.name: base for run in of_heads if (base := baseline_of(run, runs)) is not None}
            if not of_heads:
                bases = {run.name: run for run in runs if (run.regime, run.data) == ("base", data)}
            if bases:
                cells[place] = [Sample(base, base.greedy, None) for base in bases.values()]
    return cells


def measure(cells: dict[Place, list[Sample]], resamples: int) -> dict[Place, Result]:
    """What each cell comes to, with intervals and tests."""
    tests = _tests(cells, resamples)
    return {place: _result(place, samples, tests, resamples) for place, samples in cells.items()}


def _tests(cells: dict[Place, list[Sample]], resamples: int) -> dict[tuple[str, Place], tuple[float, float]]:
    """Of each run in each cell: quality difference to its baseline, and p. One call a baseline."""
    groups: dict[str, list[tuple[Place, Sample]]] = {}
    for place, samples in cells.items():
        for sample in samples:
            base = sample.baseline
            if base is not None and comparable(sample.run, base):
                groups.setdefault(base.folder, []).append((place, sample))
    tests = {}
    for group in groups.values():
        base = group[0][1].baseline
        assert base is not None
        name = base.words.qualities[0]
        results = _paired(base, [sample.arm for _, sample in group], resamples)
        for (place, sample), result in zip(group, results, strict=True):
            difference = sample.arm.quality[name] - base.greedy.quality[name]
            tests[sample.run.folder, place] = (difference, result.p_value)
    return tests


def _paired(base: Run, arms: Sequence[Arm], resamples: int) -> list[PairedTest]:
    """Each arm beside greedy decoding of the base."""
    if base.kind == "text":
        outputs = [arm.rows["outputs"] for arm in arms]
        return compare_bleu(base.greedy.rows["outputs"], outputs, base.references, base.signature, resamples)
    errors = [arm.rows["squared_errors"] for arm in arms]
    return compare_psnr(base.greedy.rows["squared_errors"], errors, base.intensities, resamples)


def comparable(run: Run, other: Run) -> bool:
    """Whether quality of the two may be subtracted: the same references, scored alike."""
    return _references(run) == _references(other) and run.signature == other.signature


def _references(run: Run) -> tuple[str, ...]:
    return run.references if run.kind == "text" else (run.corpus["hash"],)


def _result(
    place: Place,
    samples: list[Sample],
    tests: dict[tuple[str, Place], tuple[float, float]],
    resamples: int,
) -> Result:
    arms = [sample.arm for sample in samples]
    tested = [tests[sample.run.folder, place] for sample in samples if (sample.run.folder, place) in tests]
    speed_ups = [arm.speed_up for arm in arms if arm.speed_up is not None]
    interval = None
    if place.block_size > 1 and len({_references(sample.run) for sample in samples}) == 1:
        interval = block_size_interval(
            [arm.tokens for arm in arms], [arm.iterations for arm in arms], resamples
        )
    principal, *others = samples[0].run.words.qualities
    complete = bool(tested) and len(tested) == len(samples)
    return Result(
        runs=[sample.run.name for sample in samples],
        seeds=[sample.run.seed for sample in samples],
        quality=fmean(arm.quality[principal] for arm in arms),
        qualities=[arm.quality[principal] for arm in arms],
        others={
            name: [arm.quality[name] for arm in arms]
            for name in others
            if all(name in arm.quality for arm in arms)
        },
        block_size=fmean(arm.mean_accepted_block_size for arm in arms),
        block_sizes=[arm.mean_accepted_block_size for arm in arms],
        interval=interval,
        greedy_agreement=fmean(arm.greedy_agreement for arm in arms),
        speed_up=fmean(speed_ups) if len(speed_ups) == len(arms) else None,
        speed_ups=speed_ups,
        baselines=[sample.baseline.name for sample in samples if sample.baseline is not None],
        quality_difference=fmean(difference for difference, _ in tested) if complete else None,
        quality_differences=[difference for difference, _ in tested],
        p_values=[p_value for _, p_value in tested],
    )
