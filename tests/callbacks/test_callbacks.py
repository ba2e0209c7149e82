import logging
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_bpd.callbacks import progress
from lightning_bpd.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_bpd.callbacks.progress import ProgressLines
from lightning_bpd.callbacks.samples import Predictions, Samples
from lightning_bpd.callbacks.throughput import Throughput
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.interfaces import InputError, ParallelBatch, TokenRows
from lightning_bpd.measuring.arms import spread
from lightning_bpd.tracking.metrics_file import MetricsFile, read_metrics

# Batches of 3 rows of 2 target tokens.
TOKENS = 6


class Module(pl.LightningModule):
    """One weight; its validation scores are given beforehand."""

    def __init__(self, scores=(), step_seconds=0.0, validation_seconds=0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.scores = list(scores)
        self.step_seconds, self.validation_seconds = step_seconds, validation_seconds
        self.validation_outputs = {}

    def training_step(self, batch, batch_index):
        time.sleep(self.step_seconds)
        return (self.weight - 1) ** 2

    def validation_step(self, batch, batch_index):
        time.sleep(self.validation_seconds)
        self.validation_outputs.update({int(i): f"output {i}" for i in batch.index})

    def on_validation_epoch_end(self):
        self.log("val/bleu", self.scores.pop(0) if self.scores else 1.0, prog_bar=True)
        self.log("val/loss", 0.5, prog_bar=True)

    def predict_step(self, batch, batch_index):
        return {int(i): f"output {i}" for i in batch.index}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Data(pl.LightningDataModule):
    def __init__(self, batches=4):
        super().__init__()
        self.batches = batches

    def train_dataloader(self, batches=None):
        rows = TokenRows(torch.zeros(3, 2, dtype=torch.long), torch.full((3,), 2))
        data = [ParallelBatch(rows, rows, torch.arange(3) + 3 * i) for i in range(batches or self.batches)]
        return DataLoader(data[::-1], batch_size=None)

    def val_dataloader(self):
        return self.train_dataloader(2)

    def predict_dataloader(self):
        return self.train_dataloader(2)

    def sources(self, stage):
        return [f"source {i}" for i in range(6)]

    def references(self, stage):
        return [f"reference {i}" for i in range(6)]


def trainer(folder, *callbacks, **options):
    torch.set_num_threads(1)
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=MetricsFile(folder),
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(each, pl.callbacks.ProgressBar) for each in callbacks),
        **{"log_every_n_steps": 2, "num_sanity_val_steps": 0, "max_epochs": 4, **options},
    )


def saved(folder, name):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.mark.parametrize(("mode", "steps"), [("max", 8), ("min", 12)])
def test_best_checkpoint_is_that_of_the_best_score(tmp_path, mode, steps):
    best = BestCheckpoint(mode=mode)
    trainer(tmp_path, best).fit(Module([3.0, 5.0, 1.0, 5.0]), datamodule=Data())
    assert saved(tmp_path, "best")["global_step"] == best.step == steps
    assert best.metrics == {"val/bleu": 5.0 if mode == "max" else 1.0, "val/loss": 0.5}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["best.ckpt"]


def test_best_checkpoint_is_remembered_by_a_resumed_run_in_another_place(tmp_path):
    trainer(tmp_path, BestCheckpoint(), LastCheckpoint(), max_epochs=2).fit(
        Module([5.0, 3.0]), datamodule=Data()
    )
    (tmp_path / "old").mkdir()
    moved = (tmp_path / "checkpoints").rename(tmp_path / "old" / "checkpoints")
    best = BestCheckpoint()
    resumed = trainer(tmp_path / "old", best, LastCheckpoint())
    resumed.fit(Module([4.0, 4.5]), datamodule=Data(), ckpt_path=moved / "last.ckpt", weights_only=True)
    assert best.step == 4
    assert best.metrics["val/bleu"] == 5.0
    assert saved(tmp_path / "old", "best")["global_step"] == 4


@pytest.mark.parametrize("mode", ["max", "min"])
def test_any_score_is_better_than_none(tmp_path, mode):
    nan = float("nan")
    best = BestCheckpoint(mode=mode)
    trainer(tmp_path, best).fit(Module([nan, nan, 2.0, nan]), datamodule=Data())
    assert saved(tmp_path, "best")["global_step"] == best.step == 12
    assert best.metrics["val/bleu"] == 2.0


def test_best_checkpoint_says_how_its_output_was_decoded(tmp_path):
    module = Module()
    trainer(tmp_path, best := BestCheckpoint(), max_epochs=1).fit(module, datamodule=Data())
    assert best.decode is None
    module.decode = DecodingOptions("beam", beam=3)
    trainer(tmp_path, BestCheckpoint(), max_epochs=1).fit(module, datamodule=Data())
    stored = saved(tmp_path, "best")["callbacks"]["BestCheckpoint"]
    assert stored["decode"] == asdict(module.decode)
    best.load_state_dict(stored)
    assert best.decode == asdict(module.decode)


