"""Blockwise decoding under a real trainer."""

import json
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import wandb
from jsonargparse import ArgumentParser
from known_blocks import (
    CALLS,
    CALLS_TOP_2,
    ROWS,
    SIZES,
    SIZES_TOP_2,
    TOP_2,
    Copy,
    Data,
    Module,
    Plain,
    flat,
    mean,
    sizes_file,
    trainer,
    validated,
)
from pytorch_lightning.loggers import WandbLogger

from lightning_bpd import timing
from lightning_bpd.callbacks.block_measurement import BlockRule
from lightning_bpd.callbacks.blockwise_decoding import BlockwiseDecoding
from lightning_bpd.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_bpd.interfaces import InputError
from lightning_bpd.tracking.metrics_file import MetricsFile, read_metrics


def test_metrics_are_those_of_the_known_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter_ns=lambda: Copy.clock))
    metrics = validated(tmp_path, BlockwiseDecoding([BlockRule(), TOP_2]))
    tokens = sum(map(len, ROWS))
    # By rows of a batch: the clock counts calls, and a batch takes as many as its longest row.
    greedy_time, time, time_top_2 = 6 + 3 + 7 + 3, 3 + 3 + 3 + 3, 4 + 2 + 4 + 2
    assert metrics == {
        "val/mean_accepted_block_size": mean(SIZES),
        "val/k3_exact/mean_accepted_block_size": mean(SIZES),
        "val/k3_exact/bleu": pytest.approx(100.0),
        "val/k3_exact/chrf": pytest.approx(100.0),
        "val/k3_exact/greedy_agreement": 1.0,
        "val/k3_exact/model_calls": sum(CALLS) / 7,
        "val/k3_exact/iteration_reduction": tokens / sum(CALLS),
        "val/k3_exact/speedup": greedy_time / time,
        "val/k2_top-2/mean_accepted_block_size": mean(SIZES_TOP_2),
        "val/k2_top-2/bleu": metrics["val/k2_top-2/bleu"],
        "val/k2_top-2/chrf": metrics["val/k2_top-2/chrf"],
        # Rows 1 and 4 read 8 for 7; 0 and 6 have their 7 where it heads a block.
        "val/k2_top-2/greedy_agreement": 5 / 7,
        "val/k2_top-2/model_calls": sum(CALLS_TOP_2) / 7,
        "val/k2_top-2/iteration_reduction": tokens / sum(CALLS_TOP_2),
        "val/k2_top-2/speedup": greedy_time / time_top_2,
        "val/replay/mean_accepted_block_size_k1": 1.0,
        "val/replay/mean_accepted_block_size_k2": metrics["val/replay/mean_accepted_block_size_k2"],
        "val/replay/mean_accepted_block_size_k3": mean(SIZES),
    }
    assert 50 < metrics["val/k2_top-2/bleu"] < 95
    assert 50 < metrics["val/k2_top-2/chrf"] < 99
    decoded = validated(tmp_path, BlockwiseDecoding([BlockRule(2)]))
    assert metrics["val/replay/mean_accepted_block_size_k2"] == decoded["val/mean_accepted_block_size"]


def test_the_distribution_is_in_a_file(tmp_path):
    validated(tmp_path, BlockwiseDecoding([BlockRule(), TOP_2]))
    rows = [row for row in sizes_file(tmp_path) if row["rule"] == "k3_exact"]
    assert [row["size"] for row in rows] == ["1", "2", "3"]
    counts = [flat(SIZES).count(size) for size in (1, 2, 3)]
    assert [int(row["iterations"]) for row in rows] == counts
    total = sum(counts)
    assert [float(row["share"]) for row in rows] == pytest.approx(
        [count / total for count in counts], abs=1e-6
    )
    at_least = [1.0, (counts[1] + counts[2]) / total, counts[2] / total]
    assert [float(row["share_at_least"]) for row in rows] == pytest.approx(at_least, abs=1e-6)
    assert {(row["stage"], row["step"]) for row in rows} == {("val", "0")}
    assert len(sizes_file(tmp_path)) == 3 + 2


def test_only_the_first_rows_of_the_corpus_are_measured(tmp_path):
    metrics = validated(tmp_path, BlockwiseDecoding(rows=3, traces=10))
    assert metrics["val/mean_accepted_block_size"] == mean(SIZES[:3])
    assert metrics["val/k3_exact/model_calls"] == sum(CALLS[:3]) / 3
    traces = (tmp_path / "traces.md").read_text()
    assert [line for line in traces.splitlines() if line.startswith("## ")] == [
        "## Row 1",
        "## Row 2",
        "## Row 3",
    ]


