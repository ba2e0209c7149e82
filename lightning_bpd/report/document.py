"""The parts of a report as plain data: text, tables and figures. Pages are rendered from it; it is also the JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


def make_table(
    name: str,
    title: str,
    items: Iterable[Any],
    columns: Mapping[str, Callable[[Any], Cell | str]],
    words: int = 1,
    folded: bool = False,
) -> Table:
    """Make a table with a row for each item, without the columns that hold no data in any row.

    Args:
        name: In links to the table.
        title: Above the table.
        items: One a row.
        columns: By title, the function that makes a cell from an item.
        words: How many of the first columns hold text.
        folded: Whether it is shown on demand.
    """
    items = list(items)
    made = {title: [make(item) for item in items] for title, make in columns.items()}
    cells = {
        title: [Cell(each) if isinstance(each, str) else each for each in column]
        for title, column in made.items()
    }
    kept = {title: column for title, column in cells.items() if any(each.text != MISSING for each in column)}
    texts = sum(title in kept for title in list(columns)[:words])
    return Table(name, title, tuple(kept), tuple(zip(*kept.values(), strict=True)), texts, folded)


def number(value: float | None, digits: int = 2) -> Cell:
    """A cell with a number, or a dash if there is none."""
    return Cell(MISSING if value is None else f"{value:.{digits}f}", "", {"value": value})


def count(value: int | None) -> Cell:
    """A cell with a whole number, or a dash."""
    return Cell(MISSING if value is None else str(value), "", {"value": value})


def percent(value: float | None) -> Cell:
    """A cell with a share in percent, or a dash."""
    return Cell(MISSING if value is None else f"{value:.1%}", "", {"value": value})


def signed(value: float, digits: int = 2) -> str:
    """Format a difference: always with its sign, never a negative zero."""
    rounded = round(value, digits) + 0.0
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else '±'}{abs(rounded):.{digits}f}"


def span(values: Sequence[float], digits: int = 2) -> str:
    """Format the least and the greatest of some numbers; one number if both round to equal text."""
    return "–".join(dict.fromkeys(f"{value:.{digits}f}" for value in (min(values), max(values))))