def test_an_unknown_metric_is_named(tmp_path):
    with pytest.raises(InputError, match="monitor is 'val/blue', but validation logged val/bleu, val/loss"):
        trainer(tmp_path, BestCheckpoint("val/blue")).fit(Module(), datamodule=Data())


def test_last_checkpoint_is_written_between_validations(tmp_path):
    steps = []

    class Spy(LastCheckpoint):
        def on_train_batch_end(self, trainer, *arguments):
            super().on_train_batch_end(trainer, *arguments)
            path = tmp_path / "checkpoints" / "last.ckpt"
            steps.append(saved(tmp_path, "last")["global_step"] if path.exists() else None)

    options = {"max_epochs": 1, "accumulate_grad_batches": 2}
    trainer(tmp_path, Spy(every_n_train_steps=2), **options).fit(Module(), datamodule=Data(10))
    assert steps == [None, None, None, 2, 2, 2, 2, 4, 4, 4]
    assert saved(tmp_path, "last")["global_step"] == 5


def test_a_trial_run_leaves_nothing_behind(tmp_path):
    callbacks = (BestCheckpoint(), LastCheckpoint(), Samples(), Throughput())
    trainer(tmp_path, *callbacks, fast_dev_run=True).fit(Module(), datamodule=Data())
    assert list(tmp_path.iterdir()) == []


def test_throughput_counts_target_tokens_without_validation(tmp_path):
    speed = Throughput()
    module = Module(step_seconds=0.02, validation_seconds=0.2)
    started = time.perf_counter()
    trainer(tmp_path, speed, LastCheckpoint()).fit(module, datamodule=Data())
    elapsed = time.perf_counter() - started
    assert speed.tokens == 16 * TOKENS
    # 16 steps of 20 ms and 8 validation batches of 200 ms.
    assert 0.32 <= speed.seconds <= elapsed - 1.6
    rates = [
        row["train/tokens_per_second"]
        for row in read_metrics(tmp_path / "metrics.csv")
        if "val/loss" not in row
    ]
    assert len(rates) == 8
    assert all(0 < rate <= TOKENS / 0.02 for rate in rates)


def test_throughput_goes_on_after_a_resumption(tmp_path):
    trainer(tmp_path, Throughput(), LastCheckpoint(), max_epochs=2).fit(Module(), datamodule=Data())
    speed = Throughput()
    last = tmp_path / "checkpoints" / "last.ckpt"
    trainer(tmp_path, speed).fit(Module(), datamodule=Data(), ckpt_path=last, weights_only=True)
    assert speed.tokens == 16 * TOKENS


def test_a_checkpoint_counts_the_step_that_it_follows(tmp_path):
    options = {"max_steps": 3, "log_every_n_steps": 4, "limit_val_batches": 0}
    callbacks = (Throughput(), LastCheckpoint(every_n_train_steps=3))
    found = []

    class Spy(pl.Callback):
        def on_train_end(self, *_):
            found.append(saved(tmp_path, "last")["callbacks"]["Throughput"])

    trainer(tmp_path, Spy(), *callbacks, **options).fit(Module(), datamodule=Data())
    assert found[0]["tokens"] == 3 * TOKENS
    assert found[0]["seconds"] > 0


def test_samples_show_rows_of_the_whole_set(tmp_path):
    trainer(tmp_path, Samples(count=3), max_epochs=1).fit(Module(), datamodule=Data())
    text = (tmp_path / "samples.md").read_text()
    assert "after 4 steps" in text
    for i in (0, 2, 4):
        assert f"- source: source {i}\n- reference: reference {i}\n- output: output {i}\n" in text
    assert "source 1" not in text


@pytest.mark.parametrize(("items", "count", "chosen"), [(5, 9, [0, 1, 2, 3, 4]), (6, 2, [0, 3]), (3, 0, [])])
def test_spread(items, count, chosen):
    assert spread(list(range(items)), count) == chosen


def test_predictions_are_in_the_order_of_the_corpus(tmp_path):
    trainer(tmp_path, Predictions()).predict(Module(), datamodule=Data())
    assert (tmp_path / "predictions.txt").read_text() == "".join(f"output {i}\n" for i in range(6))


def test_progress_lines_are_few(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "lightning_bpd"), caplog.filtering(logging.Filter("lightning_bpd")):
        module = Module([1234.5, 2.0])
        trainer(tmp_path, ProgressLines(seconds=60), max_epochs=2).fit(module, datamodule=Data(50))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].endswith("epoch 0  step 50  val/bleu 1,234  val/loss 0.5")


def test_progress_lines_come_now_and_then(tmp_path, caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Slow(Module):
        def training_step(self, batch, batch_index):
            now[0] += 1
            return super().training_step(batch, batch_index)

    with caplog.at_level(logging.INFO, "lightning_bpd"), caplog.filtering(logging.Filter("lightning_bpd")):
        trainer(tmp_path, ProgressLines(seconds=15), max_epochs=1).fit(Slow(), datamodule=Data(50))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in lines] == ["0:15", "0:30", "0:45", "0:50"]
    assert "val/bleu" in lines[-1]
