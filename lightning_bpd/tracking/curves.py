"""Learning curves as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_bpd.tracking.metrics_file import read_metrics


def draw_curves(metrics: Path, picture: Path, bleu_label: str = "BLEU") -> None:
    """Draw loss and BLEU against optimiser steps, from a metrics file to a PNG file.

    Args:
        metrics: The run's metrics.csv.
        picture: The file to write.
        bleu_label: What to call the BLEU axis, such as how its output was decoded.
    """
    rows = read_metrics(metrics)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    loss, bleu = figure.subplots(1, 2)
    for axes, names in ((loss, ("train/loss", "val/loss")), (bleu, ("val/bleu",))):
        for name in names:
            points = [(row["step"] + 1, row[name]) for row in rows if name in row]
            steps, values = zip(*points, strict=True) if points else ((), ())
            axes.plot(steps, values, label=name, marker="o" if name.startswith("val") else None, ms=3)
        axes.set_xlabel("optimiser steps")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    loss.set_ylabel("loss (nats per token)")
    bleu.set_ylabel(bleu_label)
    figure.savefig(picture, dpi=120)
