import pytest

from lightning_bpd import files
from lightning_bpd.cli.arguments import expand_data_folder, naming_options
from lightning_bpd.cli.run_folder import (
    checkpoint_to_measure,
    checkpoint_to_resume,
    folder_of,
    is_finished,
    is_of_run,
    is_requeued,
    lock,
    mark_finished,
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
    assert set_aside(tmp_path / "absent") is None
    # What a start that failed leaves behind.
    write(tmp_path / "failed" / "wandb" / "run_id")
    write(tmp_path / "failed" / "config.yaml")
    assert set_aside(tmp_path / "failed") is None
    assert (tmp_path / "failed" / "wandb" / "run_id").is_file()


@pytest.mark.parametrize("result", ["checkpoints/last.ckpt", "metrics.csv", "model/config.json"])
def test_every_result_is_kept(tmp_path, result):
    write(tmp_path / "run" / result)
    assert set_aside(tmp_path / "run") == tmp_path / "run.1"


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


def test_which_checkpoints_are_of_a_run(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "default"
    ours, theirs = (
        write(path / "checkpoints" / "best.ckpt") for path in (run, tmp_path / "runs" / "default.1")
    )
    assert all(is_of_run(run, each) for each in ("last", "best", str(ours), str(run / "kept" / "x.ckpt")))
    assert not any(is_of_run(run, each) for each in (None, str(theirs)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.ckpt").symlink_to(ours)
    assert is_of_run(run, "link.ckpt")


def test_a_checkpoint_file_tells_its_run(tmp_path, monkeypatch):
    path = write(tmp_path / "runs" / "my run" / "checkpoints" / "best.ckpt")
    assert folder_of(str(path)) is None
    write(tmp_path / "runs" / "my run" / "config.yaml")
    assert folder_of(str(path)) == tmp_path / "runs" / "my run"
    assert folder_of(str(path.rename(tmp_path / "runs" / "my run" / "best.ckpt"))) is None
    monkeypatch.chdir(tmp_path / "runs" / "my run" / "checkpoints")
    assert folder_of("best.ckpt") == tmp_path / "runs" / "my run"
    assert folder_of("best") is folder_of(None) is None


def test_data_folder_is_short_for_its_argument(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    assert expand_data_folder(["fit", "--data", "text", "--wandb", "disabled"], {"DemoText"}) == [
        *("fit", "--data.init_args.folder", "text", "--wandb", "disabled")
    ]
    assert expand_data_folder(["fit", "--data=text"], {"DemoText"}) == ["fit", "--data.init_args.folder=text"]


def test_data_class_stays_a_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "settings" / "data.yaml")
    described = '{"class_path": "a/b", "init_args": {"text": "' + "x" * 300 + '"}}'
    for value in ("DemoText", "my_module.MyText", "settings/data.yaml", described, "--wandb"):
        for args in (["fit", "--data", value], ["fit", f"--data={value}"]):
            assert expand_data_folder(args, {"DemoText"}) == args
    assert expand_data_folder(["fit", "--data"], {"DemoText"}) == ["fit", "--data"]


@pytest.mark.parametrize("value", ["no/such/folder", "./text", "nowhere", "demotext"])
def test_data_that_is_neither_is_refused(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    for args in (["fit", "--data", value], ["fit", f"--data={value}"]):
        with pytest.raises(InputError, match=f"--data {value}: no such folder, nor .* known are DemoText"):
            expand_data_folder(args, {"DemoText"})


def test_a_folder_belongs_to_one_training_process_at_a_time(tmp_path):
    with lock(tmp_path / "runs" / "default"):
        with pytest.raises(InputError, match="another process is training"):
            lock(tmp_path / "runs" / "default")
        lock(tmp_path / "runs" / "other").close()
    lock(tmp_path / "runs" / "default").close()


def test_options_that_name_the_run_are_found_among_others():
    args = [
        "--data.cache",
        "x",
        "--experiment",
        "a",
        "--runs=b",
        "-c",
        "f.yaml",
        "--trainer.devices=2",
        "--config=g",
    ]
    assert naming_options(args) == ["--experiment", "a", "--runs=b", "-c", "f.yaml", "--config=g"]


def test_a_run_is_finished_for_its_own_length_only(tmp_path):
    options = {"max_epochs": 3, "max_steps": -1, "max_time": None, "devices": 1}
    assert not is_finished(tmp_path, options)
    mark_finished(tmp_path, options)
    assert is_finished(tmp_path, {**options, "devices": 2})
    for longer in ({"max_epochs": 4}, {"max_steps": 9}, {"max_time": "00:01:00:00"}):
        assert not is_finished(tmp_path, {**options, **longer})
    (tmp_path / "finished.json").write_text("half")
    assert not is_finished(tmp_path, options)


def test_a_requeued_job_knows_its_own_run(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "runs" / "default"
    lock(folder).close()
    assert not is_requeued(folder)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    # Requeued before it began: what is there is of somebody else.
    assert not is_requeued(folder)
    lock(folder).close()
    assert is_requeued(folder)
    assert not is_requeued(tmp_path / "runs" / "other")
    # A second fit in one job starts a run of its own.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert not is_requeued(folder)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert not is_requeued(folder)


def test_what_a_killed_run_left_does_not_go_along(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(b"")
    left = [folder / f"{files._OWN}12345678{files._ENDING}" for folder in (run, run / "checkpoints")]
    for path in left:
        path.write_bytes(b"half")
    kept = set_aside(run)
    assert [path.name for path in sorted(kept.rglob("*"))] == ["checkpoints", "last.ckpt"]
