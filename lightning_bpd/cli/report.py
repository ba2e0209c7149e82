"""report: what `compare` measured, as tables and figures."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import InputError
from lightning_bpd.report.data import read_runs
from lightning_bpd.report.markdown import render_markdown
from lightning_bpd.report.page import render_page
from lightning_bpd.report.sections import make_report

logger = logging.getLogger(__name__)


def report(runs: list[str], output: str = "report", corpus: str | None = None, resamples: int = 1000) -> None:
    """Make tables and figures of what `compare` measured: report.html, report.md and report.json.

    Args:
        runs: Folders with compare_CORPUS.json files, or folders of such folders, as a grid makes them.
        output: Folder to write; a report that is there is replaced.
        corpus: Which corpus to report on; need not be given where there is only one.
        resamples: Draws of each bootstrap, at least 100.
    """
    if resamples < 100:
        raise InputError(f"--resamples {resamples} is too few for a 95 % interval: give at least 100")
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {output} is a file: give a folder")
    read, left_out = read_runs(runs, corpus)
    logger.info("%d models on %s; comparing their output", len(read), read[0].corpus["name"])
    made = make_report(read, left_out, resamples)
    write_atomically(folder / "report.html", render_page(made))
    write_atomically(folder / "report.md", render_markdown(made))
    plain = {"format": 2, **asdict(made)}
    write_atomically(
        folder / "report.json", json.dumps(plain, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    )
    sys.stdout.write(f"{folder / 'report.html'}\n{folder / 'report.md'}\n{folder / 'report.json'}\n")
