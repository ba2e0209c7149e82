"""The position at which a run continues from a checkpoint: the next epoch and the next batch.

Lightning restores its own counters, but it mistakes some moments of interruption. In 2.6.6: with ``max_steps``
a checkpoint from the end of an epoch makes the next epochs take the wrong order; a checkpoint from the last batch of an
epoch, or from an exception in a step, makes the checkpoint after it resume at the wrong batch; the gradients of a
half-done accumulation are lost; a validation that was due or interrupted is left out or run in part. So the
counters are set to one of three states that Lightning continues exactly.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.loops.progress import _Progress


def next_position(trainer: pl.Trainer, rank_batches: int) -> tuple[int, int]:
    """The next epoch of training and the next batch in it, both counted from 0.

    Call it while Lightning requests the training batches. In a run restored from a checkpoint it also sets
    Lightning's progress to the position. The position is never inside an accumulation of gradients: the checkpoint
    does not hold accumulated gradients, so their batches come again. At the end of an epoch the batch equals the
    number of batches, and only the steps after the last batch still run, such as validation.

    Args:
        trainer: The trainer that runs ``fit``.
        rank_batches: Batches of one rank in an epoch, before ``limit_train_batches``.
    """
    loop = trainer.fit_loop
    if not loop.is_resuming:
        return trainer.current_epoch, 0
    limit = trainer.limit_train_batches
    in_epoch = min(rank_batches, limit) if isinstance(limit, int) else int(rank_batches * limit)
    epochs: Any = loop.epoch_progress.current
    batches: Any = loop.epoch_loop.batch_progress
    # `processed` counts the batches that the weights have seen; `ready` may be one ahead, `completed` one behind.
    epoch, batch = epochs.processed, batches.current.processed
    earlier = batches.total.processed - batch
    if epochs.started == epoch:
        # Between two epochs. The batch counters still belong to the epoch that ended.
        return _start_epoch(trainer, epoch, earlier + batch)

    at_end = batch >= in_epoch
    begun = 0 if at_end else batch % trainer.accumulate_grad_batches
    due = not begun and _validation_is_due(trainer, in_epoch, batch, earlier + batch)
    interrupted = batches.current.completed < batch or _is_inside_validation(loop)
    batch -= begun
    if batch == 0:
        return _start_epoch(trainer, epoch, earlier)
    if at_end or (due and interrupted):
        # As if saved when the validation after this batch began or ended. Lightning counts the step after it.
        _count_steps(trainer, trainer.global_step - int(due))
        _set_validation(loop, interrupted=due and interrupted)
        completed = batch
    else:
        # As if saved in on_train_batch_end, before Lightning counts the step.
        _count_steps(trainer, trainer.global_step - 1)
        _set_validation(loop, interrupted=False)
        completed = batch - 1
    _set(loop.epoch_progress, ready=epoch + 1, started=epoch + 1, processed=epoch, completed=epoch)
    _set(batches, earlier, ready=batch, started=batch, processed=batch, completed=completed)
    batches.is_last_batch = at_end
    _set_restarting(loop, True)
    return epoch, batch


def _start_epoch(trainer: pl.Trainer, epoch: int, batches_before: int) -> tuple[int, int]:
    loop = trainer.fit_loop
    _count_steps(trainer, trainer.global_step)
    _set_validation(loop, interrupted=False)
    _set(loop.epoch_progress, ready=epoch, started=epoch, processed=epoch, completed=epoch)
    _set(loop.epoch_loop.batch_progress, batches_before, ready=0, started=0, processed=0, completed=0)
    loop.epoch_loop.batch_progress.is_last_batch = False
    _set_restarting(loop, False)
    return epoch, 0


def _validation_is_due(trainer: pl.Trainer, in_epoch: int, batch: int, batches_in_all: int) -> bool:
    """Whether Lightning validates after this many batches of the epoch."""
    interval = trainer.val_check_interval
    if not trainer.fit_loop.epoch_loop._should_check_val_epoch() or not isinstance(interval, int | float):
        return False
    every = interval if isinstance(interval, int) else max(1, int(in_epoch * interval))
    return (batches_in_all if trainer.check_val_every_n_epoch is None else batch) % every == 0


def _is_inside_validation(loop: _FitLoop) -> bool:
    progress = loop.epoch_loop.val_loop.batch_progress
    begun, completed = progress.current.ready, progress.current.completed
    return begun > completed or (begun > 0 and not progress.is_last_batch)


def _set_validation(loop: _FitLoop, interrupted: bool) -> None:
    """Set Lightning's progress to a validation interrupted in its first batch, or to none interrupted."""
    begun = int(interrupted)
    progress = loop.epoch_loop.val_loop.batch_progress
    progress.is_last_batch = False
    _set(progress, ready=0, started=0, processed=0, completed=0)
    progress.total.__dict__.update(ready=begun, started=begun)


def _count_steps(trainer: pl.Trainer, steps: int) -> None:
    """Set the step that loggers see. Lightning derives the step itself only in manual optimisation."""
    if trainer.lightning_module.automatic_optimization:
        trainer.fit_loop.epoch_loop._batches_that_stepped = steps


def _set(progress: _Progress, earlier: int = 0, **counts: int) -> None:
    """Set the current counts, and the totals to these counts plus ``earlier``."""
    progress.current.__dict__.update(counts)
    progress.total.__dict__.update({name: earlier + count for name, count in counts.items()})


def _set_restarting(loop: _FitLoop, restarting: bool) -> None:
    # The setter of the fit loop itself would turn False into True whenever max_steps is given.
    _Loop.restarting.fset(loop, restarting)  # type: ignore[attr-defined]
