"""The tables of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from lightning_bpd.benchmark.report_cells import EXACT, PAPER, Place, Result, columns_of
from lightning_bpd.benchmark.report_data import DATA, Arm, Run
from lightning_bpd.benchmark.report_document import MISSING, Cell, Table, number, signed, span
from lightning_bpd.benchmark.report_prediction import best_measured, best_predicted, predict

Results = dict[Place, Result]


def paper_columns(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The paper's columns, and after them what else there is."""
    return sorted(
        {*PAPER, *columns_of(runs)},
        key=lambda column: (column[0], DATA.index(column[1])),
    )


def quality_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """The paper's Table 1 for one rule: BLEU / mean accepted block size at k' = k."""
    columns = paper_columns(runs)
    return Table(
        f"quality-{rule}",
        "Table 1, exact rule: BLEU / mean accepted block size"
        if rule == EXACT
        else f"The same by {rule}: BLEU / mean accepted block size",
        ("k", *(f"{regime}, {data}" for regime, data in columns)),
        tuple(
            (_count(size), *(_quality(results.get(Place(*column, rule, size))) for column in columns))
            for size in _sizes(results, rule)
        ),
    )


def _quality(result: Result | None) -> Cell:
    if result is None:
        return Cell(MISSING)
    count = len(result.runs)
    small = f"n = {count}: {span(result.bleus)} / {span(result.block_sizes)}" if count > 1 else ""
    return Cell(f"{result.bleu:.2f} / {result.block_size:.2f}", small, asdict(result))


def certainty_table(results: Results, runs: Sequence[Run], rule: str) -> Table:
    """How certain the cells of the table above are: interval of the block size, BLEU difference with its p."""
    columns = paper_columns(runs)
    return Table(
        f"certainty-{rule}",
        f"How certain that is, {rule}: 95 % interval of the block size; BLEU difference to k = 1",
        ("k", *(f"{regime}, {data}" for regime, data in columns)),
        tuple(
            (_count(size), *(_certainty(results.get(Place(*column, rule, size))) for column in columns))
            for size in _sizes(results, rule)
            if size > 1
        ),
    )


def _certainty(result: Result | None) -> Cell:
    if result is None:
        return Cell(MISSING)
    numbers = asdict(result)
    interval = MISSING if result.interval is None else span(list(result.interval))
    if result.bleu_difference is None:
        return Cell(interval, "no k = 1 to compare with", numbers)
    words = ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in result.p_values]
    # One p a seed, or one that is that of all.
    p_values = ", ".join(words if len(set(words)) > 1 else words[:1])
    return Cell(interval, f"{signed(result.bleu_difference)} BLEU, p: {p_values}", numbers)


def speed_table(results: Results, runs: Sequence[Run]) -> Table:
    """The paper's Table 4 for each regime and data: quality, block size and wall clock by the exact rule."""
    rows = []
    for regime, data in paper_columns(runs):
        for size in _sizes(results, EXACT):
            result = results.get(Place(regime, data, EXACT, size))
            if result is None:
                continue
            efficiency = None if result.speed_up is None else result.speed_up / result.block_size
            rows.append(
                (
                    Cell(f"{regime}, {data}"),
                    _count(size),
                    Cell(f"{result.bleu:.2f}", _spread(result.bleus), asdict(result)),
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
        "BLEU",
        "mean accepted block size",
        "wall-clock speed-up",
        "efficiency",
        "same as greedy",
        "seeds",
    )
    return Table("speed", "Table 4, exact rule: quality and wall clock", columns, tuple(rows))


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
        "ms a sentence, predicted",
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
                        "timed_sentences",
                        "timed_batch_size",
                    )
                ),
                Cell(short(revision(run))),
                Cell(run.bleu_signature),
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
        "sentences timed",
        "timed batch",
        "revision",
        "BLEU signature",
    )
    return Table("runs", "Runs", columns, tuple(rows), words=3)


def arms_table(runs: Sequence[Run]) -> Table:
    """Every way of decoding that was measured."""
    columns = (
        "model",
        "decoder",
        "k'",
        "BLEU",
        "mean accepted block size",
        "calls a sentence",
        "same as greedy",
        "ms a sentence",
        "speed-up",
    )
    rows = tuple(_arm(run, arm) for run in runs for arm in run.arms)
    return Table("arms", "All decoders", columns, rows, words=2, folded=True)


def _arm(run: Run, arm: Arm) -> tuple[Cell, ...]:
    return (
        Cell(run.name),
        Cell("greedy" if arm.decoder == "greedy" else arm.acceptance),
        _count(arm.block_size),
        _number(arm.bleu),
        _number(arm.mean_accepted_block_size),
        _number(arm.calls),
        _percent(arm.greedy_agreement),
        Cell(MISSING if arm.seconds is None else f"{arm.seconds * 1000:.2f}", "", {"seconds": arm.seconds}),
        _number(arm.speed_up),
    )


def revision(run: Run) -> str:
    """The revision of the code that measured a run; a dash where it is not known."""
    known = [value for key, value in sorted(run.provenance.items()) if "revision" in key.lower()]
    return known[0] if known else MISSING


def short(text: str) -> str:
    """A revision as it is shown."""
    return text[:12]


def _sizes(results: Results, rule: str) -> list[int]:
    return sorted({place.block_size for place in results if place.rule == rule})


def _spread(values: list[float]) -> str:
    """The least and the greatest, where they look different."""
    text = span(values) if values else ""
    return text if "–" in text else ""


def _count(value: int) -> Cell:
    return Cell(str(value), "", {"value": value})


def _number(value: float | None) -> Cell:
    return Cell(number(value), "", {"value": value})


def _percent(value: float) -> Cell:
    return Cell(f"{value:.1%}", "", {"value": value})
