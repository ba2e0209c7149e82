"""The tables of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean

from lightning_bpd.measuring.words import QUALITIES
from lightning_bpd.report.cells import EXACT, Key, Result, quality_of
from lightning_bpd.report.document import MISSING, Cell, Table, Value, make_cell, make_table, signed, span
from lightning_bpd.report.prediction import best_measured, best_predicted, predict
from lightning_bpd.report.runs import Run

Results = dict[Key, Result]


def _columns(results: Results) -> list[tuple[str, str]]:
    """Regime and data of all cells, frozen heads first."""
    return sorted(dict.fromkeys(key.column for key in results), key=lambda column: column[0])


def _paper_rows(
    results: Results, rule: str, make: Callable[[Result], Cell], least: int = 1
) -> list[dict[str, Value]]:
    """A row for each block size of at least ``least``, a column for each regime and data."""
    rows: list[dict[str, Value]] = []
    for size in sorted({key.block_size for key in results if key.rule == rule and key.block_size >= least}):
        found = {", ".join(column): results.get(Key(*column, rule, size)) for column in _columns(results)}
        rows.append({"k": size} | {name: make(each) if each else MISSING for name, each in found.items()})
    return rows


def quality_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """The paper's Table 1, or 2, for one rule: quality / mean accepted block size at k' = k."""
    words, quality = runs[0].record.words, runs[0].record.words.quality

    def make(result: Result) -> Cell:
        small = [
            f"{QUALITIES[name].label} {fmean(values):.{QUALITIES[name].digits}f}"
            for name, values in result.others.items()
        ]
        if len(result.runs) > 1:
            spans = f"{span(result.qualities, quality.digits)} / {span(result.block_sizes)}"
            small.insert(0, f"n = {len(result.runs)}: {spans}")
        text = f"{result.quality:.{quality.digits}f} / {result.block_size:.2f}"
        return Cell(text, "; ".join(small), asdict(result))

    title = f"{words.table}, exact rule" if rule == EXACT else f"The same by {rule}"
    title = f"{title}: {quality.title} / mean accepted block size"
    return make_table(f"quality-{rule}", title, _paper_rows(results, rule, make))


def certainty_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """The uncertainty of the quality table: interval of the block size, quality difference and its p."""
    quality = runs[0].record.words.quality

    def make(result: Result) -> Cell:
        interval = MISSING if result.interval is None else span(result.interval)
        if result.quality_difference is None:
            return Cell(interval, "no k = 1 to compare with", asdict(result))
        p_values = ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in result.p_values]
        # One p for each seed, or a single one if all are equal.
        shown = ", ".join(p_values if len(set(p_values)) > 1 else p_values[:1])
        difference = f"{signed(result.quality_difference, quality.digits)} {quality.unit or quality.label}"
        return Cell(interval, f"{difference}, p: {shown}", asdict(result))

    title = (
        f"How certain that is, {rule}: 95 % interval of the block size; {quality.label} difference to k = 1"
    )
    return make_table(f"certainty-{rule}", title, _paper_rows(results, rule, make, least=2))


def speed_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """The paper's Table 4 for each regime and data: quality, block size and wall clock by one rule."""
    order = _columns(results)
    names = qualities_of(runs)
    rows: list[dict[str, Value]] = []
    for key in sorted(results, key=lambda key: (order.index(key.column), key.block_size)):
        if key.rule == rule:
            result = results[key]
            qualities = {names[0]: result.qualities, **result.others}
            rows.append(
                {
                    "model": ", ".join(key.column),
                    "k": key.block_size,
                    **{
                        QUALITIES[name].title: _mean(qualities[name], QUALITIES[name].digits)
                        for name in names
                    },
                    "mean accepted block size": _mean(result.block_sizes),
                    "wall-clock speed-up": _mean(result.speed_ups if result.speed_up is not None else []),
                    "efficiency": result.speed_up and result.speed_up / result.block_size,
                    "same as greedy": make_cell(result.greedy_agreement, ".1%"),
                    "seeds": len(result.runs),
                }
            )
    # The paper has no such table for images.
    title = "Table 4, exact rule" if runs[0].record.kind == "text" else "Exact rule"
    title = f"{title}: quality and wall clock" if rule == EXACT else f"The same by {rule}"
    return make_table("speed" if rule == EXACT else f"speed-{rule}", title, rows)


