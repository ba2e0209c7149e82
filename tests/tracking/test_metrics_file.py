from lightning_bpd.tracking.curves import draw_curves
from lightning_bpd.tracking.metrics_file import MetricsFile, read_metrics


def test_rows_are_on_disk_at_once_and_columns_may_come_later(tmp_path):
    log = MetricsFile(tmp_path / "run")
    log.log_metrics({"train/loss": 2.0, "epoch": 0}, 0)
    log.log_metrics({"train/loss": 1.5, "epoch": 0}, 1)
    assert [row["train/loss"] for row in read_metrics(log.path)] == [2.0, 1.5]
    log.log_metrics({"val/loss": 1.25, "epoch": 0}, 1)
    log.log_metrics({"train/loss": 1.0, "epoch": 1}, 2)
    assert read_metrics(log.path) == [
        {"step": 0, "epoch": 0, "train/loss": 2.0},
        {"step": 1, "epoch": 0, "train/loss": 1.5},
        {"step": 1, "epoch": 0, "val/loss": 1.25},
        {"step": 2, "epoch": 1, "train/loss": 1.0},
    ]
    assert log.path.read_text().splitlines()[0] == "step,epoch,train/loss,val/loss"


def test_a_resumed_run_keeps_rows_before_its_checkpoint_and_replaces_later_ones(tmp_path):
    before = MetricsFile(tmp_path)
    for step in range(5):
        before.log_metrics({"train/loss": 5.0 - step}, step)
    # Stopped after step 4, resumed from a checkpoint after step 2.
    resumed = MetricsFile(tmp_path)
    resumed.log_metrics({"train/loss": 9.0}, 3)
    resumed.log_metrics({"train/loss": 8.0}, 4)
    assert [row["train/loss"] for row in read_metrics(resumed.path)] == [5.0, 4.0, 3.0, 9.0, 8.0]


def test_validation_after_resuming_keeps_the_training_row_of_the_same_step(tmp_path):
    MetricsFile(tmp_path).log_metrics({"train/loss": 1.0}, 3)
    MetricsFile(tmp_path).log_metrics({"val/loss": 2.0}, 3)
    MetricsFile(tmp_path).log_metrics({"val/loss": 2.5}, 3)
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"step": 3, "train/loss": 1.0},
        {"step": 3, "val/loss": 2.5},
    ]


def test_numbers_survive_exactly(tmp_path):
    log = MetricsFile(tmp_path)
    log.log_metrics({"val/bleu": 1 / 3, "val/loss": float("nan")}, 0)
    log.log_metrics({"val/bleu": 0.0, "val/loss": float("inf")}, 1)
    first, second = read_metrics(log.path)
    assert first["val/bleu"] == 1 / 3
    assert first["val/loss"] != first["val/loss"]
    assert second == {"step": 1, "val/bleu": 0.0, "val/loss": float("inf")}


def test_curves_are_drawn_from_any_metrics(tmp_path):
    log = MetricsFile(tmp_path)
    log.log_metrics({"train/loss": 2.0}, 0)
    log.log_metrics({"val/loss": 2.0, "val/bleu": 30.0}, 1)
    for metrics in (log.path, tmp_path / "absent.csv"):
        draw_curves(metrics, tmp_path / "curves.png", "BLEU (beam 4)")
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "curves.png").unlink()
