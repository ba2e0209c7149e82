"""The progress of long work: a bar on a terminal, and log lines elsewhere (floor 0)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOGS = 30.0


@contextmanager
def progress_bar(label: str, unit: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show the progress of work on standard error. Yields a function that adds to the count.

    Args:
        label: Names the work, such as "Distilling".
        unit: The unit of the count, such as "rows".
        total: The final count, if it is known.
    """
    console = Console(stderr=True)
    started = logged = time.monotonic()
    done = 0
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn() if total is None else TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total, rate="")

        def add(count: int) -> None:
            nonlocal done, logged
            done += count
            now = time.monotonic()
            rate = done / max(now - started, 1e-9)
            bar.update(task, completed=done, rate=f"{rate:,.1f} {unit}/s")
            if not console.is_terminal and now - logged >= SECONDS_BETWEEN_LOGS:
                logged = now
                of_all, left = "", ""
                if total is not None:
                    of_all = f" of {total:,}"
                    left = f", {max(total - done, 0) / max(rate, 1e-9) / 60:.0f} min left"
                logger.info("%s: %s%s %s, %.1f %s/s%s", label, f"{done:,}", of_all, unit, rate, unit, left)

        yield add
