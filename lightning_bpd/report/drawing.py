"""Figures drawn as SVG that scales to its place and takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from lightning_bpd.report.document import Figure, Panel

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 44
LETTER, LINE = 7.1, 12.0  # width and height of a character of a label


class Axes(NamedTuple):
    """The ranges that all panels of a figure share."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: list[float]
    y_ticks: list[float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the drawing."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


class Box(NamedTuple):
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(across, 0.0) * max(down, 0.0)


def draw_panel(figure: Figure, panel: Panel) -> str:
    """One panel as an SVG element. Colours are the page's classes ``s0`` to ``s5``, ``grid`` and ``axis``."""
    axes = axes_of(figure)
    parts = [_frame(figure, axes)]
    boxes: list[Box] = []
    labels: list[tuple[float, float, str, int]] = []
    for series in panel.series:
        points = [axes.place(point.x, point.y) for point in series.points]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if series.dashed else ""
        parts.append(f'<polyline class="s{series.colour % 6}" points="{joined}"{dashes}/>')
        boxes += [Box(x, y, x, y) for line in _along(points) for x, y in line]
        for number, ((x, y), point) in enumerate(zip(points, series.points, strict=True)):
            words = point.label
            if number == len(points) - 1:
                words = f"{words} {series.label}".strip()
            parts.append(_marker(x, y, series.colour % 6, series.dashed))
            boxes.append(Box(x - 4, y - 4, x + 4, y + 4))
            if words:
                labels.append((x, y, words, series.colour % 6))
    # Long labels first: they are the hardest to find a place for.
    for x, y, words, colour in sorted(labels, key=lambda label: -len(label[2])):
        box = _free_box(x, y, words, boxes)
        boxes.append(box)
        parts.append(
            f'<text class="t{colour}" x="{box.left:.1f}" y="{box.bottom - 3:.1f}">{escape(words)}</text>'
        )
    title = escape(f"{figure.title}: {panel.title}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" aria-label="{title}">{"".join(parts)}</svg>'


def axes_of(figure: Figure) -> Axes:
    """Ranges that hold all points of all panels, with some air, and round numbers to mark on them."""
    points = [point for panel in figure.panels for series in panel.series for point in series.points]
    xs, ys = [point.x for point in points], [point.y for point in points]
    if figure.line_at is not None:
        ys.append(figure.line_at)
    x, y = _range(xs, 0.06), _range(ys, 0.10)
    x_ticks = ticks(*x)
    if figure.whole_x:
        step = max(1, math.ceil((max(xs) - min(xs)) / 10))
        x_ticks = [float(each) for each in range(math.ceil(min(xs)), math.floor(max(xs)) + 1, step)]
    return Axes(x, y, x_ticks, ticks(*y))


def _range(values: Sequence[float], air: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * air or max(abs(high) * air, 0.1)
    return low - room, high + room


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers between ``low`` and ``high``, about ``count`` of them."""
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _frame(figure: Figure, axes: Axes) -> str:
    parts = []
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in axes.y_ticks:
        _, y = axes.place(axes.x[0], tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in axes.x_ticks:
        x, _ = axes.place(tick, axes.y[0])
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="axis" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    if figure.line_at is not None:
        _, y = axes.place(axes.x[0], figure.line_at)
        parts.append(f'<line class="one" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="axis" x="{middle:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(figure.x_label)}</text>'
    )
    up = (TOP + bottom) / 2
    parts.append(
        f'<text class="axis" x="12" y="{up:.1f}" text-anchor="middle" transform="rotate(-90 12 {up:.1f})">'
        f"{escape(figure.y_label)}</text>"
    )
    return "".join(parts)


def _marker(x: float, y: float, colour: int, hollow: bool) -> str:
    """A shape for each colour, so that colour alone tells nothing."""
    kind = f"m{colour} hollow" if hollow else f"m{colour}"
    if colour % 3 == 0:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'
    if colour % 3 == 1:
        return f'<rect class="{kind}" x="{x - 3.3:.1f}" y="{y - 3.3:.1f}" width="6.6" height="6.6"/>'
    return f'<path class="{kind}" d="M{x:.1f} {y - 4.6:.1f}l4.4 7.8h-8.8z"/>'


def _along(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Places on the lines between points, so that labels keep off them."""
    lines = []
    for (x1, y1), (x2, y2) in pairwise(points):
        steps = max(1, int(math.hypot(x2 - x1, y2 - y1) / 8))
        lines.append([(x1 + (x2 - x1) * i / steps, y1 + (y2 - y1) * i / steps) for i in range(1, steps)])
    return lines


def _free_box(x: float, y: float, words: str, boxes: Sequence[Box]) -> Box:
    """The place around a point where its label covers least of what is there already, the nearest of equals."""
    width = LETTER * len(words)
    best, least = Box(x, y, x, y), math.inf
    for distance in (8, 14, 22, 32, 44):
        for turn in range(12):
            angle = math.pi * (turn - 3) / 6
            # The label's own extent is added, so that it leans on a ring around the point.
            middle_x = x + math.cos(angle) * (distance + width / 2)
            middle_y = y + math.sin(angle) * (distance + LINE / 4)
            box = Box(middle_x - width / 2, middle_y - LINE / 2, middle_x + width / 2, middle_y + LINE / 2)
            outside = max(0.0, LEFT - box.left) + max(0.0, box.right - WIDTH + 2)
            outside += max(0.0, TOP - box.top) + max(0.0, box.bottom - HEIGHT + BOTTOM)
            # A point of a line has no area; what is widened by a little has.
            cost = outside * 100 + sum(
                box.overlap(Box(b.left - 1, b.top - 1, b.right + 1, b.bottom + 1)) for b in boxes
            )
            cost += distance * 0.6
            if cost < least:
                best, least = box, cost
    return best
