"""The content of a report, in order: the answer first, settings last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

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
    count,
    make_table,
    number,
    percent,
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

Results = dict[Key, Result]

# The most quality, in BLEU or dB, that a rule may cost to be named in the answer.
LITTLE = 1.0

SPEED_WORDS = (
    "Speed-up is the time of greedy decoding of the same weights over that of blockwise decoding, in batches of the "
    "size that the settings name. Efficiency is speed-up over mean accepted block size; 1 is the ideal. For several "
    "seeds: the mean, and below it the least and the greatest."
)


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


class Measured(NamedTuple):
    """One run decoded in one way."""

    run: Run
    arm: Arm

    @property
    def speed(self) -> float:
        """Its speed-up; 0 if it was not timed."""
        return self.arm.speed_up or 0.0

    @property
    def change(self) -> float:
        """Its principal quality less that of greedy decoding."""
        name = self.run.record.words.qualities[0]
        return quality_of(self.arm, name) - quality_of(self.run.record.greedy, name)


def _answer(runs: Sequence[Run], left_out: Sequence[str], figures: Sequence[Figure]) -> tuple[Block, ...]:
    """Say which model is how much faster, whether its output is that of greedy decoding, and show one figure."""
    first, words = runs[0].record, runs[0].record.words
    blockwise = [Measured(run, arm) for run in runs for arm in run.record.arms[1:]]
    timed = [each for each in blockwise if each.arm.speed_up is not None]
    where = f"{first.corpus.rows} {words.rows} of {first.corpus.name}, on {runs[0].setting('processor')}"
    blocks: list[Block] = []
    if not blockwise:
        name = words.qualities[0]
        scores = (
            f"{run.name} {quality_of(run.record.greedy, name):.{words.quality.digits}f}" for run in runs
        )
        text = f"Only greedy decoding was measured ({where}). {words.quality.title}: {', '.join(scores)}."
        blocks.append(Paragraph(text, "answer"))
    else:
        best = _best_of(timed or blockwise)
        shown = [best[rule] for rule in (EXACT, "other") if rule in best] or _fastest_by_rule(
            timed or blockwise
        )[:1]
        blocks.append(Paragraph(" ".join(_sentences(shown)), "answer"))
        blocks.append(Paragraph(f"Measured on {where}{_timing(runs[0]) if timed else ''}."))
        blocks.append(_answer_table(_fastest_by_rule(timed or blockwise)))
        blocks += _answer_figure(figures, shown[0].run)
    doubts = differences(runs)
    if doubts:
        doubts.insert(0, "Settings differ between these runs, so their numbers are not quite comparable.")
    if doubts := [*doubts, *unequal_scores(runs), *left_out]:
        blocks.append(Paragraph(" ".join(doubts), "warning"))
    return tuple(blocks)


def _best_of(arms: Sequence[Measured]) -> dict[str, Measured]:
    """The fastest arm by the exact rule, and by other rules that cost little quality; the longest blocks if untimed."""
    best: dict[str, Measured] = {}
    for each in arms:
        rule = EXACT if each.arm.acceptance == EXACT else "other"
        if rule != EXACT and each.change < -LITTLE:
            continue
        if rule not in best or _rank(each) > _rank(best[rule]):
            best[rule] = each
    return best


def _rank(each: Measured) -> tuple[float, float]:
    return each.speed, each.arm.mean_accepted_block_size


def _fastest_by_rule(arms: Sequence[Measured]) -> list[Measured]:
    """The fastest arm by each rule."""
    rules = rules_of([each.run for each in arms])
    of_rules = ([each for each in arms if each.arm.acceptance == rule] for rule in rules)
    return [max(each, key=_rank) for each in of_rules if each]


def _answer_figure(figures: Sequence[Figure], run: Run) -> list[Figure]:
    """The run's column: speed-up and block size against k', or acceptance by position if nothing was timed."""
    column = ", ".join(run.column)
    for figure, length in ((figures[1], 2), (figures[2], None)):
        for panel in figure.panels:
            if panel.title == column:
                series = panel.series[-length:] if length else panel.series
                caption = (
                    f"{column}. {'Dashed: the ideal, at which each call costs the same.' if length else ''}"
                )
                panels = (replace(panel, series=series),)
                return [replace(figure, name="answer", panels=panels, caption=caption.strip())]
    return []


def _sentences(shown: Sequence[Measured]) -> Iterable[str]:
    for run, arm in shown:
        words, speed = run.record.words, arm.speed_up
        same = "the same output"
        if arm.greedy_agreement < 1:
            change = signed(Measured(run, arm).change, words.quality.digits)
            unit = words.quality.unit or words.quality.label
            same += f" for {arm.greedy_agreement:.1%} of {words.rows}, at {change} {unit}"
        which = f"({run.name}, blocks of {arm.block_size})"
        subject = (
            "Blockwise decoding" if arm.acceptance == EXACT else f"Decoding by the rule {arm.acceptance}"
        )
        if speed is None:
            size = f"{arm.mean_accepted_block_size:.2f} tokens per iteration"
            yield f"{subject} accepts {size} and gives {same} {which}. Wall clock was not measured."
        elif speed > 1:
            yield f"{subject} is {speed:.2f} times as fast as greedy decoding and gives {same} {which}."
        elif arm.acceptance == EXACT:
            slower = f"{speed:.2f} times its speed, with {same} {which}"
            yield f"No blockwise decoding that was timed is faster than greedy decoding: {slower}."


def _timing(run: Run) -> str:
    rows, batch = run.setting("timed_rows"), run.setting("timed_batch_size")
    threads = "1 thread" if run.setting("threads") == "1" else f"{run.setting('threads')} threads"
    together = "one at a time" if batch == "1" else f"in batches of {batch}"
    return f" ({threads}, {run.setting('precision')}); {rows} of them timed, {together}"


def _answer_table(shown: Sequence[Measured]) -> Table:
    name = shown[0].run.record.words.qualities[0]
    quality = QUALITIES[name]
    columns: dict[str, Callable[[Measured], Cell | str]] = {
        "model": lambda each: each.run.name,
        "rule": lambda each: each.arm.acceptance,
        "speed-up": lambda each: number(each.arm.speed_up),
        "same as greedy": lambda each: percent(each.arm.greedy_agreement),
        "k'": lambda each: count(each.arm.block_size),
        "mean accepted block size": lambda each: number(each.arm.mean_accepted_block_size),
        quality.title: lambda each: number(quality_of(each.arm, name), quality.digits),
        f"{quality.title}, greedy": lambda each: number(
            quality_of(each.run.record.greedy, name), quality.digits
        ),
    }
    return make_table("answer", "The fastest model by each rule", shown, columns, words=2)


def _quality(results: Results, runs: Sequence[Run], resamples: int) -> tuple[Block, ...]:
    words = runs[0].record.words
    label = words.quality.label
    blocks: list[Block] = [
        Paragraph(
            f"Rows are the block size k that a model was trained for and decodes with (k' = k). A cell is {label} / "
            "mean accepted block size; for several seeds their mean, and below it their number, the least and the "
            f"greatest. {MISSING} was not measured. Frozen heads leave the base as it is, so their k = 1 is the base."
        ),
        quality_table(results, runs, EXACT),
    ]
    for rule in [rule for rule in rules_of(runs) if any(key.rule == rule for key in results)]:
        if rule != EXACT:
            blocks.append(quality_table(results, runs, rule))
        blocks.append(certainty_table(results, runs, rule))
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


def _baselines(results: Results) -> str:
    """Say which models are the k = 1 of each column."""
    sentences = []
    for column in sorted({key.column for key in results if key.block_size > 1}):
        cells = [each for key, each in results.items() if key.column == column and key.block_size > 1]
        names = sorted({name for each in cells for name in each.baselines})
        found = ", ".join(names) or "no run, so there are no differences"
        sentences.append(f"For {', '.join(column)} that is {found}.")
    return " ".join(sentences)


def _speed(results: Results, runs: Sequence[Run]) -> tuple[Block, ...]:
    measured = []
    for column in dict.fromkeys(key.column for key in results if key.regime == "frozen"):
        speeds = [
            f"{result.speed_up:.2f} at k = {key.block_size}"
            for key, result in sorted(results.items(), key=lambda item: item[0].block_size)
            if key.column == column
            and key.rule == EXACT
            and key.block_size > 1
            and result.speed_up is not None
        ]
        if speeds:
            measured.append(f"{column[1]} data, {', '.join(speeds)}")
    blocks: list[Block] = []
    if measured:
        blocks.append(
            Paragraph(
                "Wall clock of the frozen base with exact acceptance, the only setting that keeps the original model's "
                f"output (the paper does not report it): {'; '.join(measured)}."
            )
        )
    blocks += [table for rule in timed_rules(runs) if (table := speed_table(results, runs, rule)).rows]
    return (*blocks, Paragraph(SPEED_WORDS)) if blocks else ()


def _best(runs: Sequence[Run]) -> tuple[Block, ...]:
    table = best_table(runs)
    if not table.rows:
        return ()
    text = Paragraph(
        f"Predicted seconds {runs[0].record.words.a_row}: start + calls × cost of a call over k' tokens + iterations × "
        "cost of k' − 1 proposals. Iterations come from the replay of greedy output, calls are iterations + 1; greedy "
        "decoding (k' = 1) makes one call a token. Costs are medians, measured on this machine for a batch of one."
    )
    return text, table, prediction_table(runs)


def _settings(runs: Sequence[Run]) -> Table:
    words = runs[0].record.words
    names = {
        "batch_size": "batch, quality and block sizes",
        "timed_rows": f"{words.rows} timed",
        "timed_batch_size": "batch, timed",
        "extra_length": "tokens beyond the source's length",
        "max_new_tokens": "most tokens of an output",
    }
    rows = [
        ("corpus", _all(f"{run.record.corpus.name}, {run.record.corpus.rows} {words.rows}" for run in runs)),
        ("its folder", _all(run.record.corpus.folder for run in runs)),
        ("hash of its content", _all(run.record.corpus.hash for run in runs)),
        ("models", _models(runs)),
        (
            " and ".join(QUALITIES[name].label for name in words.qualities),
            _all(r.record.signature for r in runs),
        ),
    ]
    for key in keys_of(run.record.settings for run in runs):
        rows.append((names.get(key, key.replace("_", " ")), _all(run.setting(key) for run in runs)))
    rows.append(("revision", _all(run.revision for run in runs)))
    for key in keys_of(run.provenance for run in runs):
        # Revision and device stand above.
        if key != "device" and "revision" not in key.lower() and not varies(key):
            rows.append((key.replace("_", " "), _all(run.provenance.get(key, MISSING) for run in runs)))
    return Table("measured", "", ("", ""), tuple((Cell(name), Cell(value)) for name, value in rows), words=2)


def _models(runs: Sequence[Run]) -> str:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(", ".join(run.column), []).append(run)
    parts = []
    for name, group in groups.items():
        sizes = ", ".join(map(str, sorted({run.block_size for run in group})))
        seeds = sorted({run.seed for run in group if run.seed is not None})
        known = f", {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}" if seeds else ""
        parts.append(f"{name}: k = {sizes}{known}")
    return "; ".join(parts)


def _all(values: Iterable[object]) -> str:
    """The different values of all runs."""
    return "; ".join(dict.fromkeys(map(str, values)))
