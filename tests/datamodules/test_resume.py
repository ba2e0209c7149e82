"""A training that is interrupted anywhere and resumed is the training that was never interrupted."""

import functools
import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lightning_bpd.datamodules.encoded_corpus import EncodedCorpus, RaggedRows
from lightning_bpd.datamodules.parallel_text import ParallelText

EPOCHS, BATCHES = 4, 8


class KilledError(Exception):
    """What ends a run of these tests."""


class Numbers(ParallelText):
    """A corpus of random tokens, 8 batches for one process, that needs no files."""

    def __init__(self, workers=0):
        super().__init__("unused", batch_tokens=64, workers=workers)
        random = np.random.default_rng(0)
        sides = []
        for _ in range(2):
            offsets = np.cumsum(np.concatenate(([0], random.integers(3, 9, 60))))
            sides.append(RaggedRows(random.integers(4, 99, offsets[-1]).astype(np.uint16), offsets))
        self.train_corpus = self.validation_corpus = EncodedCorpus(*sides, 0, 0, np.arange(60))

    def prepare_data(self):
        pass

    def setup(self, stage=None):
        pass


class Model(pl.LightningModule):
    """Its weights depend on every batch and on their order; it records what it sees."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.steps, self.validations = [], []

    def training_step(self, batch, batch_idx):
        self.trainer.interrupt("step", batch_idx)
        logged_step = self.trainer.fit_loop.epoch_loop._batches_that_stepped
        self.steps.append((self.trainer.current_epoch, batch_idx, batch.index.tolist(), logged_step))
        rows = batch.index.double()
        features = torch.stack(
            [rows.mean() / 60, rows.square().mean() / 3600, batch.source.tokens.double().mean() / 99]
        )
        return ((self.weight - features).square() * (1 + self.weight)).sum()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.trainer.interrupt("batch end", batch_idx)

    def validation_step(self, batch, batch_idx):
        if batch_idx == 1:
            self.trainer.interrupt("in validation", self.trainer.fit_loop.epoch_loop.batch_idx)

    def on_validation_end(self):
        batch = self.trainer.fit_loop.epoch_loop.batch_idx
        self.validations.append((self.trainer.current_epoch, batch))
        self.trainer.interrupt("validation end", batch)

    def on_train_epoch_start(self):
        self.trainer.interrupt("epoch start", 0)

    def on_train_epoch_end(self):
        self.trainer.interrupt("epoch end", 0)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Trainer(pl.Trainer):
    """Writes a checkpoint and dies at a moment of (hook, epoch, batch)."""

    def __init__(self, moment, checkpoint, **settings):
        self.moment, self.checkpoint = moment, checkpoint
        super().__init__(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, **settings,
        )  # fmt: skip

    def interrupt(self, hook, batch):
        if self.moment == (hook, self.current_epoch, batch):
            self.save_checkpoint(self.checkpoint)
            raise KilledError


def fit(folder, moments=(), accumulate=1, max_steps=False, workers=0, **settings):
    """The model after a run that is interrupted at each of the moments, in turn, and resumed."""
    length = (
        {"max_epochs": -1, "max_steps": EPOCHS * BATCHES // accumulate}
        if max_steps
        else {"max_epochs": EPOCHS}
    )
    resume_from = None
    for number, moment in enumerate([*moments, None]):
        checkpoint = folder / f"{number}.ckpt"
        trainer = Trainer(moment, checkpoint, accumulate_grad_batches=accumulate, **length, **settings)
        model = Model()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if moment is None:
                trainer.fit(model, Numbers(workers), ckpt_path=resume_from)
            else:
                with pytest.raises(KilledError):
                    trainer.fit(model, Numbers(workers), ckpt_path=resume_from)
        resume_from = checkpoint
    return model


@functools.cache
def never_interrupted(**settings):
    return fit(Path("unused"), **settings)


def check(folder, moments, **settings):
    whole, resumed = never_interrupted(**settings), fit(folder, moments, **settings)
    assert len(whole.steps) == EPOCHS * BATCHES
    assert resumed.steps
    assert resumed.steps == whole.steps[-len(resumed.steps) :]
    assert torch.equal(resumed.weight, whole.weight)
    # None is left out, though the one that was interrupted is run again, from its first batch.
    epoch, batch = resumed.steps[0][:2]
    assert resumed.validations == whole.validations[len(whole.validations) - len(resumed.validations) :]
    assert {v for v in whole.validations if v >= (epoch, batch)} <= set(resumed.validations)
    return resumed


FIRST_MOMENTS = [
    ("step", 0, 0),
    ("step", 1, 0),
    ("step", 1, 3),
    ("step", 1, 7),
    ("batch end", 1, 0),
    ("batch end", 1, 3),
    ("batch end", 0, 7),
    ("batch end", 1, 7),
    ("in validation", 1, 3),
    ("in validation", 1, 7),
    ("validation end", 1, 3),
    ("validation end", 1, 7),
    ("epoch start", 1, 0),
    ("epoch end", 1, 0),
]
BEFORE_A_SECOND = [("step", 1, 3), ("batch end", 1, 7), ("in validation", 1, 7), ("epoch end", 1, 0)]
SECOND_MOMENTS = [
    ("step", 2, 5),
    ("batch end", 2, 3),
    ("batch end", 2, 7),
    ("validation end", 2, 3),
    ("epoch end", 2, 0),
]


@pytest.mark.parametrize("moment", FIRST_MOMENTS, ids=str)
@pytest.mark.parametrize(("accumulate", "max_steps"), [(1, True), (2, False)], ids=["steps", "epochs"])
def test_interrupted_once(tmp_path, moment, accumulate, max_steps):
    check(tmp_path, [moment], accumulate=accumulate, max_steps=max_steps, val_check_interval=4)


@pytest.mark.parametrize(("first", "second"), [*itertools.product(BEFORE_A_SECOND, SECOND_MOMENTS)], ids=str)
def test_interrupted_twice(tmp_path, first, second):
    check(tmp_path, [first, second], accumulate=2, val_check_interval=4)


def test_interrupted_twice_in_one_epoch(tmp_path):
    check(tmp_path, [("in validation", 1, 3), ("validation end", 1, 7)], val_check_interval=4)
    check(tmp_path, [("batch end", 1, 7), ("in validation", 1, 7)], val_check_interval=4)


@pytest.mark.parametrize("moment", [("step", 1, 3), ("validation end", 1, 7)], ids=str)
def test_workers_do_not_run_ahead(tmp_path, moment):
    check(tmp_path, [moment], accumulate=2, workers=2)


@pytest.mark.parametrize(
    "moment", [("step", 2, 1), ("batch end", 2, 1), ("batch end", 2, 7), ("epoch end", 1, 0)], ids=str
)
def test_without_validation(tmp_path, moment):
    resumed = check(tmp_path, [moment], limit_val_batches=0)
    assert not resumed.validations


def test_validation_that_was_due_is_run_first(tmp_path):
    resumed = check(tmp_path, [("batch end", 1, 7)])
    assert resumed.validations == [(1, 7), (2, 7), (3, 7)]
    assert resumed.steps[0][:2] == (2, 0)


def test_an_interrupted_accumulation_is_begun_again(tmp_path):
    resumed = check(tmp_path, [("step", 1, 3)], accumulate=2)
    assert resumed.steps[0][:2] == (1, 2)


@pytest.mark.parametrize("limit", [5, 0.5])
def test_a_limited_epoch(tmp_path, limit):
    per_epoch = 5 if limit == 5 else 4
    whole = never_interrupted(limit_train_batches=limit)
    resumed = fit(tmp_path, [("batch end", 1, per_epoch - 1), ("step", 2, 2)], limit_train_batches=limit)
    assert resumed.steps[0][:2] == (2, 2)
    assert resumed.steps == whole.steps[-len(resumed.steps) :]
    assert torch.equal(resumed.weight, whole.weight)
