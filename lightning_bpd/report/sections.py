"""The report: what is said, in which order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from lightning_bpd.measuring.words import QUALITIES
from lightning_bpd.report.cells import EXACT, Place, Result, gather, measure, rules_of, timed_rules
from lightning_bpd.report.data import Arm, Run
from lightning_bpd.report.document import MISSING, Block, Cell, Paragraph, Report, Section, Table
from lightning_bpd.report.figures import acceptance_figure, trade_figure, wall_clock_figure
from lightning_bpd.report.prediction import Choice, best_measured, predict
from lightning_bpd.report.statistics import bleu_of, psnr
from lightning_bpd.report.tables import (
    arms_table,
    best_table,
    certainty_table,
    prediction_table,
    quality_table,
    revision,
    runs_table,
    short,
    speed_table,
)

# What may differ between runs without making them less comparable.
VARIES = ("time", "date", "command", "seconds", "started", "host")


def make_report(runs: Sequence[Run], left_out: Sequence[str] = (), resamples: int = 1000) -> Report:
    """The report on runs that were measured on one corpus.

    Args:
        runs: As ``read_runs`` gives them.
        left_out: Sentences on what was not read.
        resamples: Draws of each bootstrap.
    """
    results = measure(gather(runs), resamples)
    return Report(
        f"Blockwise parallel decoding on {runs[0].corpus['name']}",
        (
            Section("measured", "What was measured", _measured(runs, left_out)),
            Section("quality", "Quality and block size", _quality(results, runs, resamples)),
            Section(
                "speed",
                "Wall clock",
                (
                    _frozen(results),
                    *(speed_table(results, runs, rule) for rule in timed_rules(runs)),
                    Paragraph(SPEED_WORDS),
                ),
            ),
            Section(
                "figures",
                "Figures",
                tuple(
                    figure
                    if figure.panels
                    else Paragraph(f"{figure.title}: nothing was measured to draw it from.")
                    for figure in (
                        trade_figure(results, runs),
                        wall_clock_figure(results, runs),
                        acceptance_figure(runs),
                    )
                ),
            ),
            Section("best", "Best block size for this machine", _best(runs)),
            Section("settings", "Settings of every number", (runs_table(runs), arms_table(runs))),
        ),
    )


SPEED_WORDS = (
    "Speed-up is the time of greedy decoding of the same weights over that of blockwise decoding, in batches of the "
    "size that is named above. Efficiency is speed-up over mean accepted block size; 1 is the ideal. Of several seeds: "
    "the mean, and the least and the greatest in small print."
)


def _measured(runs: Sequence[Run], left_out: Sequence[str]) -> tuple[Block, ...]:
    words = runs[0].words
    rows = [
        ("corpus", _all(f"{run.corpus['name']}, {run.count} {words.rows}" for run in runs)),
        ("its folder", _all(run.corpus["folder"] for run in runs)),
        ("hash of its content", _all(run.corpus["hash"] for run in runs)),
        ("models", _models(runs)),
        (
            " and ".join(QUALITIES[name].label for name in words.qualities),
            _all(run.signature for run in runs),
        ),
    ]
    for key in _keys(run.settings for run in runs):
        name = SETTINGS.get(key, key.replace("_", " ")).format(rows=words.rows)
        rows.append((name, _all(_setting(run, key) for run in runs)))
    rows.append(("revision", _all(short(revision(run)) for run in runs)))
    for key in _keys(run.provenance for run in runs):
        # Revision and device stand above.
        if key != "device" and "revision" not in key.lower() and not _varies(key):
            rows.append((key.replace("_", " "), _all(run.provenance.get(key, MISSING) for run in runs)))
    table = Table("measured", "", ("", ""), tuple((Cell(name), Cell(value)) for name, value in rows), words=2)
    differing = differences(runs)
    blocks: list[Block] = [table]
    if differing:
        text = "These runs were not measured with equal settings, so their numbers are not quite comparable. "
        blocks.append(Paragraph(text + " ".join(differing), warning=True))
    doubts = [*unequal_scores(runs), *left_out]
    if doubts:
        blocks.append(Paragraph(" ".join(doubts), warning=True))
    return tuple(blocks)


SETTINGS = {
    "batch_size": "batch, quality and block sizes",
    "timed_rows": "{rows} timed",
    "timed_batch_size": "batch, timed",
    "extra_length": "tokens beyond the source's length",
}


def differences(runs: Sequence[Run]) -> list[str]:
    """A sentence for each setting in which the runs differ, saying which run has which."""
    parts = [
        ("corpus hash", [run.corpus["hash"] for run in runs]),
        (runs[0].words.rows, [str(run.count) for run in runs]),
        ("signature of quality", [run.signature for run in runs]),
    ]
    for key in _keys(run.settings for run in runs):
        parts.append((key, [_setting(run, key) for run in runs]))
    for key in _keys(run.provenance for run in runs):
        if not _varies(key):
            parts.append((key, [run.provenance.get(key, MISSING) for run in runs]))
    sentences = []
    for name, values in parts:
        groups: dict[str, list[str]] = {}
        for run, value in zip(runs, values, strict=True):
            groups.setdefault(value, []).append(run.name)
        if len(groups) > 1:
            # The many need no names once the few have theirs.
            most = max(groups, key=lambda each: len(groups[each]))
            few = [f"{each} in {', '.join(names)}" for each, names in groups.items() if each != most]
            words = name[0].upper() + name[1:].replace("_", " ")
            sentences.append(f"{words}: {most} in {len(groups[most])} of {len(runs)}, {'; '.join(few)}.")
    if len({run.references for run in runs}) > len({run.corpus["hash"] for run in runs}):
        sentences.append("The references differ where the corpus is said to be the same.")
    return sentences


def unequal_scores(runs: Sequence[Run]) -> list[str]:
    """A sentence for each run whose numbers do not follow from the outputs and counts beside them."""
    sentences = []
    for run in runs:
        wrong = []
        # By the exact rule the same for every k', and slow to compute of text.
        scores: dict[tuple[tuple[Any, ...], ...], dict[str, float]] = {}
        for arm in run.arms:
            key = tuple(arm.rows.values())
            if key not in scores:
                scores[key] = _scores(run, arm)
            ratio = sum(arm.tokens) / sum(arm.iterations)
            unequal = any(abs(value - arm.quality[name]) > 0.01 for name, value in scores[key].items())
            if unequal or abs(ratio - arm.mean_accepted_block_size) > 0.005:
                wrong.append(f"{arm.decoder} k' = {arm.block_size}, {arm.acceptance}")
        if wrong:
            sentences.append(
                f"{run.name}: quality or block size is not what its outputs and counts give ({'; '.join(wrong)})."
            )
    return sentences


def _scores(run: Run, arm: Arm) -> dict[str, float]:
    """The quality of an arm, computed again of what it says of its rows."""
    if run.kind == "text":
        metric = bleu_of(run.signature)
        outputs = list(arm.rows["outputs"])
        return {"bleu": metric.corpus_score(outputs, [list(run.references)]).score}
    scores = {"psnr": float(psnr(sum(arm.rows["squared_errors"]), run.count * run.intensities))}
    if "ssims" in arm.rows:
        scores["ssim"] = fmean(arm.rows["ssims"])
    return scores


def _quality(results: dict[Place, Result], runs: Sequence[Run], resamples: int) -> tuple[Block, ...]:
    words = runs[0].words
    label = words.quality.label
    blocks: list[Block] = [
        Paragraph(
            f"Rows are the block size k that a model was trained for and decodes with (k' = k). A cell is {label} / "
            "mean accepted block size; of several seeds their mean, and in small print how many there are, the least "
            "and the greatest. What was not measured is –. Frozen heads leave the base as it is, so their k = 1 is "
            "the base itself."
        ),
        quality_table(results, runs, EXACT),
        certainty_table(results, runs, EXACT),
        Paragraph(
            f"Intervals are 95 % bootstrap intervals over {words.rows} ({resamples} draws, each the ratio of its "
            f"sums). They say how much depends on these {words.rows}, not on the seed of the training. {label} "
            "differences are to k = 1 of the same column, or to the base where it has none, with p by "
            f"{words.test}, one p a seed; p = 1 where the output is the same. {_baselines(results)}"
        ),
    ]
    for rule in rules_of(runs):
        if rule != EXACT and any(place.rule == rule for place in results):
            blocks += [quality_table(results, runs, rule), certainty_table(results, runs, rule)]
    return tuple(blocks)


def _baselines(results: dict[Place, Result]) -> str:
    """Which models the k = 1 of each column are."""
    sentences = []
    columns = dict.fromkeys((place.regime, place.data) for place in results)
    for regime, data in sorted(columns):
        names: list[str] = []
        for place, result in results.items():
            if (place.regime, place.data) == (regime, data) and place.block_size > 1:
                names += result.baselines
        found = ", ".join(sorted(set(names))) or "no run, so there are no differences"
        if any(place[:2] == (regime, data) and place.block_size > 1 for place in results):
            sentences.append(f"For {regime}, {data} that is {found}.")
    return " ".join(sentences)


def _frozen(results: dict[Place, Result]) -> Paragraph:
    measured = []
    for regime, data in dict.fromkeys((place.regime, place.data) for place in results):
        speeds = [
            f"{result.speed_up:.2f} at k = {place.block_size}"
            for place, result in sorted(results.items(), key=lambda item: item[0].block_size)
            if regime == "frozen"
            and place[:3] == (regime, data, EXACT)
            and place.block_size > 1
            and result.speed_up is not None
        ]
        if speeds:
            measured.append(f"{data} data, {', '.join(speeds)}")
    text = (
        "Wall clock of the frozen base with exact acceptance, "
        "the only setting that keeps the original model's output"
    )
    if not measured:
        return Paragraph(f"{text}: the paper does not report it, and it was not measured here either.")
    return Paragraph(f"{text} (the paper does not report it): {'; '.join(measured)}.")


def _best(runs: Sequence[Run]) -> tuple[Block, ...]:
    table = best_table(runs)
    if not table.rows:
        return (Paragraph("No model with heads has costs and replay, so nothing can be predicted."),)
    blocks: list[Block] = [
        Paragraph(
            f"Predicted seconds {runs[0].words.a_row}: start + calls × cost of a call over k' tokens + iterations × "
            "cost of k' − 1 proposals. Iterations come from the replay of greedy output, calls are iterations + 1; "
            "greedy decoding (k' = 1) makes one call a token. Costs are medians, measured on this machine for a batch "
            "of one."
        )
    ]
    fastest: tuple[Choice, Run] | None = None
    for run in runs:
        choices = predict(run)
        best = best_measured(choices) if choices else None
        if best is not None and (fastest is None or (best.measured or 0) > (fastest[0].measured or 0)):
            fastest = (best, run)
    if fastest is not None and fastest[0].block_size == 1:
        blocks.append(Paragraph("No blockwise decoding that was timed is faster than greedy decoding here."))
    elif fastest is not None:
        choice, run = fastest
        blocks.append(
            Paragraph(
                f"Fastest of all that was timed by the exact rule: {run.name} at k' = {choice.block_size}, "
                f"{choice.measured:.2f} times as fast as its greedy decoding."
            )
        )
    return (*blocks, table, prediction_table(runs))


def _models(runs: Sequence[Run]) -> str:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(f"{run.regime}, {run.data}", []).append(run)
    parts = []
    for name, group in groups.items():
        sizes = sorted({run.block_size for run in group})
        seeds = sorted({run.seed for run in group if run.seed is not None})
        several = "seeds" if len(seeds) > 1 else "seed"
        known = f", {several} {', '.join(map(str, seeds))}" if seeds else ""
        parts.append(f"{name}: k = {', '.join(map(str, sizes))}{known}")
    return "; ".join(parts)


def _all(values: Iterable[object]) -> str:
    """What the runs say, each answer once."""
    return "; ".join(dict.fromkeys(map(str, values)))


def _keys(records: Iterable[dict[str, Any]]) -> list[str]:
    """The keys of all records, in their order, each once."""
    return list(dict.fromkeys(key for record in records for key in record))


def _setting(run: Run, key: str) -> str:
    value = run.settings.get(key, MISSING)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _varies(key: str) -> bool:
    return any(word in key.lower() for word in VARIES)
