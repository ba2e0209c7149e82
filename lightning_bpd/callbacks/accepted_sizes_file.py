"""The distribution of accepted block sizes as a CSV file that survives interruptions."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from lightning_bpd.files import write_atomically
from lightning_bpd.metrics import shares, shares_at_least

COLUMNS = ["step", "stage", "rule", "size", "iterations", "share", "share_at_least"]

Row = Sequence[str]


def add_sizes(path: Path, step: int, stage: str, counts: Mapping[str, Tensor]) -> None:
    """Add the counts of one pass over a corpus, and replace those of the same step, stage and rule in the file.

    Args:
        path: The file; it need not exist.
        step: Optimiser steps that the weights have taken.
        stage: ``val`` or ``test``.
        counts: For each rule, the number of iterations with each accepted block size, int64 [K + 1].
    """
    new: list[Row] = []
    for rule, of_rule in counts.items():
        columns = zip(of_rule.tolist(), shares(of_rule), shares_at_least(of_rule), strict=True)
        for size, (count, exactly, at_least) in list(enumerate(columns))[1:]:
            new.append((str(step), stage, rule, str(size), str(count), f"{exactly:.6f}", f"{at_least:.6f}"))
    _rewrite(path, lambda row: row[0] != str(step) or row[1] != stage or row[2] not in counts, new)


def forget_after(path: Path, step: int) -> None:
    """Drop validations after ``step``: a resumed run takes these steps again."""
    if path.is_file():
        _rewrite(path, lambda row: row[1] != "val" or int(row[0]) <= step, [])


def _rewrite(path: Path, keeps: Callable[[Row], bool], new: Sequence[Row]) -> None:
    old: Sequence[Row] = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            old = list(csv.reader(file))[1:]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *filter(keeps, old), *new])
    write_atomically(path, text.getvalue())
