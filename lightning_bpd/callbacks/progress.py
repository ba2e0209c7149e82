"""Training progress in a terminal and in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ProgressBar, RichProgressBar

logger = logging.getLogger(__name__)


def progress_bar() -> ProgressBar:
    """A progress bar if standard output is a terminal, and log lines otherwise."""
    return RichProgressBar(leave=False) if sys.stdout.isatty() else ProgressLines()


class Overview(Callback):
    """Logs the number of parameters, the devices and the folder of the results in one line."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the line on rank 0."""
        if trainer.is_global_zero:
            parameters = sum(each.numel() for each in pl_module.parameters() if each.requires_grad)
            place = f"{trainer.world_size} x {pl_module.device.type}, precision {trainer.precision}"
            folder = trainer.default_root_dir
            logger.info("Training %s parameters on %s; results go to %s", f"{parameters:,}", place, folder)


class ProgressLines(ProgressBar):
    """Logs a line after each validation, and at most one line every ``seconds`` in between.

    Args:
        seconds: The least time between two lines of training, in seconds.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._enabled = True
        self._last = 0.0
        self._started = 0.0

    def enable(self) -> None:
        """Show progress; Lightning asks for it on rank 0."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing; Lightning asks for it on the other ranks."""
        self._enabled = False

    def on_train_start(self, *_: Any) -> None:
        """Start the clock."""
        self._last = self._started = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Show training metrics, if ``seconds`` have passed since the last line."""
        if time.monotonic() - self._last >= self.seconds:
            self._show(trainer, trainer.progress_bar_metrics, "train/")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show validation metrics."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._show(trainer, trainer.progress_bar_metrics, "val/")

    def _show(self, trainer: pl.Trainer, metrics: Mapping[str, Any], prefix: str) -> None:
        self._last = time.monotonic()
        if not self._enabled:
            return
        shown = "  ".join(
            f"{name} {_short(value)}" for name, value in metrics.items() if name.startswith(prefix)
        )
        minutes, seconds = divmod(int(self._last - self._started), 60)
        place = f"{minutes:3d}:{seconds:02d}  epoch {trainer.current_epoch}  step {trainer.global_step}"
        logger.info("%s  %s", place, shown)


def _short(value: Any) -> str:
    number = float(value)
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
