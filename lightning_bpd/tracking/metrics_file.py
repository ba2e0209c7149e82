"""Metrics as a CSV file that survives interruptions."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from lightning_bpd.faults import damaged
from lightning_bpd.files import append_to_file, write_atomically


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics file, in order, without empty cells. A missing file has no rows."""
    if not path.is_file():
        return []
    with (
        damaged(path, "move it away, or repair the line"),
        path.open(encoding="utf-8", newline="") as file,
    ):
        # A last line without a line feed was incomplete when the run was killed.
        rows = csv.DictReader(line for line in file.readlines() if line.endswith("\n"))
        return [{name: float(value) for name, value in row.items() if value} for row in rows]


class MetricsFile(Logger):
    """Writes every logged row to ``<folder>/metrics.csv`` at once.

    An existing file belongs to the resumed run. Its rows stay, except rows of steps that this run takes again.
    (Lightning's own CSVLogger would erase the file.)

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """Always empty: a run has one metrics file."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder. Lightning stores all other files in the folder of the first logger."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml holds the hyper-parameters."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row."""
        assert step is not None, "Lightning always gives the step"
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        if self._columns is None:
            # The training row of a step may be older than the checkpoint, and its validation row newer.
            new = row.keys() - {"step", "epoch"}
            old = read_metrics(self.path)
            self._rewrite(
                [r for r in old if r["step"] < step or (r["step"] == step and not new & r.keys())] + [row]
            )
        elif not row.keys() <= set(self._columns):
            self._rewrite([*read_metrics(self.path), row])
        else:
            line = io.StringIO(newline="")
            csv.DictWriter(line, self._columns).writerow(row)
            append_to_file(self.path, line.getvalue())

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        names = {name for row in rows for name in row} - {"step", "epoch"}
        self._columns = ["step", "epoch", *sorted(names)]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "step": int(row["step"])})
        write_atomically(self.path, text.getvalue())
