"""Logging to W&B whose failures never stop a run."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from lightning_bpd.faults import shortened

logger = logging.getLogger(__name__)

PROJECT = "lightning_bpd"
# Seconds that a run waits for W&B's server at its start, and for unsent data at its end.
PATIENCE = 30


def wandb_loggers(trainer: pl.Trainer) -> list[WandbLogger]:
    """The trainer's loggers to W&B."""
    return [each for each in trainer.loggers if isinstance(each, WandbLogger)]


def _unhindered(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method so that it does nothing after any wrapped method has failed."""

    @wraps(method)
    def patient(self: RunLogger, *args: Any, **options: Any) -> None:
        if self.failed:
            return
        try:
            method(self, *args, **options)
        except Exception as error:  # A failure of W&B must not fail the run.
            self.failed = True
            logger.warning(
                "W&B failed, and the run goes on without it: %s. To send what is there: wandb sync %s",
                shortened(error),
                self.data,
            )

    return patient


class RunLogger(WandbLogger):
    """Lightning's logger for a started W&B run. A failure of W&B gives a warning and ends logging to W&B.

    Args:
        run: The W&B run.
        folder: The folder of the training run.
    """

    def __init__(self, run: Any, folder: Path) -> None:
        super().__init__(experiment=run, save_dir=folder, project=PROJECT)
        self.failed = False
        self.data = getattr(run.settings, "sync_dir", folder / "wandb")
        """the folder where W&B stores the logged data"""

    log_hyperparams = _unhindered(WandbLogger.log_hyperparams)
    log_metrics = _unhindered(WandbLogger.log_metrics)
    log_table = _unhindered(WandbLogger.log_table)
    log_text = _unhindered(WandbLogger.log_text)
    log_image = _unhindered(WandbLogger.log_image)

    @_unhindered
    def finalize(self, status: str) -> None:
        """Send the remaining data; wait at most ``PATIENCE`` seconds."""
        super().finalize(status)
        self.experiment.finish(exit_code=int(status != "success"))


def wandb_logger(folder: Path, mode: Literal["offline", "online"]) -> RunLogger | None:
    """A logger that writes to ``<folder>/wandb``; None, after a warning, if W&B cannot start.

    A resumed run keeps its id, so W&B shows one run.

    Args:
        folder: The run's folder; its name is the name of the run.
        mode: ``online`` also sends to the server. Without a key or a network, a warning says how to send it later.
    """
    reason = ""
    try:
        if mode == "online":
            import wandb

            reason = "there is no key, which wandb login stores"
            try:
                # Log in before the start: otherwise W&B may prompt for a key, and the run waits.
                if wandb.login(prompt=False, verify=False):
                    return _start(folder, mode)
            except Exception as error:
                reason = shortened(error)
            # The process of a failed start still holds the run's id.
            wandb.teardown()
        started = _start(folder, "offline")
    except Exception as error:  # W&B may be missing or broken, and its server or the disk may fail.
        logger.warning("Going on without W&B: %s", shortened(error))
        return None
    if reason:
        logger.warning(
            "W&B cannot go online (%s): writing offline. To send it: wandb sync %s", reason, started.data
        )
    return started


def _start(folder: Path, mode: Literal["offline", "online"]) -> RunLogger:
    import wandb

    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off")
    if mode == "online":
        # Not set offline: there the run waits only for W&B's local process, which may start slowly on a busy machine.
        settings.init_timeout = settings.finish_timeout = PATIENCE
        settings.finish_timeout_raises = True
    run = wandb.init(
        project=PROJECT,
        name=folder.name,
        dir=folder,
        id=_run_id(folder / "wandb" / "run_id"),
        resume="allow",
        mode=mode,
        settings=settings,
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return RunLogger(run, folder)


def _run_id(path: Path) -> str:
    if not path.is_file() or not path.read_text(encoding="utf-8").isalnum():
        path.write_text(secrets.token_hex(4), encoding="utf-8")
    return path.read_text(encoding="utf-8")
