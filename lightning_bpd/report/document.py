"""What a report is made of, as plain data: text, tables and figures. Pages are drawn from it, and it is their JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MISSING = "–"
"""Shown where nothing was measured."""


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    small: str = ""
    """small print below the text"""
    numbers: dict[str, Any] = field(default_factory=dict)
    """all that the text was rounded from"""


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns."""

    name: str
    """as links to it say"""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int = 1
    """how many of the first columns are words; the others are numbers"""
    folded: bool = False
    """so long that it is shown on demand"""


@dataclass(frozen=True)
class Point:
    """A point of a figure."""

    x: float
    y: float
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points joined by a line."""

    label: str
    """stands at the last point"""
    points: tuple[Point, ...]
    colour: int = 0
    """0..5: colour and marker"""
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Figure:
    """Panels that share their axes."""

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    panels: tuple[Panel, ...]
    whole_x: bool = False
    """x is counted: ticks at whole numbers only"""
    line_at: float | None = None
    """a thin line across, such as where nothing is gained"""


Block = Paragraph | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """The whole of it."""

    title: str
    sections: tuple[Section, ...]


def number(value: float | None, digits: int = 2) -> str:
    """A number as it is shown; a dash where there is none."""
    return MISSING if value is None else f"{value:.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """A difference as it is shown: always with its sign, never a negative zero."""
    rounded = round(value, digits) + 0.0
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else '±'}{abs(rounded):.{digits}f}"


def span(values: list[float], digits: int = 2) -> str:
    """The least and the greatest of some numbers; one number where they look alike."""
    return "–".join(dict.fromkeys(f"{value:.{digits}f}" for value in (min(values), max(values))))
