"""The tables of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from statistics import fmean

from lightning_bpd.measuring.record import Arm
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
from lightning_bpd.report.prediction import Choice, best_measured, best_predicted, predict
from lightning_bpd.report.runs import Run

Results = dict[Key, Result]


def _columns(results: Results) -> list[tuple[str, str]]:
    """Regime and data of all cells, frozen heads first."""
    return sorted(dict.fromkeys(key.column for key in results), key=lambda column: column[0])


def _paper_table(
    results: Results, name: str, title: str, rule: str, make: Callable[[Result], Cell], least: int = 1
) -> Table:
    """A row for each block size of at least ``least``, a column for each regime and data."""
    columns = _columns(results)
    sizes = sorted({key.block_size for key in results if key.rule == rule and key.block_size >= least})

    def cell(column: tuple[str, str], size: int) -> Cell:
        result = results.get(Key(*column, rule, size))
        return Cell(MISSING) if result is None else make(result)

    return make_table(
        name, title, sizes, {"k": count, **{", ".join(each): partial(cell, each) for each in columns}}
    )


def quality_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """The paper's Table 1, or 2, for one rule: quality / mean accepted block size at k' = k."""
    words = runs[0].record.words
    title = f"{words.table}, exact rule" if rule == EXACT else f"The same by {rule}"
    title = f"{title}: {words.quality.title} / mean accepted block size"
    return _paper_table(results, f"quality-{rule}", title, rule, partial(_quality, words.quality))


def _quality(quality: Quality, result: Result) -> Cell:
    small = []
    if len(result.runs) > 1:
        spans = f"{span(result.qualities, quality.digits)} / {span(result.block_sizes)}"
        small.append(f"n = {len(result.runs)}: {spans}")
    for name, values in result.others.items():
        small.append(f"{QUALITIES[name].label} {fmean(values):.{QUALITIES[name].digits}f}")
    text = f"{result.quality:.{quality.digits}f} / {result.block_size:.2f}"
    return Cell(text, "; ".join(small), asdict(result))


def certainty_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """The uncertainty of the quality table: interval of the block size, quality difference and its p."""
    quality = runs[0].record.words.quality
    title = (
        f"How certain that is, {rule}: 95 % interval of the block size; {quality.label} difference to k = 1"
    )
    return _paper_table(results, f"certainty-{rule}", title, rule, partial(_certainty, quality), least=2)


def _certainty(quality: Quality, result: Result) -> Cell:
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
    qualities, order = qualities_of(runs), _columns(results)
    items = [(key, result) for key, result in results.items() if key.rule == rule]
    # The paper has no such table for images.
    title = "Table 4, exact rule" if runs[0].record.kind == "text" else "Exact rule"

    def quality(name: str, item: tuple[Key, Result]) -> Cell:
        values = item[1].qualities if name == qualities[0] else item[1].others[name]
        return _mean(values, QUALITIES[name].digits)

    def efficiency(item: tuple[Key, Result]) -> Cell:
        speed = item[1].speed_up
        return number(None if speed is None else speed / item[1].block_size)

    return make_table(
        "speed" if rule == EXACT else f"speed-{rule}",
        f"{title}: quality and wall clock" if rule == EXACT else f"The same by {rule}",
        sorted(items, key=lambda item: (order.index(item[0].column), item[0].block_size)),
        {
            "model": lambda item: ", ".join(item[0].column),
            "k": lambda item: count(item[0].block_size),
            **{QUALITIES[name].title: partial(quality, name) for name in qualities},
            "mean accepted block size": lambda item: _mean(item[1].block_sizes),
            "wall-clock speed-up": lambda item: _mean(
                item[1].speed_ups if item[1].speed_up is not None else []
            ),
            "efficiency": efficiency,
            "same as greedy": lambda item: percent(item[1].greedy_agreement),
            "seeds": lambda item: count(len(item[1].runs)),
        },
    )


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
    items = [
        (run, choices, best_predicted(choices), best_measured(choices))
        for run in runs
        if (choices := predict(run))
    ]

    def timed(item: tuple[Run, list[Choice], Choice, Choice | None]) -> str:
        return ", ".join(str(each.block_size) for each in item[1] if each.measured is not None) or MISSING

    return make_table(
        "best",
        "Best block size on this machine, exact rule",
        items,
        {
            "model": lambda item: item[0].name,
            "k": lambda item: count(item[0].block_size),
            "best k' predicted": lambda item: count(item[2].block_size),
            "speed-up predicted": lambda item: number(item[2].predicted),
            "best k' measured": lambda item: count(item[3] and item[3].block_size),
            "speed-up measured": lambda item: number(item[3] and item[3].measured),
            "timed at k'": timed,
        },
    )


def prediction_table(runs: Sequence[Run]) -> Table:
    """The predictions that the best block sizes were chosen from."""

    def block_size(item: tuple[Run, Choice]) -> Cell:
        replay = item[0].record.replay
        return number(replay.tokens / replay.iterations[item[1].block_size - 1] if replay else None)

    return make_table(
        "prediction",
        "Predicted and measured for every k'",
        [(run, choice) for run in runs for choice in predict(run)],
        {
            "model": lambda item: item[0].name,
            "k'": lambda item: count(item[1].block_size),
            "mean accepted block size (replay)": block_size,
            f"ms {runs[0].record.words.a_row}, predicted": lambda item: number(item[1].seconds * 1000),
            "speed-up predicted": lambda item: number(item[1].predicted),
            "speed-up measured": lambda item: number(item[1].measured),
        },
        folded=True,
    )


def runs_table(runs: Sequence[Run]) -> Table:
    """The settings of every run."""
    settings = {
        "batch": "batch_size",
        **{name: name for name in ("precision", "device", "threads")},
        f"{runs[0].record.words.rows} timed": "timed_rows",
        "timed batch": "timed_batch_size",
    }

    def setting(key: str, run: Run) -> str:
        return run.setting(key)

    columns: dict[str, Callable[[Run], Cell | str]] = {
        "folder": lambda run: run.folder,
        "regime": lambda run: run.column[0],
        "data": lambda run: run.column[1],
        "k": lambda run: count(run.block_size),
        "seed": lambda run: count(run.seed),
        **{title: partial(setting, key) for title, key in settings.items()},
        "revision": lambda run: run.revision,
        "signature of quality": lambda run: run.record.signature,
    }
    return make_table("runs", "Runs", runs, columns, words=3)


def arms_table(runs: Sequence[Run]) -> Table:
    """Every way of decoding that was measured."""
    qualities, a_row = qualities_of(runs), runs[0].record.words.a_row
    near = [name for name in qualities if all(arm.to_greedy for run in runs for arm in run.record.arms)]

    def quality(name: str, item: tuple[Run, Arm]) -> Cell:
        return number(quality_of(item[1], name), QUALITIES[name].digits)

    def nearness(name: str, item: tuple[Run, Arm]) -> Cell:
        value = (item[1].to_greedy or {}).get(name)
        return Cell("equal" if value is None else f"{value:.{QUALITIES[name].digits}f}", "", {"value": value})

    return make_table(
        "arms",
        "All decoders",
        [(run, arm) for run in runs for arm in run.record.arms],
        {
            "model": lambda item: item[0].name,
            "decoder": lambda item: "greedy" if item[1].decoder == "greedy" else item[1].acceptance,
            "k'": lambda item: count(item[1].block_size),
            **{QUALITIES[name].title: partial(quality, name) for name in qualities},
            **{f"{QUALITIES[name].title} to greedy": partial(nearness, name) for name in near},
            "mean accepted block size": lambda item: number(item[1].mean_accepted_block_size),
            "draft acceptance rate": lambda item: percent(item[1].draft_acceptance_rate),
            f"calls {a_row}": lambda item: number(item[1].calls),
            "same as greedy": lambda item: percent(item[1].greedy_agreement),
            f"ms {a_row}": lambda item: number(item[1].seconds and item[1].seconds * 1000),
            "speed-up": lambda item: number(item[1].speed_up),
        },
        words=2,
        folded=True,
    )
