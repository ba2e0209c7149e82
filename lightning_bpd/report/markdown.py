"""The report as Markdown."""

from __future__ import annotations

import re

from lightning_bpd.report.document import Block, Cell, Paragraph, Report, Table


def render_markdown(report: Report, page: str = "report.html") -> str:
    """The whole report; figures are links to the page that shows them."""
    parts = [f"# {_escape(report.title)}"]
    for section in report.sections:
        parts.append(f"## {_escape(section.title)}")
        parts += [_block(block, page) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block, page: str) -> str:
    if isinstance(block, Paragraph):
        text = _escape(block.text)
        return f"> **Note:** {text}" if block.warning else text
    if isinstance(block, Table):
        title = f"### {_escape(block.title)}\n\n" if block.title else ""
        lines = [
            [_escape(column) for column in block.columns],
            ["---" if place < block.words else "---:" for place in range(len(block.columns))],
            *([_cell(cell) for cell in row] for row in block.rows),
        ]
        return title + "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {_escape(block.title)}\n\n[Figure]({page}#{block.name}-figure). {_escape(block.caption)}"


def _cell(cell: Cell) -> str:
    return _escape(cell.text) + (f"<br>{_escape(cell.small)}" if cell.small else "")


def _escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#>])", r"\\\1", text)
