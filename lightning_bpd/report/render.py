"""A report as one HTML page without scripts or network, as Markdown, and as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from lightning_bpd.report.document import Report
from lightning_bpd.report.figures import COLOURS, draw_panel

FORMAT = 3


def render_page(report: Report) -> str:
    """Render the page, figures included."""
    return _render("page.html.jinja", report, colours=COLOURS, draw=lambda *panel: Markup(draw_panel(*panel)))


def render_markdown(report: Report, page: str = "report.html") -> str:
    """Render Markdown; figures are links to the page that shows them."""
    return _render("report.md.jinja", report, page=page)


def render_json(report: Report) -> str:
    """Render everything that the page shows, with the numbers that it rounds."""
    content = {"format": FORMAT, **asdict(report)}
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _render(template: str, report: Report, **variables: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(("html.jinja",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(kind=lambda block: type(block).__name__, text=_plain)
    return environment.get_template(template).render(report=report, **variables)


def _plain(text: str) -> str:
    """Escape text so that Markdown shows it as it is."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#>])", r"\\\1", text)
