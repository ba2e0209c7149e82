"""Two checkpoints for each run: the best so far and the last, each a file that is always complete.

Lightning's ModelCheckpoint is not used: it forgets its best score when the run's folder is moved.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from lightning_bpd.files import whole_file
from lightning_bpd.interfaces import InputError

logger = logging.getLogger(__name__)


def checkpoint_file(trainer: pl.Trainer, name: Literal["best", "last"]) -> Path:
    """The path of a run's best or last checkpoint."""
    return Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt"


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints by ``whole_file``.

    Lightning's own class writes through the system's temporary folder, which is not atomic when that is another disk,
    never waits for the disk, and reports success when it has no permission.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write the checkpoint. Raises OSError, which names the path."""
        with whole_file(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # PyTorch's writer wraps the error of the file.
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def save_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    """Write a checkpoint so that ``path`` is at every moment the old file or the new file. All ranks must call this.

    A trial run (``fast_dev_run``) writes nothing.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set outside its constructor
        return
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    # The optimiser's state is included. All content is plain data and tensors, so it loads without unpickling.
    trainer.save_checkpoint(path, weights_only=False)


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint in a run's folder with the most steps; None if the folder has no checkpoint.

    Beside best.ckpt and last.ckpt it may be ``hpc_ckpt_N.ckpt``, which Lightning writes under SLURM. A checkpoint that
    cannot be read is skipped with a warning.

    Raises InputError if no checkpoint can be read.
    """
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    names = (last, *sorted(folder.glob("hpc_ckpt_*.ckpt")), best)
    steps = {}
    for path in filter(Path.is_file, names):
        try:
            # Tensors stay on the disk.
            steps[path] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        except Exception as error:  # PyTorch raises nearly anything for a damaged file
            logger.warning(
                "%s cannot be read (%s): looking for another checkpoint", path, type(error).__name__
            )
            steps[path] = -1
    newest = max(steps, key=steps.__getitem__, default=None)
    if newest is not None and steps[newest] < 0:
        raise InputError(
            f"no checkpoint in {folder} can be read: restore one, or start anew without --ckpt_path"
        )
    return newest


class BestCheckpoint(Checkpoint):
    """Keeps the checkpoint with the best validation metric as ``checkpoints/best.ckpt``.

    Args:
        monitor: The logged validation metric to go by.
        mode: Whether a larger (max) or a smaller (min) value is better.
    """

    _stored = ("step", "metrics", "bleu_signature", "decode")

    def __init__(self, monitor: str = "val/bleu", mode: Literal["max", "min"] = "max") -> None:
        self.monitor = monitor
        self.mode = mode
        self.step: int | None = None
        """optimiser steps taken when the best checkpoint was written; None before"""
        self.metrics: dict[str, float] = {}
        """validation metrics of the best checkpoint"""
        self.bleu_signature: str | None = None
        """the settings behind its BLEU, as the module gives them"""
        self.decode: dict[str, Any] | None = None
        """how its output was decoded, if the module gives it"""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse, before the first epoch, a monitored metric of any callback that is never logged."""
        codec = getattr(trainer.datamodule, "codec", None)  # type: ignore[attr-defined]
        if codec is None:
            return
        logged = ["val/loss", *(f"val/{name}" for name in {**codec.likelihood(), **codec.quality()})]
        # A training that measures something else says so.
        logged = list(getattr(pl_module, "validation_metrics", logged))
        # Names with these prefixes depend on heads and rules. They are checked at the first validation.
        groups: tuple[str, ...] = ("train/",)
        if hasattr(pl_module, "block_decoder"):
            logged.append("val/mean_accepted_block_size")
            groups += ("val/k", "val/head_", "val/replay/", "val/drift/")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor = getattr(callback, "monitor", None)
            if monitor is None or monitor in logged or str(monitor).startswith(groups):
                continue
            name = "best_checkpoint" if callback is self else type(callback).__name__
            raise InputError(f"{name}.monitor is {monitor!r}, but validation logs {', '.join(logged)}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint if its metric is the best so far."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        logged = trainer.callback_metrics.items()
        metrics = {name: float(value) for name, value in logged if name.startswith("val/")}
        if self.monitor not in metrics:
            known = ", ".join(sorted(metrics))
            raise InputError(f"best_checkpoint.monitor is {self.monitor!r}, but validation logged {known}")
        if self.step is not None and not self._improves(metrics[self.monitor], self.metrics[self.monitor]):
            return
        self.step = trainer.global_step
        self.metrics = metrics
        self.bleu_signature = getattr(pl_module, "bleu_signature", None)
        decode = getattr(pl_module, "decode", None)
        self.decode = None if decode is None else dataclasses.asdict(decode)
        save_checkpoint(trainer, checkpoint_file(trainer, "best"))

    def _improves(self, new: float, old: float) -> bool:
        if math.isnan(old):
            return not math.isnan(new)
        return new > old if self.mode == "max" else new < old

    def state_dict(self) -> dict[str, Any]:
        """The best metric so far and its details."""
        return {name: getattr(self, name) for name in self._stored}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best so far, unless another metric was monitored: their values cannot be compared."""
        if self.monitor in state_dict["metrics"]:
            for name in self._stored:
                setattr(self, name, state_dict.get(name))  # older checkpoints lack decode


class LastCheckpoint(Checkpoint):
    """Keeps the newest checkpoint as ``checkpoints/last.ckpt``: after each validation and every n steps.

    Args:
        every_n_train_steps: Optimiser steps between two checkpoints; 0 means after validation only.
    """

    def __init__(self, every_n_train_steps: int = 500) -> None:
        self.every_n_train_steps = every_n_train_steps
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from the step at which the run starts or resumes."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Write the checkpoint every ``every_n_train_steps`` steps."""
        stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        due = self.every_n_train_steps > 0 and self._step % self.every_n_train_steps == 0
        if stepped and due:
            save_checkpoint(trainer, checkpoint_file(trainer, "last"))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint after each validation."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            save_checkpoint(trainer, checkpoint_file(trainer, "last"))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint of the finished run."""
        save_checkpoint(trainer, checkpoint_file(trainer, "last"))
