import sys

from lightning_bpd.tracking.weights_and_biases import wandb_logger


def test_a_broken_wandb_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert wandb_logger(tmp_path / "run", "offline") is None
    assert "Going on without W&B" in caplog.text


def test_a_failing_start_is_a_warning(tmp_path, monkeypatch, caplog):
    import wandb

    def fail(**_):
        raise wandb.errors.CommError("no connection")

    monkeypatch.setattr(wandb, "init", fail)
    assert wandb_logger(tmp_path / "run", "offline") is None
    assert "Going on without W&B: no connection" in caplog.text


def test_online_without_a_key_goes_on_offline(tmp_path, monkeypatch, caplog):
    import wandb

    asked = {}
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    start = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **options: asked.update(options) or start(mode="disabled"))
    assert wandb_logger(tmp_path / "run", "online") is not None
    assert asked["mode"] == "offline"
    assert asked["dir"] == tmp_path / "run"
    assert "writing offline" in caplog.text
