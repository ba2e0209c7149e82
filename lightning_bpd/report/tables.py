"""The tables of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from lightning_bpd.measuring.words import QUALITIES, Quality
from lightning_bpd.report.cells import EXACT, Place, Result, paper_columns
from lightning_bpd.report.data import Arm, Run
from lightning_bpd.report.document import MISSING, Cell, Table, number, signed, span
from lightning_bpd.report.prediction import best_measured, best_predicted, predict

Results = dict[Place, Result]


def quality_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """The paper's Table 1, or 2, for one rule: quality / mean accepted block size at k' = k."""
    columns, words = paper_columns(runs), runs[0].words
    which = f"{words.table}, exact rule" if rule == EXACT else f"The same by {rule}"
    return Table(
        f"quality-{rule}",
        f"{which}: {words.quality.title} / mean accepted block size",
        ("k", *(f"{regime}, {data}" for regime, data in columns)),
        tuple(
            (
                _count(size),
                *(_quality(results.get(Place(*column, rule, size)), words.quality) for column in columns),
            )
            for size in _sizes(results, rule)
        ),
    )


def _quality(result: Result | None, quality: Quality) -> Cell:
    if result is None:
        return Cell(MISSING)
    count = len(result.runs)
    small = []
    if count > 1:
        small.append(f"n = {count}: {span(result.qualities, quality.digits)} / {span(result.block_sizes)}")
    for name, values in result.others.items():
        small.append(f"{QUALITIES[name].label} {number(fmean(values), QUALITIES[name].digits)}")
    text = f"{number(result.quality, quality.digits)} / {result.block_size:.2f}"
    return Cell(text, "; ".join(small), asdict(result))


def certainty_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """How certain the cells of the table above are: interval of the block size, quality difference with its p."""
    columns, quality = paper_columns(runs), runs[0].words.quality
    return Table(
        f"certainty-{rule}",
        f"How certain that is, {rule}: 95 % interval of the block size; {quality.label} difference to k = 1",
        ("k", *(f"{regime}, {data}" for regime, data in columns)),
        tuple(
            (
                _count(size),
                *(_certainty(results.get(Place(*column, rule, size)), quality) for column in columns),
            )
            for size in _sizes(results, rule)
            if size > 1
        ),
    )


def _certainty(result: Result | None, quality: Quality) -> Cell:
    if result is None:
        return Cell(MISSING)
    numbers = asdict(result)
    interval = MISSING if result.interval is None else span(list(result.interval))
    if result.quality_difference is None:
        return Cell(interval, "no k = 1 to compare with", numbers)
    words = ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in result.p_values]
    # One p a seed, or one that is that of all.
    p_values = ", ".join(words if len(set(words)) > 1 else words[:1])
    return Cell(
        interval,
        f"{signed(result.quality_difference, quality.digits)} {quality.unit or quality.label}, p: {p_values}",
        numbers,
    )


def speed_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """The paper's Table 4 for each regime and data: quality, block size and wall clock by one rule."""
    rows = []
    qualities = qualities_of(runs)
    for regime, data in paper_columns(runs):
        for size in _sizes(results, rule):
            result = results.get(Place(regime, data, rule, size))
            if result is None:
                continue
            efficiency = None if result.speed_up is None else result.speed_up / result.block_size
            rows.append(
                (
                    Cell(f"{regime}, {data}"),
                    _count(size),
                    *_qualities(result, qualities),
                    Cell(f"{result.block_size:.2f}", _spread(result.block_sizes)),
                    Cell(
                        number(result.speed_up),
                        _spread(result.speed_ups) if result.speed_up is not None else "",
                        {"speed_up": result.speed_up, "speed_ups": result.speed_ups},
                    ),
                    Cell(number(efficiency), "", {"efficiency": efficiency}),
                    _percent(result.greedy_agreement),
                    _count(len(result.runs)),
                )
            )
    columns = (
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
        return Table(f"speed-{rule}", f"The same by {rule}", columns, tuple(rows))
    # Of images the paper has no such table.
    which = "Table 4, exact rule" if runs[0].kind == "text" else "Exact rule"
    return Table("speed", f"{which}: quality and wall clock", columns, tuple(rows))


def qualities_of(runs: Sequence[Run]) -> list[str]:
    """The measures of quality that all runs have, the principal one first."""
    return [name for name in runs[0].words.qualities if all(name in run.greedy.quality for run in runs)]


def _qualities(result: Result, names: Sequence[str]) -> list[Cell]:
    principal, *others = names
    digits = QUALITIES[principal].digits
    cells = [Cell(number(result.quality, digits), _spread(result.qualities, digits), asdict(result))]
    for name in others:
        values, digits = result.others[name], QUALITIES[name].digits
        cells.append(Cell(number(fmean(values), digits), _spread(values, digits), {name: values}))
    return cells


def best_table(runs: Sequence[Run]) -> Table:
    """Predicted and measured best k' of each model with heads."""
    rows = []
    for run in runs:
        choices = predict(run)
        if not choices:
            continue
        predicted, measured = best_predicted(choices), best_measured(choices)
        timed = [choice.block_size for choice in choices if choice.measured is not None]
        rows.append(
            (
                Cell(run.name),
                _count(run.block_size),
                _count(predicted.block_size),
                _number(predicted.predicted),
                Cell(MISSING) if measured is None else _count(measured.block_size),
                _number(None if measured is None else measured.measured),
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
        "timed at k'",
    )
    return Table("best", "Best block size on this machine, exact rule", columns, tuple(rows))


def prediction_table(runs: Sequence[Run]) -> Table:
    """All that the best block sizes were chosen from."""
    rows = []
    for run in runs:
        for choice in predict(run):
            assert run.replay is not None
            block_size = run.replay.tokens / run.replay.iterations[choice.block_size - 1]
            rows.append(
                (
                    Cell(run.name),
                    _count(choice.block_size),
                    _number(block_size),
                    Cell(f"{choice.seconds * 1000:.2f}", "", {"seconds": choice.seconds}),
                    _number(choice.predicted),
                    _number(choice.measured),
                )
            )
    columns = (
        "model",
        "k'",
        "mean accepted block size (replay)",
        f"ms {runs[0].words.a_row}, predicted",
        "speed-up predicted",
        "speed-up measured",
    )
    return Table("prediction", "Predicted and measured for every k'", columns, tuple(rows), folded=True)


def runs_table(runs: Sequence[Run]) -> Table:
    """The settings of every run."""
    rows = []
    for run in runs:
        settings = {key: str(run.settings.get(key, MISSING)) for key in run.settings}
        rows.append(
            (
                Cell(run.folder),
                Cell(run.regime),
                Cell(run.data),
                _count(run.block_size),
                Cell(MISSING if run.seed is None else str(run.seed), "", {"value": run.seed}),
                *(
                    Cell(settings.get(key, MISSING))
                    for key in (
                        "batch_size",
                        "precision",
                        "device",
                        "threads",
                        "timed_rows",
                        "timed_batch_size",
                    )
                ),
                Cell(short(revision(run))),
                Cell(run.signature),
            )
        )
    columns = (
        "folder",
        "regime",
        "data",
        "k",
        "seed",
        "batch",
        "precision",
        "device",
        "threads",
        f"{runs[0].words.rows} timed",
        "timed batch",
        "revision",
        "signature of quality",
    )
    return Table("runs", "Runs", columns, tuple(rows), words=3)


def arms_table(runs: Sequence[Run]) -> Table:
    """Every way of decoding that was measured."""
    qualities, a_row = qualities_of(runs), runs[0].words.a_row
    near = [name for name in qualities if all(arm.to_greedy for run in runs for arm in run.arms)]
    columns = (
        "model",
        "decoder",
        "k'",
        *(QUALITIES[name].title for name in qualities),
        *(f"{QUALITIES[name].title} to greedy" for name in near),
        "mean accepted block size",
        f"calls {a_row}",
        "same as greedy",
        f"ms {a_row}",
        "speed-up",
    )
    rows = tuple(_arm(run, arm, qualities, near) for run in runs for arm in run.arms)
    return Table("arms", "All decoders", columns, rows, words=2, folded=True)


def _arm(run: Run, arm: Arm, qualities: Sequence[str], near: Sequence[str]) -> tuple[Cell, ...]:
    return (
        Cell(run.name),
        Cell("greedy" if arm.decoder == "greedy" else arm.acceptance),
        _count(arm.block_size),
        *(_number(arm.quality[name], QUALITIES[name].digits) for name in qualities),
        *(_nearness(arm, name) for name in near),
        _number(arm.mean_accepted_block_size),
        _number(arm.calls),
        _percent(arm.greedy_agreement),
        Cell(MISSING if arm.seconds is None else f"{arm.seconds * 1000:.2f}", "", {"seconds": arm.seconds}),
        _number(arm.speed_up),
    )


def _nearness(arm: Arm, name: str) -> Cell:
    assert arm.to_greedy is not None
    value = arm.to_greedy.get(name)
    text = "equal" if value is None else number(value, QUALITIES[name].digits)
    return Cell(text, "", {"value": value})


def revision(run: Run) -> str:
    """The revision of the code that measured a run; a dash where it is not known."""
    known = [value for key, value in sorted(run.provenance.items()) if "revision" in key.lower()]
    return known[0] if known else MISSING


def short(text: str) -> str:
    """A revision as it is shown."""
    return text[:12]


def _sizes(results: Results, rule: str) -> list[int]:
    return sorted({place.block_size for place in results if place.rule == rule})


def _spread(values: list[float], digits: int = 2) -> str:
    """The least and the greatest, where they look different."""
    text = span(values, digits) if values else ""
    return text if "–" in text else ""


def _count(value: int) -> Cell:
    return Cell(str(value), "", {"value": value})


def _number(value: float | None, digits: int = 2) -> Cell:
    return Cell(number(value, digits), "", {"value": value})


def _percent(value: float) -> Cell:
    return Cell(f"{value:.1%}", "", {"value": value})
