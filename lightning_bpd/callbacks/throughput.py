"""The speed of training."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightning_bpd.interfaces import LabelledTokens, ParallelBatch


class Throughput(Callback):
    """Logs ``train/tokens_per_second``: target tokens over all ranks; time for validation and saving is left out.

    The clock runs from the first batch to the next validation or checkpoint, so waiting for data counts. Tokens are
    counted on the device. The sum is read only when a value is logged or the clock stops. Then all ranks add up their
    tokens, so every rank and every checkpoint has equal sums.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """seconds of training so far, the mean over ranks; time before a resumption is included"""
        self.tokens = 0
        """target tokens in the batches of all ranks so far"""
        self._running = False
        self._mark = 0.0
        self._pending: torch.Tensor | None = None
        self._logged = (0.0, 0)
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave time and tokens before a resumption out of the next rate."""
        self._step = trainer.global_step
        self._logged = (self.seconds, self.tokens)

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock if it is stopped."""
        if not self._running:
            self._running = True
            self._mark = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: ParallelBatch | LabelledTokens,
        batch_idx: int,
    ) -> None:
        """Count tokens; at every logged step, log the rate since the previous logged step."""
        tokens = batch.target_tokens
        self._pending = tokens if self._pending is None else self._pending + tokens
        stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set outside its constructor
        if not stepped or every == 0 or self._step % every:
            return
        self._read_clock(trainer)
        seconds, before = self._logged
        rate = (self.tokens - before) / (self.seconds - seconds)
        self._logged = (self.seconds, self.tokens)
        pl_module.log("train/tokens_per_second", rate, prog_bar=True)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        if self._running:
            self._read_clock(trainer)
            self._running = False

    on_train_end = on_validation_start

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stop the clock."""
        self.on_validation_start(trainer, pl_module)
        # Lightning has called state_dict before this hook, so the stored sums are replaced.
        checkpoint["callbacks"][self.state_key] = self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {"seconds": self.seconds, "tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the sums of the resumed run."""
        self.seconds = state_dict["seconds"]
        self.tokens = state_dict["tokens"]

    def _read_clock(self, trainer: pl.Trainer) -> None:
        """Add tokens and time to the sums. All ranks call this together: at one step, validation or checkpoint."""
        tokens = 0 if self._pending is None else int(self._pending)  # waits for the device
        self._pending = None
        now = time.perf_counter()
        seconds = now - self._mark
        self._mark = now
        if trainer.world_size > 1:
            sums = torch.tensor([tokens, seconds], dtype=torch.float64, device=trainer.strategy.root_device)
            tokens, seconds = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
            seconds /= trainer.world_size
        self.tokens += int(tokens)
        self.seconds += seconds