class Backwards(Data):
    """The corpus's first rows come in the last batch."""

    def batches(self):
        return super().batches()[::-1]


@pytest.mark.parametrize(
    ("batches", "rows", "measured"),
    [(1, 3, [4]), (2, 1, [2]), (2, None, [2, 4, 5]), (0.5, 2, [2, 4]), (9, 3, [0, 1, 2])],
)
def test_a_limit_leaves_rows_of_its_own(tmp_path, batches, rows, measured):
    """The first ones of those that come, whatever their places in the corpus."""
    limits = {"limit_val_batches": batches, "limit_test_batches": batches}
    loop = trainer(tmp_path, BlockwiseDecoding(rows=rows, traces=10), **limits)
    for measure, stage in ((loop.validate, "val"), (loop.test, "test")):
        measure(Module(), datamodule=Backwards(), verbose=False)
        metrics = {name: float(value) for name, value in loop.callback_metrics.items()}
        assert metrics[f"{stage}/mean_accepted_block_size"] == mean([SIZES[row] for row in measured])
        model_calls = sum(CALLS[row] for row in measured) / len(measured)
        assert metrics[f"{stage}/k3_exact/model_calls"] == model_calls
        traces = (tmp_path / "traces.md").read_text()
        traced = [int(line.split()[-1]) - 1 for line in traces.splitlines() if line.startswith("## ")]
        assert traced == measured


def test_a_limit_of_two_ranks(tmp_path):
    """As many rows as one process takes of as many batches."""
    for name, options in (
        ("one", {"limit_val_batches": 2}),
        ("two", {"limit_val_batches": 1, "devices": 2, "strategy": "ddp_spawn"}),
    ):
        loop = trainer(tmp_path / name, BlockwiseDecoding(rows=2), **options)
        loop.validate(Module(tmp_path / name), datamodule=Backwards(), verbose=False)
    found = [
        json.loads((tmp_path / file).read_text())["val/mean_accepted_block_size"]
        for file in ("one/0.json", "two/0.json", "two/1.json")
    ]
    assert found == [mean([SIZES[2], SIZES[4]])] * 3


def test_testing_is_measured_under_its_own_name(tmp_path):
    loop = trainer(tmp_path, BlockwiseDecoding())
    loop.test(Module(), datamodule=Data(), verbose=False)
    assert float(loop.callback_metrics["test/mean_accepted_block_size"]) == mean(SIZES)
    assert "test/k3_exact/speedup" in loop.callback_metrics
    assert {row["stage"] for row in sizes_file(tmp_path)} == {"test"}
    loop = trainer(tmp_path / "untraced", BlockwiseDecoding(traces=0))
    loop.test(Module(), datamodule=Data(), verbose=False)
    assert [path.name for path in (tmp_path / "untraced").iterdir()] == ["accepted_sizes.csv"]
    assert "test source 0" in (tmp_path / "traces.md").read_text()


