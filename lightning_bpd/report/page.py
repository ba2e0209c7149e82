"""The report as one HTML page that needs nothing else: no network, no scripts."""

from __future__ import annotations

from html import escape

from lightning_bpd.report.document import Block, Cell, Figure, Paragraph, Report, Table
from lightning_bpd.report.drawing import draw_panel

# Okabe and Ito's colours, which colour-blind readers can tell apart, darkened where they are to be read as text.
LIGHT = ("#0072b2", "#c44e00", "#007a59", "#a8487f", "#8a6a00", "#4a4a4a")
DARK = ("#56b4e9", "#ff9d5c", "#3ccf9f", "#e79cc6", "#f0c040", "#b8b8b8")

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1c; --soft: #666; --rule: #d9d9d9; --warn: #fff6e0;
LIGHT }
@media (prefers-color-scheme: dark) {
:root { --paper: #15171a; --ink: #e4e4e4; --soft: #9d9d9d; --rule: #383b40; --warn: #33290f; DARK } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; -webkit-text-size-adjust: 100% }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1rem; font-weight: 600; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 3rem 0 .75rem; font-weight: 600; border-top: 1px solid var(--rule);
  padding-top: 1.25rem }
h3 { font-size: 1rem; margin: 1.75rem 0 .4rem; font-weight: 600 }
p, nav { max-width: 44rem; margin: .75rem 0 }
nav { color: var(--soft) }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: .15em }
p.warning { background: var(--warn); padding: .75rem 1rem; border-left: 3px solid var(--c4); overflow-wrap: anywhere }
.box { overflow-x: auto; margin: .4rem 0 1.25rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; line-height: 1.35 }
th, td { padding: .35rem .6rem; text-align: right; vertical-align: top; white-space: nowrap }
th { font-weight: 600; border-bottom: 1px solid var(--ink); vertical-align: bottom; white-space: normal;
  min-width: 4rem }
td { border-bottom: 1px solid var(--rule) }
th.words, td.words { text-align: left; padding-left: 0 }
#measured-table td:last-child { white-space: normal; overflow-wrap: anywhere }
#measured-table td:first-child { color: var(--soft); min-width: 8rem; white-space: normal }
small { display: block; color: var(--soft); font-size: .78rem }
summary { cursor: pointer; margin: 1.25rem 0 .4rem; font-weight: 600 }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem 2rem }
.panels > div { max-width: 36rem }
.panels h4 { margin: .5rem 0 0; font-size: .9rem; font-weight: 600 }
figure { margin: 0 0 2rem }
figcaption { color: var(--soft); font-size: .9rem; max-width: 44rem }
svg { display: block; font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; height: auto }
svg .grid { stroke: var(--rule); stroke-width: .6 }
svg .one { stroke: var(--soft); stroke-width: 1 }
svg .axis { fill: var(--soft) }
svg polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round }
svg .hollow { fill: var(--paper) }
"""


def render_page(report: Report) -> str:
    """The whole page."""
    contents = " · ".join(
        f'<a href="#{escape(each.name)}">{escape(each.title)}</a>' for each in report.sections
    )
    body = [f"<h1>{escape(report.title)}</h1>", f"<nav>{contents}</nav>"]
    for section in report.sections:
        body.append(f'<section id="{escape(section.name)}">\n<h2>{escape(section.title)}</h2>')
        body += [_block(block) for block in section.blocks]
        body.append("</section>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{_style()}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _style() -> str:
    rules = "".join(
        f"svg .s{n} {{ stroke: var(--c{n}) }} svg .t{n} {{ fill: var(--c{n}) }} "
        f"svg .m{n} {{ fill: var(--c{n}); stroke: var(--c{n}); stroke-width: 1.4 }}\n"
        for n in range(len(LIGHT))
    )
    light, dark = (
        "".join(f"--c{n}: {each}; " for n, each in enumerate(colours)) for colours in (LIGHT, DARK)
    )
    # Hollow markers come after the filled ones that they would otherwise lose to.
    head, hollow, _ = (
        STYLE.replace("LIGHT", light).replace("DARK", dark).partition("svg .hollow { fill: var(--paper) }\n")
    )
    return head + rules + hollow


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        kind = ' class="warning" role="note"' if block.warning else ""
        return f"<p{kind}>{escape(block.text)}</p>"
    return _table(block) if isinstance(block, Table) else _figure(block)


def _table(table: Table) -> str:
    def cell(tag: str, place: int, content: str) -> str:
        kind = ' class="words"' if place < table.words else ""
        return f"<{tag}{kind}>{content}</{tag}>"

    head = ""
    if any(table.columns):
        columns = "".join(cell("th", place, escape(name)) for place, name in enumerate(table.columns))
        head = f"<thead><tr>{columns}</tr></thead>"
    rows = "\n".join(
        f"<tr>{''.join(cell('td', place, _cell(each)) for place, each in enumerate(row))}</tr>"
        for row in table.rows
    )
    label = escape(table.title or table.name)
    box = (
        f'<div class="box" role="region" aria-label="{label}" tabindex="0"><table id="{escape(table.name)}-table">'
        f"{head}<tbody>\n{rows}\n</tbody></table></div>"
    )
    if table.folded:
        return f"<details><summary>{label} ({len(table.rows)} rows)</summary>{box}</details>"
    return f"<h3>{escape(table.title)}</h3>{box}" if table.title else box


def _cell(cell: Cell) -> str:
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    return escape(cell.text) + small


def _figure(figure: Figure) -> str:
    panels = "".join(
        f"<div><h4>{escape(panel.title)}</h4>{draw_panel(figure, panel)}</div>" for panel in figure.panels
    )
    return (
        f'<figure id="{escape(figure.name)}-figure"><h3>{escape(figure.title)}</h3>'
        f'<div class="panels">{panels}</div><figcaption>{escape(figure.caption)}</figcaption></figure>'
    )
