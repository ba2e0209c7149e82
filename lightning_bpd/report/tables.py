"""The tables of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from lightning_bpd.measuring.words import QUALITIES, Quality
from lightning_bpd.report.cells import EXACT, Key, Result, quality_of
from lightning_bpd.report.document import (
    MISSING,
    Cell,
    Table,
    count,
    make_table,
    number,
    percent,
    signed,
    span,
)
from lightning_bpd.report.prediction import best_measured, best_predicted, predict
from lightning_bpd.report.runs import Run

Results = dict[Key, Result]


def _grid(
    results: Results, rule: str, least: int = 1
) -> tuple[list[tuple[str, str]], list[list[Result | None]], list[int]]:
    """Columns (regime and data), rows of results and their block sizes, for one rule."""
    keys = [key for key in results if key.rule == rule and key.block_size >= least]
    columns = sorted({key.column for key in results}, key=[key.column for key in results].index)
    columns.sort(key=lambda column: column[0])
    sizes = sorted({key.block_size for key in keys})
    return columns, [[results.get(Key(*each, rule, size)) for each in columns] for size in sizes], sizes


def quality_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """The paper's Table 1, or 2, for one rule: quality / mean accepted block size at k' = k."""
    words = runs[0].record.words
    title = f"{words.table}, exact rule" if rule == EXACT else f"The same by {rule}"
    columns, grid, sizes = _grid(results, rule)
    return make_table(
        f"quality-{rule}",
        f"{title}: {words.quality.title} / mean accepted block size",
        ("k", *map(", ".join, columns)),
        [
            (count(size), *(_quality(each, words.quality) for each in row))
            for size, row in zip(sizes, grid, strict=True)
        ],
    )


def _quality(result: Result | None, quality: Quality) -> Cell:
    if result is None:
        return Cell(MISSING)
    small = []
    if len(result.runs) > 1:
        spans = f"{span(result.qualities, quality.digits)} / {span(result.block_sizes)}"
        small.append(f"n = {len(result.runs)}: {spans}")
    for name, values in result.others.items():
        small.append(f"{QUALITIES[name].label} {fmean(values):.{QUALITIES[name].digits}f}")
    text = f"{result.quality:.{quality.digits}f} / {result.block_size:.2f}"
    return Cell(text, "; ".join(small), asdict(result))


def certainty_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """How certain the cells of the quality table are: interval of the block size, quality difference and its p."""
    quality = runs[0].record.words.quality
    columns, grid, sizes = _grid(results, rule, least=2)
    return make_table(
        f"certainty-{rule}",
        f"How certain that is, {rule}: 95 % interval of the block size; {quality.label} difference to k = 1",
        ("k", *map(", ".join, columns)),
        [
            (count(size), *(_certainty(each, quality) for each in row))
            for size, row in zip(sizes, grid, strict=True)
        ],
    )


def _certainty(result: Result | None, quality: Quality) -> Cell:
    if result is None:
        return Cell(MISSING)
    interval = MISSING if result.interval is None else span(result.interval)
    if result.quality_difference is None:
        return Cell(interval, "no k = 1 to compare with", asdict(result))
    p_values = ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in result.p_values]
    # One p for each seed, or a single one if all are equal.
    shown = ", ".join(p_values if len(set(p_values)) > 1 else p_values[:1])
    difference = signed(result.quality_difference, quality.digits)
    return Cell(interval, f"{difference} {quality.unit or quality.label}, p: {shown}", asdict(result))


def speed_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """The paper's Table 4 for each regime and data: quality, block size and wall clock by one rule."""
    qualities = qualities_of(runs)
    columns, grid, sizes = _grid(results, rule)
    rows = []
    for position, column in enumerate(columns):
        for size, results_of_size in zip(sizes, grid, strict=True):
            result = results_of_size[position]
            if result is None:
                continue
            values = {qualities[0]: result.qualities, **result.others}
            efficiency = None if result.speed_up is None else result.speed_up / result.block_size
            rows.append(
                (
                    Cell(", ".join(column)),
                    count(size),
                    *(_mean(values[name], QUALITIES[name].digits) for name in qualities),
                    _mean(result.block_sizes),
                    _mean(result.speed_ups if result.speed_up is not None else []),
                    number(efficiency),
                    percent(result.greedy_agreement),
                    count(len(result.runs)),
                )
            )
    titles = (
        "model",
        "k",
        *(QUALITIES[name].title for name in qualities),
        "mean accepted block size",
        "wall-clock speed-up",
        "efficiency",
        "same as greedy",
        "seeds",
    )
    if rule != EXACT:
        return make_table(f"speed-{rule}", f"The same by {rule}", titles, rows)
    # The paper has no such table for images.
    title = "Table 4, exact rule" if runs[0].record.kind == "text" else "Exact rule"
    return make_table("speed", f"{title}: quality and wall clock", titles, rows)


