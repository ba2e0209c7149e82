"""The parts of a report as plain data: text, tables and figures. Pages are rendered from it; it is also the JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MISSING = "–"
"""Shown where nothing was measured."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str
    kind: str = ""
    """``answer`` for the first paragraph, ``warning`` for doubts"""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    small: str = ""
    """small print below the text"""
    numbers: dict[str, Any] = field(default_factory=dict)
    """all numbers that the text shows rounded"""


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int = 1
    """how many of the first columns hold text; the others hold numbers"""
    folded: bool = False
    """whether the table is shown on demand, because it is long"""


@dataclass(frozen=True)
class Series:
    """Points joined by a line."""

    label: str
    x: list[float]
    y: list[float]
    marks: list[str] | None = None
    """a text at each point"""
    colour: int = 0
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
    """whether x is a count"""
    line_at: float | None = None
    """the y of a thin horizontal line, such as the line of no gain"""


Block = Paragraph | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """The whole report."""

    title: str
    sections: tuple[Section, ...]


Value = Cell | str | float | None
"""What a row of ``make_table`` holds: a cell, a text, a count (int), a number (float), or None if it is missing."""


def make_table(
    name: str, title: str, rows: Iterable[Mapping[str, Value]], words: int = 1, folded: bool = False
) -> Table:
    """Make a table and leave out the columns that hold no data in any row.

    Args:
        name: The name in links to the table.
        title: The title above the table.
        rows: The values of each row by column title. All rows have the same titles in the same order. Floats are shown
            with two decimals.
        words: Number of first columns that hold text.
        folded: Whether the table is shown on demand.
    """
    cells = [{title: make_cell(value) for title, value in row.items()} for row in rows]
    titles = list(cells[0]) if cells else []
    kept = [title for title in titles if any(row[title].text != MISSING for row in cells)]
    texts = sum(title in kept for title in titles[:words])
    return Table(
        name, title, tuple(kept), tuple(tuple(row[title] for title in kept) for row in cells), texts, folded
    )


def make_cell(value: Value, form: str = ".2f") -> Cell:
    """Make a cell; it shows a float in the given format, and a dash for None."""
    if isinstance(value, Cell):
        return value
    if isinstance(value, str):
        return Cell(value)
    text = MISSING if value is None else str(value) if isinstance(value, int) else format(value, form)
    return Cell(text, "", {"value": value})


def signed(value: float, digits: int = 2) -> str:
    """Format a difference: always with its sign, never a negative zero."""
    rounded = round(value, digits) + 0.0
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else '±'}{abs(rounded):.{digits}f}"


def span(values: Sequence[float], digits: int = 2) -> str:
    """Format the smallest and the largest number; one number if both round to the same text."""
    return "–".join(dict.fromkeys(f"{value:.{digits}f}" for value in (min(values), max(values))))
