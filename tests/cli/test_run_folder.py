import pytest

from lightning_bpd.cli.arguments import expand_data_folder
from lightning_bpd.cli.run_folder import (
    checkpoint_to_measure,
    checkpoint_to_resume,
    lock,
    run_folder,
    set_aside,
)
from lightning_bpd.interfaces import InputError


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return path


def test_run_folder_is_below_runs(tmp_path):
    assert run_folder(str(tmp_path), "multi30k-base.2") == tmp_path / "multi30k-base.2"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp", "-x", "a b"])
def test_names_that_are_no_folder_are_refused(name):
    with pytest.raises(InputError, match="--experiment"):
        run_folder("runs", name)


def test_an_earlier_run_gets_the_first_free_number(tmp_path):
    write(tmp_path / "default.1" / "config.yaml")
    write(tmp_path / "default" / "metrics.csv")
    assert set_aside(tmp_path / "default") == tmp_path / "default.2"
    assert (tmp_path / "default.2" / "metrics.csv").is_file()
    assert not (tmp_path / "default").exists()


def test_nothing_to_set_aside(tmp_path):
    (tmp_path / "empty").mkdir()
    assert set_aside(tmp_path / "empty") is None
    assert set_aside(tmp_path / "absent") is None
    assert (tmp_path / "empty").is_dir()


def test_resuming_needs_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"nothing to resume in .*x: no checkpoint .* without --ckpt_path"):
        checkpoint_to_resume(tmp_path / "x", "last")
    with pytest.raises(InputError, match="no such file"):
        checkpoint_to_resume(tmp_path / "x", str(tmp_path / "y.ckpt"))
    last = write(tmp_path / "x" / "checkpoints" / "last.ckpt")
    assert checkpoint_to_resume(tmp_path / "x", "last") == last
    with pytest.raises(InputError, match="no best checkpoint"):
        checkpoint_to_resume(tmp_path / "x", "best")
    assert checkpoint_to_resume(tmp_path / "x", str(last)) == last


def test_measuring_takes_the_best_checkpoint(tmp_path):
    last = write(tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match=r"no checkpoint .*best.ckpt"):
        checkpoint_to_measure(tmp_path, None)
    best = write(tmp_path / "checkpoints" / "best.ckpt")
    assert checkpoint_to_measure(tmp_path, None) == best
    assert checkpoint_to_measure(tmp_path, "last") == last
    assert checkpoint_to_measure(tmp_path, str(last)) == last


def test_data_folder_is_short_for_its_argument(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    assert expand_data_folder(["fit", "--data", "text", "--wandb", "disabled"]) == [
        *("fit", "--data.init_args.folder", "text", "--wandb", "disabled")
    ]
    assert expand_data_folder(["fit", "--data=text"]) == ["fit", "--data.init_args.folder=text"]


def test_data_class_stays_a_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for args in (["fit", "--data", "DemoText"], ["fit", "--data=DemoText"], ["fit", "--data"]):
        assert expand_data_folder(args) == args


def test_a_folder_belongs_to_one_training_process_at_a_time(tmp_path):
    with lock(tmp_path / "runs" / "default"):
        with pytest.raises(InputError, match="another process is training"):
            lock(tmp_path / "runs" / "default")
        lock(tmp_path / "runs" / "other").close()
    lock(tmp_path / "runs" / "default").close()
