"""The content of a report, in order: the answer first, settings last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lightning_bpd.measuring.record import Arm
from lightning_bpd.measuring.words import QUALITIES
from lightning_bpd.report.cells import EXACT, Key, Result, gather, measure, quality_of, rules_of, timed_rules
from lightning_bpd.report.document import (
    MISSING,
    Block,
    Cell,
    Figure,
    Paragraph,
    Report,
    Section,
    Table,
    Value,
    make_cell,
    make_table,
    signed,
)
from lightning_bpd.report.figures import acceptance_figure, trade_figure, wall_clock_figure
from lightning_bpd.report.runs import Run, differences, keys_of, unequal_scores, varies
from lightning_bpd.report.tables import (
    arms_table,
    best_table,
    certainty_table,
    prediction_table,
    quality_table,
    runs_table,
    speed_table,
)

# The most quality, in BLEU or dB, that a rule may cost to be named in the answer.
LITTLE = 1.0


def make_report(runs: Sequence[Run], left_out: Sequence[str] = (), resamples: int = 1000) -> Report:
    """Make the report on runs that were measured on one corpus.

    Args:
        runs: As ``read_runs`` gives them.
        left_out: Sentences on folders that were not read.
        resamples: Draws of each bootstrap.
    """
    results = measure(gather(runs), resamples)
    figures = [trade_figure(results, runs), wall_clock_figure(results, runs), acceptance_figure(runs)]
    drawn = [figure for figure in figures if figure.panels]
    sections = (
        Section("answer", "Answer", _answer(runs, left_out, figures)),
        Section("quality", "Quality and block size", _quality(results, runs, resamples)),
        Section("speed", "Wall clock", _speed(results, runs)),
        Section("figures", "Figures", tuple(drawn)),
        Section("best", "Best block size for this machine", _best(runs)),
        Section("settings", "Settings", (_settings(runs), runs_table(runs), arms_table(runs))),
    )
    title = f"Blockwise parallel decoding on {runs[0].record.corpus.name}"
    return Report(title, tuple(section for section in sections if section.blocks))


def _answer(runs: Sequence[Run], left_out: Sequence[str], figures: Sequence[Figure]) -> tuple[Block, ...]:
    """Say which model is how much faster, whether its output is that of greedy decoding, and show one figure."""
    first, words = runs[0].record, runs[0].record.words
    name, quality = words.qualities[0], words.quality
    form = f".{quality.digits}f"
    where = f"{first.corpus.rows} {words.rows} of {first.corpus.name}, on {runs[0].setting('processor')}"
    blockwise = [(run, arm) for run in runs for arm in run.record.arms[1:]]
    timed = [(run, arm) for run, arm in blockwise if arm.speed_up is not None]
    candidates = timed or blockwise
    blocks: list[Block] = []
    if not blockwise:
        scores = (f"{run.name} {quality_of(run.record.greedy, name):{form}}" for run in runs)
        text = f"Only greedy decoding was measured ({where}). {quality.title}: {', '.join(scores)}."
        blocks.append(Paragraph(text, "answer"))
    else:
        by_rule = [
            [each for each in candidates if each[1].acceptance == rule]
            for rule in rules_of([run for run, _ in candidates])
        ]
        fastest = [max(arms, key=_rank) for arms in by_rule if arms]
        exact = [each for each in fastest if each[1].acceptance == EXACT]
        cheap = [each for each in candidates if each[1].acceptance != EXACT and _change(*each) >= -LITTLE]
        shown = [*exact, *([max(cheap, key=_rank)] if cheap else [])] or fastest[:1]
        blocks.append(Paragraph(" ".join(filter(None, (_sentence(*each) for each in shown))), "answer"))
        blocks.append(Paragraph(f"Measured on {where}{_timing(runs[0]) if timed else ''}."))
        rows: list[dict[str, Value]] = [
            {
                "model": run.name,
                "rule": arm.acceptance,
                "speed-up": arm.speed_up,
                "same as greedy": make_cell(arm.greedy_agreement, ".1%"),
                "k'": arm.block_size,
                "mean accepted block size": arm.mean_accepted_block_size,
                quality.title: make_cell(quality_of(arm, name), form),
                f"{quality.title}, greedy": make_cell(quality_of(run.record.greedy, name), form),
            }
            for run, arm in fastest
        ]
        blocks.append(make_table("answer", "The fastest model by each rule", rows, words=2))
        blocks += _answer_figure(figures, shown[0][0])
    doubts = differences(runs)
    if doubts:
        doubts.insert(0, "Settings differ between these runs, so their numbers are not quite comparable.")
    if doubts := [*doubts, *unequal_scores(runs), *left_out]:
        blocks.append(Paragraph(" ".join(doubts), "warning"))
    return tuple(blocks)


def _rank(candidate: tuple[Run, Arm]) -> tuple[float, float]:
    """Order arms by speed-up, and by block size if they were not timed."""
    return candidate[1].speed_up or 0.0, candidate[1].mean_accepted_block_size


def _change(run: Run, arm: Arm) -> float:
    """The principal quality of an arm minus that of greedy decoding."""
    name = run.record.words.qualities[0]
    return quality_of(arm, name) - quality_of(run.record.greedy, name)


def _answer_figure(figures: Sequence[Figure], run: Run) -> list[Figure]:
    """The run's column: speed-up and block size against k', or acceptance by position if nothing was timed."""
    column = ", ".join(run.column)
    for figure, first, explained in (
        (figures[1], -2, " Dashed: the ideal, at which each call costs the same."),
        (figures[2], 0, ""),
    ):
        for panel in figure.panels:
            if panel.title == column:
                panels = (replace(panel, series=panel.series[first:]),)
                return [replace(figure, name="answer", panels=panels, caption=f"{column}.{explained}")]
    return []


def _sentence(run: Run, arm: Arm) -> str:
    """Say how fast an arm is; empty for a rule other than the exact one that is slower than greedy decoding."""
    words, speed = run.record.words, arm.speed_up
    same = "the same output"
    if arm.greedy_agreement < 1:
        change = signed(_change(run, arm), words.quality.digits)
        unit = words.quality.unit or words.quality.label
        same += f" for {arm.greedy_agreement:.1%} of {words.rows}, at {change} {unit}"
    same += f" ({run.name}, blocks of {arm.block_size})"
    subject = "Blockwise decoding" if arm.acceptance == EXACT else f"Decoding by the rule {arm.acceptance}"
    if speed is None:
        size = f"{arm.mean_accepted_block_size:.2f} tokens per iteration"
        return f"{subject} accepts {size} and gives {same}. Wall clock was not measured."
    if speed > 1:
        return f"{subject} is {speed:.2f} times as fast as greedy decoding and gives {same}."
    if arm.acceptance == EXACT:
        slower = f"{speed:.2f} times its speed, with {same}"
        return f"No blockwise decoding that was timed is faster than greedy decoding: {slower}."
    return ""


def _timing(run: Run) -> str:
    rows, batch = run.setting("timed_rows"), run.setting("timed_batch_size")
    threads = "1 thread" if run.setting("threads") == "1" else f"{run.setting('threads')} threads"
    together = "one at a time" if batch == "1" else f"in batches of {batch}"
    return f" ({threads}, {run.setting('precision')}); {rows} of them timed, {together}"


def _quality(results: dict[Key, Result], runs: Sequence[Run], resamples: int) -> tuple[Block, ...]:
    words = runs[0].record.words
    label = words.quality.label
    blocks: list[Block] = [
        Paragraph(
            f"Rows are the block size k that a model was trained for and decodes with (k' = k). A cell is {label} / "
            "mean accepted block size; for several seeds their mean, and below it their number, the least and the "
            f"greatest. {MISSING} was not measured. Frozen heads leave the base as it is, so their k = 1 is the base."
        )
    ]
    for rule in rules_of(runs):
        blocks += [quality_table(results, runs, rule), certainty_table(results, runs, rule)]
    if any(key.block_size > 1 for key in results):
        blocks.insert(
            3,
            Paragraph(
                f"Intervals are 95 % bootstrap intervals over {words.rows} ({resamples} draws, each the ratio of its "
                f"sums). They say how much depends on these {words.rows}, not on the seed of the training. {label} "
                "differences are to k = 1 of the same column, or to the base if there is none, with p by "
                f"{words.test}, one p a seed; p = 1 if the output is the same. {_baselines(results)}"
            ),
        )
    return tuple(block for block in blocks if not isinstance(block, Table) or block.rows)


def _baselines(results: dict[Key, Result]) -> str:
    """Say which models are the k = 1 of each column."""
    names: dict[tuple[str, str], set[str]] = {}
    for key, result in results.items():
        if key.block_size > 1:
            names.setdefault(key.column, set()).update(result.baselines)
    return " ".join(
        f"For {', '.join(column)} that is {', '.join(sorted(found)) or 'no run, so there are no differences'}."
        for column, found in sorted(names.items())
    )


def _speed(results: dict[Key, Result], runs: Sequence[Run]) -> tuple[Block, ...]:
    speeds: dict[str, list[str]] = {}
    for key, result in sorted(results.items(), key=lambda item: item[0].block_size):
        frozen = (key.regime, key.rule) == ("frozen", EXACT) and key.block_size > 1
        if frozen and result.speed_up is not None:
            speeds.setdefault(key.data, []).append(f"{result.speed_up:.2f} at k = {key.block_size}")
    blocks: list[Block] = []
    if speeds:
        measured = "; ".join(f"{data} data, {', '.join(found)}" for data, found in speeds.items())
        blocks.append(
            Paragraph(
                "Wall clock of the frozen base with exact acceptance, the only setting that keeps the original model's "
                f"output (the paper does not report it): {measured}."
            )
        )
    blocks += [table for rule in timed_rules(runs) if (table := speed_table(results, runs, rule)).rows]
    if blocks:
        blocks.append(
            Paragraph(
                "Speed-up is the time of greedy decoding of the same weights over that of blockwise decoding, in "
                "batches of the size that the settings name. Efficiency is speed-up over mean accepted block size; 1 "
                "is the ideal. For several seeds: the mean, and below it the smallest and the largest."
            )
        )
    return tuple(blocks)


def _best(runs: Sequence[Run]) -> tuple[Block, ...]:
    text = Paragraph(
        f"Predicted seconds {runs[0].record.words.a_row}: start + calls × cost of a call over k' tokens + iterations × "
        "cost of k' − 1 proposals. Iterations come from the replay of greedy output, calls are iterations + 1; greedy "
        "decoding (k' = 1) makes one call a token. Costs are medians, measured on this machine for a batch of one."
    )
    table = best_table(runs)
    return (text, table, prediction_table(runs)) if table.rows else ()


def _settings(runs: Sequence[Run]) -> Table:
    words = runs[0].record.words
    names = {
        "batch_size": "batch, quality and block sizes",
        "timed_rows": f"{words.rows} timed",
        "timed_batch_size": "batch, timed",
        "extra_length": "tokens beyond the source's length",
        "max_new_tokens": "most tokens of an output",
    }
    qualities = " and ".join(QUALITIES[name].label for name in words.qualities)
    rows = [
        ("corpus", _all(f"{run.record.corpus.name}, {run.record.corpus.rows} {words.rows}" for run in runs)),
        ("its folder", _all(run.record.corpus.folder for run in runs)),
        ("hash of its content", _all(run.record.corpus.hash for run in runs)),
        ("models", _models(runs)),
        (qualities, _all(run.record.signature for run in runs)),
    ]
    for key in keys_of(run.record.settings for run in runs):
        rows.append((names.get(key, key.replace("_", " ")), _all(run.setting(key) for run in runs)))
    rows.append(("revision", _all(run.revision for run in runs)))
    for key in keys_of(run.provenance for run in runs):
        # Revision and device are shown above.
        if key != "device" and "revision" not in key.lower() and not varies(key):
            rows.append((key.replace("_", " "), _all(run.provenance.get(key, MISSING) for run in runs)))
    return Table("measured", "", ("", ""), tuple((Cell(name), Cell(value)) for name, value in rows), words=2)


def _models(runs: Sequence[Run]) -> str:
    parts = []
    for name in dict.fromkeys(run.column for run in runs):
        group = [run for run in runs if run.column == name]
        sizes = ", ".join(map(str, sorted({run.block_size for run in group})))
        seeds = sorted({run.seed for run in group if run.seed is not None})
        known = f", {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}" if seeds else ""
        parts.append(f"{', '.join(name)}: k = {sizes}{known}")
    return "; ".join(parts)


def _all(values: Iterable[object]) -> str:
    """The different values of all runs."""
    return "; ".join(dict.fromkeys(map(str, values)))
