"""report: tables and figures of the measurements of `compare`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import InputError
from lightning_bpd.report.render import render_json, render_markdown, render_page
from lightning_bpd.report.runs import read_runs
from lightning_bpd.report.sections import make_report

logger = logging.getLogger(__name__)


def report(runs: list[str], output: str = "report", corpus: str | None = None, resamples: int = 1000) -> None:
    """Make tables and figures of what `compare` measured: report.html, report.md and report.json.

    Args:
        runs: Folders with compare_CORPUS.json files, or folders of such folders, as a grid makes them.
        output: Folder to write; a report that is there is replaced.
        corpus: The corpus to report on; not needed if there is only one.
        resamples: Draws of each bootstrap, at least 100.
    """
    if resamples < 100:
        raise InputError(f"--resamples {resamples} is too few for a 95 % interval: give at least 100")
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {output} is a file: give a folder")
    read, left_out = read_runs(runs, corpus)
    logger.info("%d models on %s; comparing their output", len(read), read[0].record.corpus.name)
    made = make_report(read, left_out, resamples)
    for name, content in (
        ("report.html", render_page(made)),
        ("report.md", render_markdown(made)),
        ("report.json", render_json(made)),
    ):
        write_atomically(folder / name, content)
        sys.stdout.write(f"{folder / name}\n")