def test_two_ranks_measure_to_the_last_digit(tmp_path):
    for name, options in (("one", {}), ("two", {"devices": 2, "strategy": "ddp_spawn"})):
        callback = BlockwiseDecoding([BlockRule(), TOP_2], traces=4)
        loop = trainer(tmp_path / name, callback, **options)
        loop.validate(Module(tmp_path / name), datamodule=Data(), verbose=False)
    (one,) = (json.loads(path.read_text()) for path in (tmp_path / "one").glob("?.json"))
    first, second = (json.loads((tmp_path / "two" / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert one.keys() == first.keys()
    # Time is all that differs.
    assert {name for name in one if one[name] != first[name]} <= {
        "val/k3_exact/speedup",
        "val/k2_top-2/speedup",
    }
    assert one["val/mean_accepted_block_size"] == mean(SIZES)
    for name in ("accepted_sizes.csv", "traces.md"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


def test_checkpoints_can_go_by_it_and_a_trial_run_leaves_nothing_behind(tmp_path):
    best = BestCheckpoint("val/mean_accepted_block_size")
    logger = MetricsFile(tmp_path)
    trainer(tmp_path, BlockwiseDecoding(), best, logger=logger).fit(Module(), datamodule=Data())
    assert best.metrics["val/mean_accepted_block_size"] == mean(SIZES)
    assert read_metrics(tmp_path / "metrics.csv")[-1]["val/k3_exact/greedy_agreement"] == 1.0
    (tmp_path / "trial").mkdir()
    trainer(tmp_path / "trial", BlockwiseDecoding(), fast_dev_run=True).fit(Module(), datamodule=Data())
    assert list((tmp_path / "trial").iterdir()) == []


def test_some_epochs_are_left_out(tmp_path):
    best = BestCheckpoint("val/mean_accepted_block_size")
    callback = BlockwiseDecoding(every_n_epochs=2)
    trainer(tmp_path, callback, best, max_epochs=4).fit(Module(), datamodule=Data())
    assert [row["step"] for row in sizes_file(tmp_path)] == ["2"] * 3 + ["6"] * 3
    assert best.step == 2


def test_a_resumed_run_has_something_to_monitor(tmp_path):
    trainer(tmp_path, BlockwiseDecoding(), LastCheckpoint()).fit(Module(), datamodule=Data())
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    callbacks = (BlockwiseDecoding(every_n_epochs=2), BestCheckpoint("val/mean_accepted_block_size"))
    trainer(tmp_path, *callbacks, max_epochs=4).fit(Module(), datamodule=Data(), ckpt_path=checkpoint)
    # Epoch 1 for being the first of this command, 2 in its turn; 3 not.
    assert [row["step"] for row in sizes_file(tmp_path)] == ["2"] * 3 + ["4"] * 3 + ["6"] * 3


def test_a_resumed_run_says_nothing_twice(tmp_path):
    trainer(tmp_path, BlockwiseDecoding(), LastCheckpoint(), max_epochs=1).fit(Module(), datamodule=Data())
    checkpoint = (tmp_path / "checkpoints" / "last.ckpt").rename(tmp_path / "after_2_steps.ckpt")
    # This run was cut off after its sixth step, so steps 3 to 6 are taken again.
    trainer(tmp_path, BlockwiseDecoding(), max_epochs=3).fit(
        Module(), datamodule=Data(), ckpt_path=checkpoint
    )
    assert [row["step"] for row in sizes_file(tmp_path)] == ["2"] * 3 + ["4"] * 3 + ["6"] * 3
    options = {"max_epochs": 2, "val_check_interval": 1}
    trainer(tmp_path, BlockwiseDecoding(), **options).fit(Module(), datamodule=Data(), ckpt_path=checkpoint)
    assert [row["step"] for row in sizes_file(tmp_path)] == ["2"] * 3 + ["3"] * 3 + ["4"] * 3


def test_a_measured_checkpoint_keeps_its_step_and_other_rules_stay(tmp_path):
    trainer(tmp_path, BlockwiseDecoding(), LastCheckpoint()).fit(Module(), datamodule=Data())
    for rule in (TOP_2, BlockRule(1), TOP_2):
        loop = trainer(tmp_path, BlockwiseDecoding([rule]), LastCheckpoint())
        loop.validate(
            Module(), datamodule=Data(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt", verbose=False
        )
    assert {row["step"] for row in sizes_file(tmp_path)} == {"2"}
    labels = [row["rule"] for row in sizes_file(tmp_path)]
    assert labels == ["k3_exact"] * 3 + ["k1_exact"] + ["k2_top-2"] * 2


def test_averaged_weights_are_what_is_measured(tmp_path):
    class Averaging(pl.Callback):
        """Swaps weights as Lightning's own does, here after the other callback has begun and before it ends."""

        def on_validation_epoch_start(self, trainer, pl_module):
            pl_module.weight.data.fill_(-1.0)

        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.weight.data.fill_(1.0)

    for callbacks in ((Averaging(), BlockwiseDecoding()), (BlockwiseDecoding(), Averaging())):
        metrics = validated(tmp_path, *callbacks)
        assert metrics["val/mean_accepted_block_size"] == 1.0
        assert "| `` w9 w9 ``" in (tmp_path / "traces.md").read_text().replace("▁", "")


def test_weights_of_each_validation_are_measured_anew(tmp_path):
    class Worse(Module):
        def on_validation_epoch_end(self):
            self.weight.data.fill_(-1.0)

    logger = MetricsFile(tmp_path)
    trainer(tmp_path, BlockwiseDecoding(), logger=logger, max_epochs=2).fit(Worse(), datamodule=Data())
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["val/mean_accepted_block_size"] for row in rows if "epoch" in row and len(row) > 2] == [
        mean(SIZES),
        1.0,
    ]


def test_precision_is_the_modules_own(tmp_path):
    validated(tmp_path, BlockwiseDecoding(), precision="bf16-mixed")
    assert Copy.autocast is True
    validated(tmp_path, BlockwiseDecoding())
    assert Copy.autocast is False


def test_a_module_without_heads_is_left_alone(tmp_path):
    trainer(tmp_path, BlockwiseDecoding()).fit(Plain(), datamodule=Data())
    assert not validated(tmp_path, BlockwiseDecoding(), module=Plain())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([BlockRule(4)], "block_size 4 is larger than the 3 that the heads were trained for"),
        ([BlockRule(None, "distance-1")], "acceptance 'distance-1' compares values that have an order"),
        ([BlockRule(None, "minimum-2+distance-1")], "compares values that have an order"),
        ([BlockRule(), BlockRule(3)], "given the rule k3_exact twice"),
    ],
)
def test_rules_that_do_not_fit_are_refused_at_the_start(tmp_path, command, rules, message):
    module = Module()
    with pytest.raises(InputError, match=message):
        getattr(trainer(tmp_path, BlockwiseDecoding(rules)), command)(module, datamodule=Data())
    assert module.steps == 0


def test_settings_that_make_no_sense_are_refused():
    for settings in ({"rules": []}, {"every_n_epochs": 0}, {"rows": 0}, {"traces": -1}):
        with pytest.raises(InputError, match="blockwise decoding needs a rule"):
            BlockwiseDecoding(**settings)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(BlockwiseDecoding, "blockwise")
    for rule, message in (
        ('{"block_size": 0}', "block_size must be at least 1, not 0"),
        ('{"acceptance": "topp-2"}', "there is no acceptance rule 'topp-2': choose exact, top-N"),
    ):
        with pytest.raises(InputError, match=message):
            parser.instantiate(parser.parse_args([f"--blockwise.rules=[{rule}]"]))


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ([], None),
        (
            ['--blockwise.rules=[{"acceptance": "top-2"}, {"block_size": 2}]'],
            [BlockRule(None, "top-2"), BlockRule(2)],
        ),
    ],
)
def test_rules_come_from_the_command_line_and_back_from_the_file_that_it_writes(options, rules):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(BlockwiseDecoding, "blockwise")
    parsed = parser.parse_args([*options, "--blockwise.rows=8"])
    for configuration in (parsed, parser.parse_string(parser.dump(parsed))):
        callback = parser.instantiate(configuration).blockwise
        assert callback.rules == rules
        assert callback.rows == 8


