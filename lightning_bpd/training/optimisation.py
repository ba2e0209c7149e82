"""Learning-rate schedules and gradients that weigh tokens alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_bpd.interfaces import InputError

Schedule = Literal["inverse_square_root", "cosine", "constant"]


def with_schedule(
    optimizer: Optimizer, schedule: Schedule, warmup_steps: int, trainer: pl.Trainer
) -> OptimizerLRScheduler:
    """The optimiser with its learning-rate schedule, stepped every optimiser step, as Lightning wants it.

    Raises:
        InputError: A schedule that must know its end, in a run that has none; or the run's precision has made the
            trained weights narrower than 32 bits.
    """
    check_precision((each for group in optimizer.param_groups for each in group["params"]), trainer)
    if schedule == "cosine" and trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise InputError(
            "the cosine schedule must know its end: set trainer.max_epochs or trainer.max_steps, or take another"
        )
    fuse_on_cpu(optimizer)

    def rate(steps_done: int) -> float:
        step = steps_done + 1
        if schedule == "cosine":
            # Not asked for in advance: that would load the data before a resumed run knows where it is.
            return cosine(step, warmup_steps, lambda: int(trainer.estimated_stepping_batches))
        if schedule == "inverse_square_root":
            return inverse_square_root(step, warmup_steps)
        return min(step / max(warmup_steps, 1), 1.0)

    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, rate), "interval": "step"},
    }


def narrow_types(parameters: Iterable[torch.nn.Parameter]) -> set[torch.dtype]:
    """The types of fewer than 32 bits among the parameters: too narrow to add up small steps."""
    return {each.dtype for each in parameters if each.dtype.itemsize < 4}


def check_precision(
    parameters: Iterable[torch.nn.Parameter], trainer: pl.Trainer, known: Collection[torch.dtype] = ()
) -> None:
    """Refuse a precision that narrows weights themselves, such as bf16-true.

    Call it in ``configure_optimizers``: Lightning's precision plugins convert a module just before.

    Args:
        parameters: What is trained, or what must stay as it is.
        trainer: The running trainer.
        known: Narrow types that the parameters had before.

    Raises:
        InputError: A parameter has another narrow type.
    """
    if narrow := narrow_types(parameters).difference(known):
        kind = str(narrow.pop()).removeprefix("torch.")
        raise InputError(
            f"trainer.precision {trainer.precision} turns the weights into {kind}: most steps would be rounded away, "
            "and a frozen base would change. Compute in it by --trainer.precision bf16-mixed or 16-mixed, which keep "
            "the weights in float32"
        )


def inverse_square_root(step: int, warmup_steps: int) -> float:
    """Fraction of the peak rate: a straight rise for ``warmup_steps``, then step ** -0.5 (Vaswani et al. 2017, 5.3)."""
    step = max(step, 1)
    warmup_steps = max(warmup_steps, 1)
    return min(step / warmup_steps, math.sqrt(warmup_steps / step))


def cosine(step: int, warmup_steps: int, total_steps: Callable[[], int]) -> float:
    """Fraction of the peak rate: a straight rise for ``warmup_steps``, then half a cosine to 0 at ``total_steps``.

    ``total_steps`` is called after the warm-up only.
    """
    step, warmup_steps = max(step, 1), max(warmup_steps, 1)
    if step <= warmup_steps:
        return step / warmup_steps
    total = total_steps()
    progress = (step - warmup_steps) / max(total - warmup_steps, 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def scale_gradients(parameters: Iterable[torch.nn.Parameter], factor: Tensor) -> None:
    """Multiply all gradients in place by a scalar tensor."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))


def fuse_on_cpu(optimizer: Optimizer) -> None:
    """Let an optimiser of CPU parameters use its fused kernel, where it has one and was not told otherwise.

    Elsewhere torch picks a fast one itself; on the CPU it would go parameter by parameter.
    """
    for group in optimizer.param_groups:
        if group.get("fused", False) is None and all(p.device.type == "cpu" for p in group["params"]):
            group["fused"] = True
