"""The cells of the paper's tables: the runs that belong to each, and their results together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

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
        kinds = ["exact", "adaptive", "top", "distance", "minimum"]
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
    regime, data = run.column

    def distance(other: Run) -> tuple[bool, bool, bool, bool]:
        is_base = other.column != run.column
        other_output = is_base and regime == "frozen" and other.record.greedy.rows != run.record.greedy.rows
        return is_base, other_output, other.column[1] != data, other.seed != run.seed

    suited = (
        each for each in runs if each.column[0] == "base" or (each.column, each.block_size) == (run.column, 1)
    )
    return min(suited, key=distance, default=None)


def gather(runs: Sequence[Run]) -> dict[Key, list[Sample]]:
    """The samples of each cell at k' = k. For frozen heads, k = 1 is the base itself."""
    cells: dict[Key, list[Sample]] = {}
    bases: list[tuple[tuple[str, str], Run]] = []
    for run in runs:
        baseline = baseline_of(run, runs)
        if run.block_size > 1:
            for rule in rules_of([run]):
                if (arm := run.record.arm(run.block_size, rule)) is not None:
                    key = Key(*run.column, rule, run.block_size)
                    cells.setdefault(key, []).append(Sample(run, arm, baseline))
        elif run.column[0] != "base":
            cells.setdefault(Key(*run.column, EXACT, 1), []).append(Sample(run, run.record.greedy, None))
        if run.column[0] == "frozen" and baseline is not None:
            bases.append((run.column, baseline))
    # A base is the k = 1 of the frozen heads on it; without such heads it has a column for its own data.
    used = {base.folder for _, base in bases}
    bases += [
        (("frozen", run.column[1]), run) for run in runs if run.column[0] == "base" and run.folder not in used
    ]
    for column, base in bases:
        samples = cells.setdefault(Key(*column, EXACT, 1), [])
        if all(sample.run is not base for sample in samples):
            samples.append(Sample(base, base.record.greedy, None))
    return cells


def measure(cells: dict[Key, list[Sample]], resamples: int) -> dict[Key, Result]:
    """The result of each cell, with intervals and tests."""
    # All systems with one baseline are tested in one call.
    groups: dict[str, list[tuple[Key, Sample]]] = {}
    for key, samples in cells.items():
        for sample in samples:
            baseline = sample.baseline
            # Qualities of other references or settings cannot be subtracted.
            if baseline is not None and _scored(sample.run) == _scored(baseline):
                groups.setdefault(baseline.folder, []).append((key, sample))
    tests: dict[tuple[str, Key], PairedTest] = {}
    for group in groups.values():
        base = group[0][1].baseline
        assert base is not None
        record, systems = base.record, [sample.arm.rows for _, sample in group]
        if record.references is not None:
            found = compare_bleu(record.greedy.rows, systems, record.references, record.signature, resamples)
        else:
            found = compare_psnr(record.greedy.rows, systems, record.intensities or 1, resamples)
        tests |= {(sample.run.folder, key): test for (key, sample), test in zip(group, found, strict=True)}
    return {key: _result(key, samples, tests, resamples) for key, samples in cells.items()}


def _scored(run: Run) -> tuple[Any, ...]:
    return run.references, run.record.signature


def quality_of(arm: Arm, name: str) -> float:
    """A quality that a record is known to have."""
    value = arm.quality[name]
    return float("inf") if value is None else value


def _result(
    key: Key, samples: list[Sample], tests: dict[tuple[str, Key], PairedTest], resamples: int
) -> Result:
    arms = [sample.arm for sample in samples]
    principal, *others = samples[0].run.record.words.qualities
    known = [name for name in others if all(name in arm.quality for arm in arms)]
    qualities = [quality_of(arm, principal) for arm in arms]
    block_sizes = [arm.mean_accepted_block_size for arm in arms]
    speed_ups = [arm.speed_up for arm in arms if arm.speed_up is not None]
    differences, p_values = [], []
    for sample, quality in zip(samples, qualities, strict=True):
        if sample.baseline is not None and (test := tests.get((sample.run.folder, key))):
            differences.append(quality - quality_of(sample.baseline.record.greedy, principal))
            p_values.append(test.p_value)
    interval = None
    if key.block_size > 1 and len({sample.run.references for sample in samples}) == 1:
        tokens, iterations = [arm.tokens for arm in arms], [arm.iterations for arm in arms]
        interval = block_size_interval(tokens, iterations, resamples)
    return Result(
        runs=[sample.run.name for sample in samples],
        seeds=[sample.run.seed for sample in samples],
        quality=fmean(qualities),
        qualities=qualities,
        others={name: [quality_of(arm, name) for arm in arms] for name in known},
        block_size=fmean(block_sizes),
        block_sizes=block_sizes,
        interval=interval,
        greedy_agreement=fmean(arm.greedy_agreement for arm in arms),
        speed_up=fmean(speed_ups) if len(speed_ups) == len(arms) else None,
        speed_ups=speed_ups,
        baselines=[sample.baseline.name for sample in samples if sample.baseline is not None],
        quality_difference=fmean(differences) if differences and len(differences) == len(samples) else None,
        quality_differences=differences,
        p_values=p_values,
    )
