"""The cells of the paper's tables: the runs that belong to each, and their results together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from lightning_bpd.measuring.record import DATA, REGIMES, Arm
from lightning_bpd.report.runs import Run
from lightning_bpd.report.statistics import PairedTest, block_size_interval, compare_bleu, compare_psnr

EXACT = "exact"


class Key(NamedTuple):
    """The table, column and row of a cell."""

    regime: str
    data: str
    rule: str
    block_size: int
    """k as trained, and k' as decoded"""

    @property
    def column(self) -> tuple[str, str]:
        """Regime and data."""
        return self.regime, self.data


class Sample(NamedTuple):
    """One run's share of a cell."""

    run: Run
    arm: Arm
    baseline: Run | None
    """its greedy output is the baseline for quality; None if there is none, or if this run is the baseline"""


@dataclass(frozen=True)
class Result:
    """The samples of a cell together; each list is in the order of ``runs``."""

    runs: list[str]
    seeds: list[int | None]
    quality: float
    """the principal one; the mean over the runs"""
    qualities: list[float]
    others: dict[str, list[float]]
    """further measures of quality, by name"""
    block_size: float
    """mean accepted block size; the mean over the runs"""
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
    found = {run.column for run in runs if run.column[0] != "base"}
    return sorted(found, key=lambda column: (REGIMES.index(column[0]), DATA.index(column[1])))


def rules_of(runs: Sequence[Run]) -> list[str]:
    """Acceptance rules: the exact one first, then by kind and number."""

    def order(rule: str) -> tuple[int, str, int, str]:
        kind, _, tail = rule.partition("-")
        number = re.match(r"\d+", tail)
        kinds = ["exact", "top", "distance", "minimum"]
        return kinds.index(kind) if kind in kinds else len(kinds), kind, int(number[0]) if number else 0, rule

    return sorted({arm.acceptance for run in runs for arm in run.record.arms} | {EXACT}, key=order)


def timed_rules(runs: Sequence[Run]) -> list[str]:
    """The rules for which the paper reports wall clock: the exact one, and distances for images."""
    return [rule for rule in rules_of(runs) if rule == EXACT or rule.startswith("distance-")]


def baseline_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """The k = 1 that a run is compared with: of its own regime and data, otherwise the base.

    If there are several, the one with the run's seed, or the first. A frozen run's base has the same greedy output.
    """
    if run.block_size == 1:
        return None
    own = [each for each in runs if (each.column, each.block_size) == (run.column, 1)]
    if own:
        return min(own, key=lambda each: each.seed != run.seed)
    regime, data = run.column

    def distance(base: Run) -> tuple[bool, bool, bool]:
        other_output = regime == "frozen" and base.record.greedy.rows != run.record.greedy.rows
        return other_output, base.column[1] != data, base.seed != run.seed

    return min((each for each in runs if each.column[0] == "base"), key=distance, default=None)


def gather(runs: Sequence[Run]) -> dict[Key, list[Sample]]:
    """The samples of each cell at k' = k. For frozen heads, k = 1 is the base itself."""
    cells: dict[Key, list[Sample]] = {}
    for run in runs:
        regime, data = run.column
        if run.block_size > 1:
            baseline = baseline_of(run, runs)
            for rule in rules_of([run]):
                if (arm := run.record.arm(run.block_size, rule)) is not None:
                    key = Key(regime, data, rule, run.block_size)
                    cells.setdefault(key, []).append(Sample(run, arm, baseline))
        elif regime != "base":
            cells.setdefault(Key(regime, data, EXACT, 1), []).append(Sample(run, run.record.greedy, None))
    # A base is the k = 1 of the frozen heads on it; without such heads it has a column for its own data.
    frozen = [
        (run.column, base) for run in runs if run.column[0] == "frozen" and (base := baseline_of(run, runs))
    ]
    known = {base.folder for _, base in frozen}
    alone = [
        (("frozen", run.column[1]), run)
        for run in runs
        if run.column[0] == "base" and run.folder not in known
    ]
    for column, base in [*frozen, *alone]:
        samples = cells.setdefault(Key(*column, EXACT, 1), [])
        if base not in [sample.run for sample in samples]:
            samples.append(Sample(base, base.record.greedy, None))
    return cells


def measure(cells: dict[Key, list[Sample]], resamples: int) -> dict[Key, Result]:
    """The result of each cell, with intervals and tests."""
    # All systems with one baseline are tested in one call.
    groups: dict[str, list[tuple[Key, Sample, Run]]] = {}
    for key, samples in cells.items():
        for sample in samples:
            base = sample.baseline
            if base is not None and comparable(sample.run, base):
                groups.setdefault(base.folder, []).append((key, sample, base))
    tests: dict[tuple[str, Key], PairedTest] = {}
    for group in groups.values():
        results = _paired(group[0][2], [sample.arm for _, sample, _ in group], resamples)
        for (key, sample, _), result in zip(group, results, strict=True):
            tests[sample.run.folder, key] = result
    return {key: _result(key, samples, tests, resamples) for key, samples in cells.items()}


def _paired(base: Run, arms: Sequence[Arm], resamples: int) -> list[PairedTest]:
    """Test each arm against greedy decoding of the base."""
    record = base.record
    systems = [list(arm.rows) for arm in arms]
    if record.references is not None:
        return compare_bleu(record.greedy.rows, systems, record.references, record.signature, resamples)
    return compare_psnr(record.greedy.rows, systems, record.intensities or 1, resamples)


def comparable(run: Run, other: Run) -> bool:
    """Whether the qualities of both may be subtracted: same references, same signature."""
    return run.references == other.references and run.record.signature == other.record.signature


def quality_of(arm: Arm, name: str) -> float:
    """A quality that a record is known to have."""
    value = arm.quality[name]
    return float("inf") if value is None else value


def _result(
    key: Key, samples: list[Sample], tests: dict[tuple[str, Key], PairedTest], resamples: int
) -> Result:
    arms = [sample.arm for sample in samples]
    principal, *others = samples[0].run.record.words.qualities
    tested = [(sample, test) for sample in samples if (test := tests.get((sample.run.folder, key)))]
    differences = [
        quality_of(sample.arm, principal) - quality_of(sample.baseline.record.greedy, principal)
        for sample, _ in tested
        if sample.baseline is not None
    ]
    speed_ups = [arm.speed_up for arm in arms if arm.speed_up is not None]
    interval = None
    if key.block_size > 1 and len({sample.run.references for sample in samples}) == 1:
        interval = block_size_interval(
            [arm.tokens for arm in arms], [arm.iterations for arm in arms], resamples
        )
    qualities = [quality_of(arm, principal) for arm in arms]
    block_sizes = [arm.mean_accepted_block_size for arm in arms]
    return Result(
        runs=[sample.run.name for sample in samples],
        seeds=[sample.run.seed for sample in samples],
        quality=fmean(qualities),
        qualities=qualities,
        others={
            name: [quality_of(arm, name) for arm in arms]
            for name in others
            if all(name in arm.quality for arm in arms)
        },
        block_size=fmean(block_sizes),
        block_sizes=block_sizes,
        interval=interval,
        greedy_agreement=fmean(arm.greedy_agreement for arm in arms),
        speed_up=fmean(speed_ups) if len(speed_ups) == len(arms) else None,
        speed_ups=speed_ups,
        baselines=[sample.baseline.name for sample in samples if sample.baseline is not None],
        quality_difference=fmean(differences) if differences and len(tested) == len(samples) else None,
        quality_differences=differences,
        p_values=[test.p_value for _, test in tested],
    )
