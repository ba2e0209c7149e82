"""The loss of an optimiser step, however its tokens were split into micro-batches and ranks."""

from __future__ import annotations

import atexit

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_bpd.interfaces import InputError
from lightning_bpd.training.optimisation import scale_gradients

# Micro-batches are divided by this fixed number of tokens, to keep fp16 gradients in range; before the step the
# gradients are put right by the number of tokens that there really were.
NOMINAL_TOKENS = 4096
# Taken for the token count of a micro-batch whose loss is not finite: no step has as many tokens.
BAD = 2**40
# Steps in a row whose loss may not be finite where a GradScaler skips them, as float16 overflows now and then.
SKIPPED = 10
# Optimiser steps between two looks at the losses on an accelerator.
CHECK_EVERY = 50


class StepLoss:
    """Makes the loss of a step the mean over all its target tokens, on all ranks.

    It is exact, because each micro-batch gives a sum. A head has fewer targets than p_1: it has none at the end of a
    row, and none at a token that is no candidate. How many it has is not known before the last micro-batch, so its sum
    is divided by the number of target tokens, too. Each target then counts alike, and a head with fewer targets counts
    less, as in the multi-token prediction of DeepSeek-V3 (arXiv 2412.19437, section 2.2).

    A module keeps one, passes each micro-batch's summed loss through ``share`` and calls ``finish`` in
    ``on_before_optimizer_step``.
    """

    def __init__(self) -> None:
        self._tokens: Tensor | int = 0
        self._in_a_row = self._most_in_a_row = torch.tensor(0)

    def share(self, loss: Tensor, tokens: Tensor) -> Tensor:
        """What to differentiate of a micro-batch: ``loss`` (scalar, summed over its ``tokens``), to scale."""
        # A count below zero tells all ranks, when they add theirs up, that the loss of one was not finite.
        finite = torch.isfinite(loss.detach())
        self._tokens = self._tokens + torch.where(finite, tokens, -BAD)
        # An infinite loss may have finite gradients. A GradScaler skips a step by its gradients: they become NaN.
        return loss / torch.where(finite, float(NOMINAL_TOKENS), torch.nan)

    def finish(self, module: pl.LightningModule, optimizer: Optimizer) -> None:
        """Turn the accumulated gradients into those of the mean over all tokens of all ranks.

        Raises:
            InputError: A loss was not finite, or more than ``SKIPPED`` in a row where a GradScaler skips such steps.
        """
        trainer = module.trainer
        tokens = torch.as_tensor(self._tokens, device=module.device)
        self._tokens = 0
        if trainer.world_size > 1:
            tokens = trainer.strategy.reduce(tokens, reduce_op="sum")
        self._in_a_row = torch.where(tokens < 0, self._in_a_row.to(tokens) + 1, 0)
        self._most_in_a_row = torch.maximum(self._most_in_a_row.to(tokens), self._in_a_row)
        # Looking makes an accelerator wait, so there it is done now and then only.
        if tokens.device.type == "cpu" or module.global_step % CHECK_EVERY == 0:
            self.check(module)
        # Lightning divided each micro-batch by their number, and DDP averaged over ranks.
        scale = NOMINAL_TOKENS * trainer.accumulate_grad_batches * trainer.world_size
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        width = torch.promote_types(parameters[0].dtype, torch.float32)
        scale_gradients(parameters, scale / tokens.to(width))

    def check(self, module: pl.LightningModule) -> None:
        """Raise InputError if more losses were not finite by now than a GradScaler may skip."""
        scaler = getattr(module.trainer.precision_plugin, "scaler", None)
        if self._most_in_a_row > (SKIPPED if scaler is not None else 0):
            times = "" if scaler is None else f", {int(self._most_in_a_row)} times in a row,"
            raise InputError(
                f"a training loss was not finite (NaN or infinite){times} by step {module.global_step}: lower the "
                "learning rate or lengthen the warm-up"
            )


def seed_micro_batch(module: pl.LightningModule, seed: int, batch_index: int) -> None:
    """Make a micro-batch's random numbers a function of its place alone: epoch, batch and rank."""
    place = batch_index * module.trainer.world_size + module.trainer.global_rank
    torch.manual_seed((seed + 1_000_003 * module.current_epoch + 7_919 * (place + 1)) % 2**63)


def leave_together() -> None:
    """Let this process close its connections to the other ranks before it ends.

    Torch's threads that are still running when a process ends abort it, after all its work was done.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        atexit.register(close_connections)


def close_connections() -> None:
    """Close the connections to the other ranks, if there are any. Whatever this process does next, it does alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
