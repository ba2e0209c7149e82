"""The figures of a report: as data, and drawn by matplotlib as SVG that takes its colours from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from lightning_bpd.report.cells import EXACT, Key, Result, columns_of, rules_of, timed_rules
from lightning_bpd.report.document import Figure, Panel, Series
from lightning_bpd.report.runs import Run

Results = dict[Key, Result]

# Okabe and Ito's colours, which colour-blind readers can tell apart, darkened to be readable as text. The page replaces
# them by its own, which differ in the dark.
COLOURS = ("#0072b2", "#c44e00", "#007a59", "#a8487f", "#8a6a00", "#4a4a4a")
_INK, _RULE, _PAPER = "#1c1c1b", "#d9d9d8", "#fffffe"
_VARIABLES = {colour: f"c{number}" for number, colour in enumerate(COLOURS)}
_VARIABLES |= {_INK: "ink", _RULE: "rule", _PAPER: "paper"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), _RULE),
}


def _panels(runs: Sequence[Run], series: Callable[[tuple[str, str]], list[Series]]) -> tuple[Panel, ...]:
    """A panel for each model (regime and data) that has series."""
    found = {", ".join(column): tuple(series(column)) for column in columns_of(runs)}
    return tuple(Panel(title, each) for title, each in found.items() if each)


def trade_figure(results: Results, runs: Sequence[Run]) -> Figure:
    """Quality against mean accepted block size: a panel for each model, a series for each rule, a point for each k."""

    def series(column: tuple[str, str]) -> list[Series]:
        lines = []
        for colour, rule in enumerate(rules_of(runs)):
            if points := _of(results, column, rule):
                x = [each.block_size for each in points.values()]
                y = [each.quality for each in points.values()]
                lines.append(Series(rule, x, y, list(map(str, points)), colour))
        return lines

    return Figure(
        "trade",
        "Quality against block size",
        "Each point is a model, labelled with its k; k = 1 is greedy decoding. Up and to the right is better.",
        "mean accepted block size",
        runs[0].record.words.quality.title,
        _panels(runs, series),
    )


def _of(results: Results, column: tuple[str, str], rule: str) -> dict[int, Result]:
    """The results of one column by one rule, by block size in ascending order."""
    found = [(key.block_size, results[key]) for key in results if (key.column, key.rule) == (column, rule)]
    return dict(sorted(found, key=lambda each: each[0]))


def wall_clock_figure(results: Results, runs: Sequence[Run]) -> Figure:
    """Wall-clock speed-up against k', with the mean accepted block size as a dashed line."""

    def series(column: tuple[str, str]) -> list[Series]:
        lines: list[Series] = []
        for rule in timed_rules(runs):
            found = _of(results, column, rule)
            rows = ((k, each.speed_up, each.block_size) for k, each in found.items())
            timed = [(k, speed_up, size) for k, speed_up, size in rows if speed_up is not None]
            if len(timed) > 1:
                lines += _pair("k' = k" if rule == EXACT else f"k' = k, {rule}", timed, len(lines) // 2)
        own = [run for run in runs if run.column == column]
        largest = max(run.block_size for run in own)
        sweep = _sweep([run for run in own if run.block_size == largest])
        # Greedy decoding and k' = k alone are in the other line already.
        if len(sweep) > 2 or (len(sweep) > 1 and not lines):
            lines += _pair(f"k = {largest}", sweep, max(len(lines) // 2, 1))
        return lines

    return Figure(
        "wall-clock",
        "Wall clock against block size",
        "Solid: wall-clock speed-up over greedy decoding of the same weights. Dashed: mean accepted block size, the "
        "speed-up that decoding would reach if a call over k' tokens and its proposals cost as much as a call over one "
        "token. k' = k: each model decodes with the block size that it was trained for. k = a number: that model with "
        "smaller blocks.",
        "block size k'",
        "times greedy decoding",
        _panels(runs, series),
        whole_x=True,
        line_at=1.0,
    )


def _pair(label: str, rows: list[tuple[int, float, float]], colour: int) -> list[Series]:
    sizes, speed_ups, blocks = (list(map(float, column)) for column in zip(*rows, strict=True))
    return [
        Series(f"speed-up, {label}", sizes, speed_ups, None, colour),
        Series(f"block size, {label}", sizes, blocks, None, colour, dashed=True),
    ]


def _sweep(runs: Sequence[Run]) -> list[tuple[int, float, float]]:
    """k', speed-up and block size, each the mean of the runs, where all of them were timed."""
    rows = []
    for size in sorted({arm.block_size for run in runs for arm in run.record.arms}):
        arms = [run.record.greedy if size == 1 else run.record.arm(size, EXACT) for run in runs]
        timed = [arm for arm in arms if arm and arm.speed_up is not None]
        if len(timed) == len(runs):
            speed_up = fmean(arm.speed_up or 0.0 for arm in timed)
            rows.append((size, speed_up, fmean(arm.mean_accepted_block_size for arm in timed)))
    return rows


def acceptance_figure(runs: Sequence[Run]) -> Figure:
    """Share of iterations that accept at least so many tokens: a panel for each model, a series for each k."""

    def series(column: tuple[str, str]) -> list[Series]:
        lines = []
        for colour, size in enumerate(sorted({run.block_size for run in runs if run.block_size > 1})):
            of_size = [run.record for run in runs if (run.column, run.block_size) == (column, size)]
            curves = [arm.acceptance_by_position for each in of_size if (arm := each.arm(size, EXACT))]
            if curves:
                means = [fmean(shares) for shares in zip(*curves, strict=True)]
                lines.append(Series(f"k = {size}", list(map(float, range(1, size + 1))), means, None, colour))
        return lines

    return Figure(
        "acceptance",
        "Acceptance by position",
        "Share of iterations that accept at least so many tokens, by the exact rule at k' = k. The first token is p₁'s "
        "own and always accepted.",
        "tokens",
        "share of iterations",
        _panels(runs, series),
        whole_x=True,
    )


def draw_panel(figure: Figure, panel: Panel) -> str:
    """Draw one panel as an SVG element; all panels of a figure have the same limits."""
    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(4.4, 3.1), layout="constrained")
        axes = canvas.subplots()
        if figure.line_at is not None:
            axes.axhline(figure.line_at, color=_INK, lw=0.8)
        for series in panel.series:
            colour, marker = COLOURS[series.colour % len(COLOURS)], "os^Dv*"[series.colour % 6]
            style, face = ("--", _PAPER) if series.dashed else ("-", colour)
            looks: dict[str, Any] = {"marker": marker, "color": colour, "mfc": face, "label": series.label}
            axes.plot(series.x, series.y, style, ms=4.5, lw=1.5, **looks)
            place: dict[str, Any] = {
                "xytext": (4, 4),
                "textcoords": "offset points",
                "annotation_clip": False,
            }
            for x, y, text in zip(series.x, series.y, series.marks or (), strict=False):
                axes.annotate(text, (x, y), color=colour, **place)
        lines = [line for each in figure.panels for line in each.series]
        ys = [y for line in lines for y in line.y] + ([] if figure.line_at is None else [figure.line_at])
        axes.set(xlabel=figure.x_label, ylabel=figure.y_label)
        axes.set(xlim=_limits([x for line in lines for x in line.x]), ylim=_limits(ys, 0.1))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=figure.whole_x))
        axes.grid(alpha=0.6, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0)
        if len(panel.series) > 1 or not panel.series[0].marks:
            axes.legend(frameon=False, fontsize=8)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), f"{figure.title}: {panel.title}", f"{figure.name}-{panel.title}")


def _limits(values: Sequence[float], air: float = 0.06) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * air or max(abs(high) * air, 0.1)
    return low - room, high + room


def _inline(svg: str, label: str, name: str) -> str:
    """Make matplotlib's file an element of a page: it scales, and uses the page's fonts and colours."""
    opening, _, content = svg[svg.index("<svg") :].partition(">")
    view = re.search(r'viewBox="[^"]*"', opening)
    assert view is not None
    # An id must be unique in the page.
    prefix = re.sub(r"\W+", "-", name)
    for pattern, replacement in (
        (r"(?s)<metadata>.*?</metadata>|<!--.*?-->", ""),
        (r"xlink:href", "href"),
        (r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px"),
        (r"font-family: [^;\"]*;? ?", ""),
        (r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-"),
        *((colour, f"var(--{variable})") for colour, variable in _VARIABLES.items()),
        (r"\n\s*", "\n"),
    ):
        content = re.sub(pattern, replacement, content)
    return f'<svg {view[0]} width="100%" role="img" aria-label="{escape(label)}">{content}'.strip()
