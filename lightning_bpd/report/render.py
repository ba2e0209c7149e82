"""A report as one HTML page without scripts or network, as Markdown, and as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lightning_bpd.report.document import Report
from lightning_bpd.report.figures import COLOURS, draw_panel

FORMAT = 3


def render_page(report: Report) -> str:
    """Render the page, figures included."""
    environment = _environment()
    environment.globals["draw"] = lambda figure, panel: Markup(draw_panel(figure, panel))
    return environment.get_template("page.html.jinja").render(report=report, colours=COLOURS)


def render_markdown(report: Report, page: str = "report.html") -> str:
    """Render Markdown; figures are links to the page that shows them."""
    environment = _environment(autoescape=False)
    environment.filters["text"] = _plain
    return environment.get_template("report.md.jinja").render(report=report, page=page)


def render_json(report: Report) -> str:
    """Render everything that the page shows, with the numbers that it rounds."""
    return (
        json.dumps({"format": FORMAT, **asdict(report)}, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    )


def _environment(autoescape: bool = True) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment


def _plain(text: str) -> str:
    """Escape text so that Markdown shows it as it is."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#>])", r"\\\1", text)
