"""The figures of a report, as data: what is drawn, not how."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from lightning_bpd.report.cells import EXACT, Place, Result, columns_of, rules_of, timed_rules
from lightning_bpd.report.data import Run
from lightning_bpd.report.document import Figure, Panel, Point, Series

Results = dict[Place, Result]


def trade_figure(results: Results, runs: Sequence[Run]) -> Figure:
    """Quality against mean accepted block size: a panel a model, a series a rule, a point a k."""
    panels = []
    for column in columns_of(runs):
        series = []
        for colour, rule in enumerate(rules_of(runs)):
            points = [
                Point(result.block_size, result.quality, str(place.block_size))
                for place, result in sorted(results.items(), key=lambda item: item[0].block_size)
                if place[:3] == (*column, rule)
            ]
            if points:
                series.append(Series(rule, tuple(points), colour))
        if series:
            panels.append(Panel(", ".join(column), tuple(series)))
    return Figure(
        "trade",
        "Quality against block size",
        "Each point is a model, labelled with its k; k = 1 is greedy decoding. Up and to the right is better.",
        "mean accepted block size",
        runs[0].words.quality.title,
        tuple(panels),
    )


def wall_clock_figure(results: Results, runs: Sequence[Run]) -> Figure:
    """Wall-clock speed-up against k', and the mean accepted block size it is made of as a dashed line."""
    panels = []
    for column in columns_of(runs):
        series: tuple[Series, ...] = ()
        for rule in timed_rules(runs):
            cells = sorted(
                (place.block_size, result)
                for place, result in results.items()
                if place[:3] == (*column, rule) and result.speed_up is not None
            )
            own = [(size, result.speed_up or 0.0, result.block_size) for size, result in cells]
            if len(own) > 1:
                label = "k' = k" if rule == EXACT else f"k' = k, {rule}"
                series += _pair(label, own, len(series) // 2)
        largest = max((run.block_size for run in runs if (run.regime, run.data) == column), default=1)
        inside = _sweep([run for run in runs if (run.regime, run.data, run.block_size) == (*column, largest)])
        # Greedy decoding and k' = k alone are in the other line already.
        if len(inside) > 2 or (len(inside) > 1 and not series):
            series += _pair(f"k = {largest}", inside, max(len(series) // 2, 1))
        if series:
            panels.append(Panel(", ".join(column), series))
    return Figure(
        "wall-clock",
        "Wall clock against block size",
        "Solid: wall-clock speed-up over greedy decoding of the same weights. Dashed: mean accepted block size, "
        "which it would be if a call over k' tokens and its proposals cost no more than one over a single token. "
        "k' = k: each model decodes with the block size that it was trained for. k = a number: that model with "
        "smaller blocks.",
        "block size k'",
        "times",
        tuple(panels),
        whole_x=True,
        line_at=1.0,
    )


def _pair(label: str, rows: list[tuple[int, float, float]], colour: int) -> tuple[Series, ...]:
    return (
        Series(f"{label}: speed-up", tuple(Point(size, speed_up) for size, speed_up, _ in rows), colour),
        Series(
            f"{label}: block size", tuple(Point(size, block) for size, _, block in rows), colour, dashed=True
        ),
    )


def _sweep(runs: Sequence[Run]) -> list[tuple[int, float, float]]:
    """k', speed-up and block size, each the mean of the runs, where all of them were timed."""
    rows = []
    for size in sorted({arm.block_size for run in runs for arm in run.arms}):
        arms = [run.greedy if size == 1 else run.arm(size, EXACT) for run in runs]
        timed = [
            (arm.speed_up, arm.mean_accepted_block_size) for arm in arms if arm and arm.speed_up is not None
        ]
        if len(timed) == len(runs):
            rows.append((size, fmean(each[0] for each in timed), fmean(each[1] for each in timed)))
    return rows


def acceptance_figure(runs: Sequence[Run]) -> Figure:
    """Share of iterations that accept at least so many tokens: a panel a model, a series a k."""
    panels = []
    sizes = sorted({run.block_size for run in runs if run.acceptance_by_position and run.block_size > 1})
    for column in columns_of(runs):
        series = []
        for colour, size in enumerate(sizes):
            curves = [
                run.acceptance_by_position
                for run in runs
                if (run.regime, run.data, run.block_size) == (*column, size) and run.acceptance_by_position
            ]
            if curves:
                means = [fmean(shares) for shares in zip(*curves, strict=True)]
                points = tuple(Point(place, share) for place, share in enumerate(means, start=1))
                series.append(Series(f"k = {size}", points, colour))
        if series:
            panels.append(Panel(", ".join(column), tuple(series)))
    return Figure(
        "acceptance",
        "Acceptance by position",
        "Share of iterations that accept at least so many tokens, by the exact rule at k' = k. The first token is p₁'s "
        "own and always accepted.",
        "tokens",
        "share of iterations",
        tuple(panels),
        whole_x=True,
    )
