"""Stopping cleanly on Ctrl-C, when the terminal closes, and when a cluster preempts the job."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.callbacks import Checkpoint

from lightning_bpd.callbacks.checkpoints import checkpoint_file, save_checkpoint

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Interrupted(SystemExit):
    """Training was asked to stop. Like every SystemExit it sets the exit code of the process, 128 + signal."""


class Interruption(Checkpoint):
    """On a signal, finishes the running optimiser step, writes last.ckpt, and stops with exit code 128 + signal.

    The signals are SIGINT (Ctrl-C), SIGTERM, SIGHUP unless it is ignored (``nohup``), and SIGUSR1. If Lightning would
    requeue the SLURM job on a signal, SIGUSR1 by default, the job is requeued after last.ckpt is written. Lightning
    itself would save at once, in the middle of a step. A running validation is finished first. A second Ctrl-C stops
    at once; other signals often come twice and do not. Lightning calls this callback after the others because it is a
    Checkpoint.

    Args:
        agree_every_n_train_steps: Steps after which the ranks tell each other whether one was asked to stop.
    """

    def __init__(self, agree_every_n_train_steps: int = 10) -> None:
        self.agree_every_n_train_steps = agree_every_n_train_steps
        self._signal: signal.Signals | None = None
        self._requeue_signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._step = 0
        self._saved = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers."""
        self._step = trainer.global_step
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue_signal = environment.requeue_signal
        # After Lightning installed its handlers, which would stop or save in the middle of an accumulation.
        if threading.current_thread() is threading.main_thread():
            for number in {*SIGNALS, self._requeue_signal or signal.SIGUSR1}:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop if the previous step was saved."""
        self._stop_if_saved(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop if the previous step was saved; the resumed run validates."""
        self._stop_if_saved(trainer)

    on_train_epoch_end = on_validation_start

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save if a signal came and the step is complete."""
        stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        if stepped and self._someone_asked(trainer, self._step):
            # The metrics of this step are logged after this hook, so the run stops at the next hook.
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save and stop if a signal came during validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._someone_asked(trainer, 0):
            self._save(trainer)
            self._stop_if_saved(trainer)

    def on_train_end(self, *_: Any) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_exception(self, *_: Any) -> None:
        """Restore the previous signal handlers."""
        self.on_train_end()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if number == signal.SIGINT:
                raise Interrupted(128 + number)
            return
        self._signal = signal.Signals(number)
        logger.info("%s: finishing this step; Ctrl-C stops at once", self._signal.name)

    def _someone_asked(self, trainer: pl.Trainer, step: int) -> bool:
        if trainer.world_size > 1:
            if step % self.agree_every_n_train_steps:
                return False
            own = torch.tensor(self._signal or 0, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(own, reduce_op="max"))
            self._signal = signal.Signals(number) if number else None
        return self._signal is not None

    def _save(self, trainer: pl.Trainer) -> None:
        save_checkpoint(trainer, checkpoint_file(trainer, "last"))
        self._saved = True

    def _stop_if_saved(self, trainer: pl.Trainer) -> None:
        if not self._saved:
            return
        if not trainer.is_global_zero:
            # Lightning's launcher kills the main process when another rank exits with a code other than 0.
            raise Interrupted(0)
        logger.info("Stopped after step %d; go on with: --ckpt_path last", trainer.global_step)
        assert self._signal is not None
        if self._signal == self._requeue_signal:
            _requeue()
        raise Interrupted(128 + self._signal)


def _requeue() -> None:
    """Have SLURM run this job again; the job then resumes from the written checkpoint."""
    job, array = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        logger.warning("SLURM did not requeue job %s (%s): submit it again", job, error)
