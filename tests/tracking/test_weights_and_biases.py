import sys

import pytest

from lightning_bpd.tracking import weights_and_biases as module
from lightning_bpd.tracking.weights_and_biases import wandb_logger


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == module.__name__]


UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PATIENCE", 3)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", UNREACHABLE)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    # Where a key may be stored.
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb = sys.modules.get("wandb")
    if wandb is not None:
        wandb.teardown()


def test_a_missing_wandb_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    for mode in ("offline", "online"):
        assert wandb_logger(tmp_path / "run", mode) is None
    assert caplog.text.count("Going on without W&B") == 2


def test_a_broken_wandb_is_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "wandb.py").write_text("raise TypeError('another version of protobuf')")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert wandb_logger(tmp_path / "run", "online") is None
    assert "Going on without W&B: another version of protobuf" in caplog.text


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), TimeoutError("no answer"), AssertionError()]
)
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_failing_start_is_a_warning(tmp_path, monkeypatch, caplog, error, mode):
    import wandb

    def fail(**_):
        raise error

    monkeypatch.setattr(wandb, "init", fail)
    assert wandb_logger(tmp_path / "run", mode) is None
    assert "Going on without W&B: " in caplog.text
    assert len(warned(caplog)) == 1


@pytest.mark.parametrize(
    ("key", "reason"),
    [(None, "there is no key, which wandb login stores"), ("0" * 40, ""), ("too short", "")],
    ids=["no key", "no network", "no such key"],
)
def test_a_run_that_cannot_go_online_says_how_to_send_it(tmp_path, monkeypatch, caplog, key, reason):
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    logger = wandb_logger(tmp_path / "run", "online")
    assert logger is not None
    logger.log_metrics({"val/loss": 1.0}, 1)
    logger.finalize("success")
    (line,) = warned(caplog)
    assert line.startswith(f"W&B cannot go online ({reason}")
    (data,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert line.endswith(f"wandb sync {data}")
    assert list(data.glob("*.wandb"))


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("its process has ended")]
)
def test_a_failure_during_the_run_is_said_once(tmp_path, monkeypatch, caplog, error):
    logger = wandb_logger(tmp_path / "run", "offline")
    run = logger.experiment

    def fail(*_, **__):
        raise error

    for name in ("log", "finish"):
        monkeypatch.setattr(run, name, fail)
    for step in range(3):
        logger.log_metrics({"val/loss": 1.0}, step)
        logger.log_table("table", ["a"], [["b"]], step=step)
    logger.finalize("success")
    assert len(warned(caplog)) == 1
    assert "the run goes on without it" in caplog.text
    assert f"wandb sync {logger.data}" in caplog.text
    monkeypatch.undo()
    run.finish()