def _mean(values: Sequence[float], digits: int = 2) -> Cell:
    """The mean, and below it the least and the greatest if they look different."""
    if not values:
        return Cell(MISSING)
    spread = span(values, digits)
    return Cell(
        f"{fmean(values):.{digits}f}",
        spread if "–" in spread else "",
        {"mean": fmean(values), "values": values},
    )


def qualities_of(runs: Sequence[Run]) -> list[str]:
    """The measures of quality that all runs have, the principal one first."""
    names = runs[0].record.words.qualities
    return [name for name in names if all(name in run.record.greedy.quality for run in runs)]


def best_table(runs: Sequence[Run]) -> Table:
    """Predicted and measured best k' of each model with heads."""
    rows = []
    for run in runs:
        if choices := predict(run):
            predicted, measured = best_predicted(choices), best_measured(choices)
            timed = [choice.block_size for choice in choices if choice.measured is not None]
            rows.append(
                (
                    Cell(run.name),
                    count(run.block_size),
                    count(predicted.block_size),
                    number(predicted.predicted),
                    count(None if measured is None else measured.block_size),
                    number(None if measured is None else measured.measured),
                    Cell(", ".join(map(str, timed)) or MISSING, "", {"timed": timed}),
                )
            )
    columns = (
        "model",
        "k",
        "best k' predicted",
        "speed-up predicted",
        "best k' measured",
        "speed-up measured",
    )
    title = "Best block size on this machine, exact rule"
    return make_table("best", title, (*columns, "timed at k'"), rows)


def prediction_table(runs: Sequence[Run]) -> Table:
    """The predictions that the best block sizes were chosen from."""
    rows = []
    for run in runs:
        for choice in predict(run):
            assert run.record.replay is not None
            replay = run.record.replay
            rows.append(
                (
                    Cell(run.name),
                    count(choice.block_size),
                    number(replay.tokens / replay.iterations[choice.block_size - 1]),
                    number(choice.seconds * 1000),
                    number(choice.predicted),
                    number(choice.measured),
                )
            )
    a_row = runs[0].record.words.a_row
    columns = (
        "model",
        "k'",
        "mean accepted block size (replay)",
        f"ms {a_row}, predicted",
        "speed-up predicted",
    )
    title = "Predicted and measured for every k'"
    return make_table("prediction", title, (*columns, "speed-up measured"), rows, folded=True)


def runs_table(runs: Sequence[Run]) -> Table:
    """The settings of every run."""
    settings = {
        "batch_size": "batch",
        "precision": "precision",
        "device": "device",
        "threads": "threads",
        "timed_rows": f"{runs[0].record.words.rows} timed",
        "timed_batch_size": "timed batch",
    }
    rows = [
        (
            Cell(run.folder),
            *map(Cell, run.column),
            count(run.block_size),
            count(run.seed),
            *(Cell(run.setting(key)) for key in settings),
            Cell(run.revision),
            Cell(run.record.signature),
        )
        for run in runs
    ]
    columns = (
        "folder",
        "regime",
        "data",
        "k",
        "seed",
        *settings.values(),
        "revision",
        "signature of quality",
    )
    return make_table("runs", "Runs", columns, rows, words=3)


def arms_table(runs: Sequence[Run]) -> Table:
    """Every way of decoding that was measured."""
    qualities, a_row = qualities_of(runs), runs[0].record.words.a_row
    near = [name for name in qualities if all(arm.to_greedy for run in runs for arm in run.record.arms)]
    columns = (
        "model",
        "decoder",
        "k'",
        *(QUALITIES[name].title for name in qualities),
        *(f"{QUALITIES[name].title} to greedy" for name in near),
        "mean accepted block size",
        "draft acceptance rate",
        f"calls {a_row}",
        "same as greedy",
        f"ms {a_row}",
        "speed-up",
    )
    rows = [
        (
            Cell(run.name),
            Cell("greedy" if arm.decoder == "greedy" else arm.acceptance),
            count(arm.block_size),
            *(number(quality_of(arm, name), QUALITIES[name].digits) for name in qualities),
            *(_nearness(arm.to_greedy or {}, name) for name in near),
            number(arm.mean_accepted_block_size),
            percent(arm.draft_acceptance_rate),
            number(arm.calls),
            percent(arm.greedy_agreement),
            number(None if arm.seconds is None else arm.seconds * 1000),
            number(arm.speed_up),
        )
        for run in runs
        for arm in run.record.arms
    ]
    return make_table("arms", "All decoders", columns, rows, words=2, folded=True)


def _nearness(to_greedy: dict[str, float | None], name: str) -> Cell:
    value = to_greedy.get(name)
    return Cell("equal" if value is None else f"{value:.{QUALITIES[name].digits}f}", "", {"value": value})