def test_weights_and_biases_gets_scalars_histograms_and_traces(tmp_path):
    run = wandb.init(mode="disabled")
    logged = {}
    run.log = logged.update
    logger = WandbLogger(experiment=run, save_dir=tmp_path)
    trainer(tmp_path, BlockwiseDecoding([BlockRule(), TOP_2]), logger=logger).fit(Module(), datamodule=Data())
    for name in (
        "mean_accepted_block_size",
        "bleu",
        "greedy_agreement",
        "model_calls",
        "iteration_reduction",
        "speedup",
    ):
        assert isinstance(logged[f"val/k3_exact/{name}"], float)
    assert logged["val/mean_accepted_block_size"] == pytest.approx(mean(SIZES))
    assert logged["val/replay/mean_accepted_block_size_k3"] == pytest.approx(mean(SIZES))
    counts = [flat(SIZES).count(size) for size in (1, 2, 3)]
    sizes = logged["val/k3_exact/accepted_sizes"]
    assert isinstance(sizes, wandb.Histogram)
    assert list(sizes.histogram) == counts
    assert list(sizes.bins) == [0.5, 1.5, 2.5, 3.5]
    at_least = logged["val/k2_top-2/acceptance_by_position"].histogram
    assert list(at_least) == pytest.approx([1.0, flat(SIZES_TOP_2).count(2) / len(flat(SIZES_TOP_2))])
    table = logged["val/traces"]
    assert isinstance(table, wandb.Table)
    assert table.columns == ["row", "iteration", "accepted", "rejected", "failed head", "p_1 wanted"]
    assert table.data[0] == [1, 1, "w5 ▁w6", "▁w8", 3, "▁w7"]
