"""The distribution of accepted block sizes as a CSV file that survives interruptions."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from lightning_bpd.files import write_atomically
from lightning_bpd.metrics import shares, shares_at_least

COLUMNS = ["step", "stage", "rule", "size", "iterations", "share", "share_at_least"]

Row = dict[str, str]


def add_sizes(path: Path, step: int, stage: str, counts: Mapping[str, Tensor]) -> None:
    """Add the counts of one pass over a corpus, and replace those of the same step, stage and rule in the file.

    Args:
        path: The file; it need not exist.
        step: Optimiser steps that the weights have taken.
        stage: ``val`` or ``test``.
        counts: For each rule, the number of iterations with each accepted block size, int64 [K + 1].
    """
    rows = [
        dict(
            zip(
                COLUMNS,
                map(str, (step, stage, rule, size, count, f"{exactly:.6f}", f"{at_least:.6f}")),
                strict=True,
            )
        )
        for rule, of_rule in counts.items()
        for size, (count, exactly, at_least) in enumerate(
            zip(of_rule.tolist(), shares(of_rule), shares_at_least(of_rule), strict=True)
        )
        if size
    ]
    measured = {(str(step), stage, rule) for rule in counts}
    _rewrite(path, lambda row: (row["step"], row["stage"], row["rule"]) not in measured, rows)


def forget_after(path: Path, step: int) -> None:
    """Drop validations after ``step``: a resumed run takes these steps again."""
    if path.is_file():
        _rewrite(path, lambda row: row["stage"] != "val" or int(row["step"]) <= step, [])


def _rewrite(path: Path, keeps: Callable[[Row], bool], new: list[Row]) -> None:
    old: list[Row] = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            old = list(csv.DictReader(file))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows([row for row in old if keeps(row)] + new)
    write_atomically(path, text.getvalue())
