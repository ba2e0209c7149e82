"""Learning curves as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_bpd.files import whole_file
from lightning_bpd.tracking.metrics_file import read_metrics


def draw_curves(
    metrics: Path,
    picture: Path,
    label: str = "BLEU",
    quality: str = "val/bleu",
    loss_label: str = "loss (nats per token)",
) -> None:
    """Draw loss and quality against optimiser steps, from a metrics file to a PNG file.

    Args:
        metrics: The run's metrics.csv.
        picture: The file to write.
        label: The label of the quality axis; it may say how output was decoded.
        quality: The name of the quality metric in the file.
        loss_label: The label of the loss axis.
    """
    rows = read_metrics(metrics)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ("train/loss", "val/loss")), (right, (quality,))):
        for name in names:
            points = [(row["step"] + 1, row[name]) for row in rows if name in row]
            steps, values = zip(*points, strict=True) if points else ((), ())
            axes.plot(steps, values, label=name, marker="o" if name.startswith("val") else None, ms=3)
        axes.set_xlabel("optimiser steps")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    left.set_ylabel(loss_label)
    right.set_ylabel(label)
    with whole_file(picture, durable=False) as file:
        figure.savefig(file, dpi=120, format="png")
