"""Blockwise decoding at validation and test: accepted block sizes and the speed-up that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightning_bpd.callbacks.accepted_sizes_file import add_sizes, forget_after
from lightning_bpd.callbacks.block_measurement import PARTS, BlockRule, Measurement, Stage
from lightning_bpd.callbacks.decode_traces import COLUMNS, markdown, table_rows
from lightning_bpd.callbacks.ranks import gathered, writes
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import InputError, ParallelBatch
from lightning_bpd.measuring.arms import ArmSums, spread
from lightning_bpd.metrics import shares_at_least
from lightning_bpd.tracking.weights_and_biases import wandb_loggers

if TYPE_CHECKING:
    from lightning_bpd.training.blocks import HeadTraining


class BlockwiseDecoding(Callback):
    """Decodes each validation and test batch greedily and by each rule, and logs how they compare.

    For a rule such as ``k8_exact`` and a stage, val or test: ``val/k8_exact/mean_accepted_block_size``, ``bleu``,
    ``greedy_agreement``, ``model_calls`` (a row), ``iteration_reduction`` and ``speedup`` (wall clock, over greedy
    decoding). By replay of the greedy output under the exact rule, for every block size up to the trained one:
    ``val/replay/mean_accepted_block_size_k4``. The first rule's mean is also ``val/mean_accepted_block_size``.

    The run's folder gets ``accepted_sizes.csv``, how often each size was accepted, and ``traces.md``, the iterations
    of some rows under the first rule; W&B gets both. A module without ``block_decoder`` is not measured.

    Args:
        rules: Ways to decode; by default one, with the block size and acceptance of the run's decoding options: blocks
            of the trained size by the exact rule, unless these options differ.
        every_n_epochs: In training, measure in the first of every n epochs. The first validation after a start or a
            resumption is always measured, so the monitored metrics exist.
        rows: Measure only the first n rows of the corpus, after the trainer's limit_val_batches or
            limit_test_batches; all rows if not given.
        traces: Rows to trace, spread evenly over the measured rows.

    Raises:
        InputError: Settings are invalid; or, once the heads are known, rules do not fit the heads.
    """

    _measurement: Measurement | None = None
    """the current pass; None if it is not measured"""
    _warm = False
    """whether a batch was decoded since setup"""
    _loaded_step: int | None = None

    def __init__(
        self,
        rules: Sequence[BlockRule] | None = None,
        every_n_epochs: int = 1,
        rows: int | None = None,
        traces: int = 3,
    ) -> None:
        # The default is None, because an object as a default cannot be written to a configuration file.
        self.rules = None if rules is None else list(rules)
        if self.rules == [] or every_n_epochs < 1 or (rows is not None and rows < 1) or traces < 0:
            raise InputError(
                "blockwise decoding needs a rule, every_n_epochs and rows of at least 1 and traces of at least 0, not "
                f"{rules}, {every_n_epochs}, {rows} and {traces}"
            )
        for rule in self.rules or []:
            rule.options(DecodingOptions())
        self.every_n_epochs = every_n_epochs
        self.rows = rows
        self.traces = traces

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the state."""
        self._measurement, self._warm, self._loaded_step = None, False, None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember how many steps the weights have taken; the trainer knows this only in training."""
        self._loaded_step = checkpoint["global_step"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse rules that do not fit, before the first epoch."""
        if hasattr(pl_module, "block_decoder"):
            self._fitting_rules(cast("HeadTraining", pl_module))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop measurements of steps that are taken again."""
        if writes(trainer):
            forget_after(_sizes_file(trainer), trainer.global_step)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a pass, if this validation is measured."""
        due = trainer.state.fn != "fit" or not self._warm or trainer.current_epoch % self.every_n_epochs == 0
        if due and not trainer.sanity_checking:
            self._begin(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a pass."""
        self._begin(trainer, pl_module, "test")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: ParallelBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Decode the batch."""
        if self._measurement is None:
            return
        # In the precision of the module's own steps.
        with trainer.precision_plugin.forward_context():
            if not self._warm:
                self._measurement.warm_up(batch)
                self._warm = True
            self._measurement.add(batch)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics before the callbacks that monitor them run."""
        measurement, self._measurement = self._measurement, None
        if measurement is None:
            return
        # Several ranks agree over their own device; one rank alone may have a device without float64.
        device = pl_module.device if trainer.world_size > 1 else torch.device("cpu")
        for name, value in measurement.values().items():
            # All ranks have equal values. Their maximum is exact to the last digit; their mean may not be.
            number = torch.tensor(value, dtype=torch.float64, device=device)
            short = name == f"{measurement.stage}/mean_accepted_block_size"
            pl_module.log(name, number, prog_bar=short, sync_dist=True, reduce_fx="max")
        # All ranks take part, because this gathers and sums over ranks.
        traces = {row: each for part in gathered(trainer, measurement.traces) for row, each in part.items()}
        counts = {rule.label: rule.sizes.compute() for rule in measurement.rules}
        if not writes(trainer):
            return
        stage, data = measurement.stage, measurement.module.data
        training = trainer.state.fn == "fit" or self._loaded_step is None
        step = trainer.global_step if training else self._loaded_step
        assert step is not None
        add_sizes(_sizes_file(trainer), step, stage, counts)
        if lines := table_rows(traces, data.codec):
            title = f"Traces of {measurement.rules[0].label} after {step} steps ({PARTS[stage]})"
            text = markdown(title, lines, data.sources(PARTS[stage]), data.references(PARTS[stage]))
            write_atomically(Path(trainer.default_root_dir) / "traces.md", text)
        for logger in wandb_loggers(trainer):
            logger.log_metrics(histograms(stage, counts), step)
            if lines:
                logger.log_table(f"{stage}/traces", COLUMNS, lines, step=step)

    on_test_epoch_end = on_validation_epoch_end

    def _fitting_rules(self, module: HeadTraining) -> tuple[list[ArmSums], int]:
        """The rules and the trained block size."""
        trained, decode = module.block_decoder()[1].block_size, module.decode
        given = self.rules or [BlockRule(decode.block_size, decode.acceptance)]
        rules = [ArmSums(rule.options(decode), trained, module.data.codec, module.device) for rule in given]
        labels = [rule.label for rule in rules]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise InputError(f"blockwise decoding is given the rule {twice[0]} twice: leave one out")
        return rules, trained

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: Stage) -> None:
        if not hasattr(pl_module, "block_decoder"):
            return
        module = cast("HeadTraining", pl_module)
        rows = _rows_to_come(trainer, module, stage)[: self.rows]
        traced = spread(rows, self.traces)
        self._measurement = Measurement(stage, *self._fitting_rules(module), set(rows), traced, module)


def _rows_to_come(trainer: pl.Trainer, module: HeadTraining, stage: Stage) -> list[int]:
    """Indices in the corpus of the rows of a pass on all ranks, in order. All ranks must call this."""
    limit = trainer.limit_val_batches if stage == "val" else trainer.limit_test_batches
    if isinstance(limit, float) and limit == 1.0:
        return list(range(len(module.data.references(PARTS[stage]))))
    # Batches do not come in the order of the corpus, so the first batches need not hold the first rows.
    loader: Any = trainer.val_dataloaders if stage == "val" else trainer.test_dataloaders
    (batches,) = trainer.num_val_batches if stage == "val" else trainer.num_test_batches
    own = [row for batch in islice(loader, int(batches)) for row in batch.index.tolist()]
    return sorted(chain.from_iterable(gathered(trainer, own)))


def _sizes_file(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "accepted_sizes.csv"


def histograms(stage: Stage, counts: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """W&B histograms by name, from counts by rule: accepted sizes, and the share of iterations that reach each size.

    Each histogram has one bin for each size from 1 to K.
    """
    import wandb

    found = {}
    for rule, of_rule in counts.items():
        edges = np.arange(len(of_rule)) + 0.5
        heights = {"accepted_sizes": of_rule.tolist(), "acceptance_by_position": shares_at_least(of_rule)}
        for name, values in heights.items():
            found[f"{stage}/{rule}/{name}"] = wandb.Histogram(np_histogram=(np.array(values[1:]), edges))
    return found