def _mean(values: Sequence[float], digits: int = 2) -> Cell:
    """The mean, and below it the smallest and the largest value if they look different."""
    if not values:
        return Cell(MISSING)
    spread = span(values, digits)
    numbers = {"mean": fmean(values), "values": values}
    return Cell(f"{fmean(values):.{digits}f}", spread if "–" in spread else "", numbers)


def qualities_of(runs: Sequence[Run]) -> list[str]:
    """The measures of quality that all runs have, the principal one first."""
    names = runs[0].record.words.qualities
    return [name for name in names if all(name in run.record.greedy.quality for run in runs)]


def best_table(runs: Sequence[Run]) -> Table:
    """Predicted and measured best k' of each model with heads."""
    rows: list[dict[str, Value]] = []
    for run in runs:
        if choices := predict(run):
            predicted, measured = best_predicted(choices), best_measured(choices)
            timed = [str(choice.block_size) for choice in choices if choice.measured is not None]
            rows.append(
                {
                    "model": run.name,
                    "k": run.block_size,
                    "best k' predicted": predicted.block_size,
                    "speed-up predicted": predicted.predicted,
                    "best k' measured": measured and measured.block_size,
                    "speed-up measured": measured and measured.measured,
                    "timed at k'": ", ".join(timed) or MISSING,
                }
            )
    return make_table("best", "Best block size on this machine, exact rule", rows)


def prediction_table(runs: Sequence[Run]) -> Table:
    """The predictions that the best block sizes were chosen from."""
    rows: list[dict[str, Value]] = [
        {
            "model": run.name,
            "k'": choice.block_size,
            "mean accepted block size (replay)": replay.tokens / replay.iterations[choice.block_size - 1],
            f"ms {runs[0].record.words.a_row}, predicted": choice.seconds * 1000,
            "speed-up predicted": choice.predicted,
            "speed-up measured": choice.measured,
        }
        for run in runs
        if (replay := run.record.replay) is not None
        for choice in predict(run)
    ]
    return make_table("prediction", "Predicted and measured for every k'", rows, folded=True)


def runs_table(runs: Sequence[Run]) -> Table:
    """The settings of every run."""
    settings = {
        "batch": "batch_size",
        **{name: name for name in ("precision", "device", "threads")},
        f"{runs[0].record.words.rows} timed": "timed_rows",
        "timed batch": "timed_batch_size",
    }
    rows: list[dict[str, Value]] = [
        {
            "folder": run.folder,
            "regime": run.column[0],
            "data": run.column[1],
            "k": run.block_size,
            "seed": run.seed,
            **{title: run.setting(key) for title, key in settings.items()},
            "revision": run.revision,
            "signature of quality": run.record.signature,
        }
        for run in runs
    ]
    return make_table("runs", "Runs", rows, words=3)


def arms_table(runs: Sequence[Run]) -> Table:
    """Every way of decoding that was measured."""
    names, a_row = qualities_of(runs), runs[0].record.words.a_row
    near = names if all(arm.to_greedy for run in runs for arm in run.record.arms) else []
    rows: list[dict[str, Value]] = []
    for run in runs:
        for arm in run.record.arms:
            to_greedy = {name: (arm.to_greedy or {}).get(name) for name in near}
            rows.append(
                {
                    "model": run.name,
                    "decoder": "greedy" if arm.decoder == "greedy" else arm.acceptance,
                    "k'": arm.block_size,
                    **{QUALITIES[name].title: _quality(quality_of(arm, name), name) for name in names},
                    **{
                        f"{QUALITIES[name].title} to greedy": _quality(to_greedy[name], name) for name in near
                    },
                    "mean accepted block size": arm.mean_accepted_block_size,
                    "draft acceptance rate": make_cell(arm.draft_acceptance_rate, ".1%"),
                    f"calls {a_row}": arm.calls,
                    "same as greedy": make_cell(arm.greedy_agreement, ".1%"),
                    f"ms {a_row}": arm.seconds and arm.seconds * 1000,
                    "speed-up": arm.speed_up,
                }
            )
    return make_table("arms", "All decoders", rows, words=2, folded=True)


def _quality(value: float | None, name: str) -> Cell:
    """A quality; None is the infinite PSNR of an output that equals greedy decoding's."""
    text = "equal" if value is None else f"{value:.{QUALITIES[name].digits}f}"
    return Cell(text, "", {"value": value})
