import csv
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

from lightning_bpd.cli.arguments import drop_repeated

QUICK = ("--wandb", "disabled", "--trainer.enable_model_summary", "false")
HARD = (*QUICK, "--config", str(Path(__file__).with_name("hard.yaml")))


def checkpoint(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        names = ("step", "train/loss", "val/loss")
        return sorted(tuple(row[name] for name in names) for row in csv.DictReader(file))


def assert_same_run(folder, other):
    for name in ("best", "last"):
        ours, theirs = checkpoint(folder, name), checkpoint(other, name)
        assert ours["global_step"] == theirs["global_step"]
        for states in ("state_dict", "current_model_state", "averaging_state"):
            for key, tensor in ours[states].items():
                assert torch.equal(tensor, theirs[states][key]), (name, states, key)
    assert losses(folder) == losses(other)


def wait_for(process, condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def rows(folder):
    path = folder / "metrics.csv"
    return path.read_text().count("\n") if path.is_file() else 0


@pytest.mark.slow
def test_a_second_run_keeps_the_first(tmp_path, run):
    assert run("fit", *QUICK)[0] == 0
    first = tmp_path / "runs" / "default"
    assert sorted(path.name for path in first.iterdir()) == [
        *("checkpoints", "config.yaml", "finished.json", "metrics.csv", "samples.md")
    ]
    assert sorted(path.name for path in (first / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["model"]["init_args"]["learning_rate"] == 0.05
    assert checkpoint(first)["global_step"] == 30
    content = (first / "metrics.csv").read_bytes()

    code, errors = run("fit", *QUICK, "--model.learning_rate", "0.01")
    assert code == 0
    assert "Kept the earlier run as runs/default.1 (--ckpt_path last would have resumed it)" in errors
    assert (tmp_path / "runs" / "default.1" / "metrics.csv").read_bytes() == content
    assert (first / "metrics.csv").read_bytes() != content

    # Measuring starts from the run's own configuration, and the command line wins over it.
    code, errors = run("test", "--model.pause", "0.001")
    assert code == 0
    assert "runs/default/checkpoints/best.ckpt" in errors
    assert run("predict")[0] == 0
    assert (first / "predictions.txt").read_text() == "".join(f"output {i}\n" for i in range(6))

    # So does measuring a file of another run, and what is measured goes there.
    code, errors = run("test", "--ckpt_path", "runs/default.1/checkpoints/last.ckpt")
    assert code == 0, errors
    other = tmp_path / "runs" / "default.1"
    assert f"Written to {other / 'test_greedy.json'}" in errors
    assert (other / "test_greedy.json").is_file()
    assert yaml.safe_load((other / "config.yaml").read_text())["model"]["init_args"]["learning_rate"] == 0.05


def test_a_file_of_the_run_resumes_it_with_its_configuration(tmp_path, run):
    assert run("fit", *QUICK, "--trainer.max_epochs", "1", "--model.learning_rate", "0.01")[0] == 0
    last = tmp_path / "runs" / "default" / "checkpoints" / "last.ckpt"
    code, errors = run("fit", "--ckpt_path", str(last), "--trainer.max_epochs", "2")
    assert code == 0, errors
    config = yaml.safe_load((tmp_path / "runs" / "default" / "config.yaml").read_text())
    assert config["model"]["init_args"]["learning_rate"] == 0.01
    assert checkpoint(tmp_path / "runs" / "default")["global_step"] == 20
    assert not (tmp_path / "runs" / "default.1").exists()

    # A resumption whose checkpoint does not fit leaves the run as it was.
    before = (tmp_path / "runs" / "default" / "config.yaml").read_bytes()
    code, errors = run("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3", "--model.inputs", "5")
    assert code != 0
    assert "size mismatch" in errors
    assert (tmp_path / "runs" / "default" / "config.yaml").read_bytes() == before


def test_mistakes_are_one_line(run):
    for args, message in (
        (("fit", "--ckpt_path", "last"), "error: nothing to resume in runs/default: no checkpoint has been"),
        (("test",), "error: no checkpoint runs/default/checkpoints/best.ckpt: train one first"),
        (("fit", "--trainer.nonsense", "3"), "error: "),
        (("fit", "--experiment", "../x"), "error: --experiment '../x' cannot name a folder"),
    ):
        code, errors = run(*args)
        assert code == 2, errors
        assert errors.startswith(message)
        assert errors.count("\n") == 1, errors


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL]
)
def test_an_interrupted_run_resumes_as_if_it_never_was(tmp_path, run, start, number):
    assert run("fit", *HARD, "--experiment", "whole")[0] == 0
    # Interrupted twice, at moments left to chance: the pauses leave seconds between the last of them and the end.
    resume: tuple[str, ...] = ()
    stopped = 0
    for wait_rows in (5, 15):
        process = start("fit", *HARD, *resume, "--experiment", "cut", "--model.pause", "0.15")
        cut = tmp_path / "runs" / "cut"
        wait_for(process, lambda: rows(cut) >= wait_rows and (cut / "checkpoints" / "last.ckpt").exists())  # noqa: B023
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), errors
        if number != signal.SIGKILL:
            assert "go on with: --ckpt_path last" in errors
            assert "Traceback" not in errors
            assert checkpoint(cut)["global_step"] > stopped
            stopped = checkpoint(cut)["global_step"]
        resume = ("--ckpt_path", "last")
    code, errors = run("fit", *resume, "--experiment", "cut")
    assert code == 0, errors
    assert_same_run(tmp_path / "runs" / "cut", tmp_path / "runs" / "whole")


def test_one_command_starts_a_run_goes_on_with_it_and_leaves_it_when_it_is_finished(tmp_path, run, start):
    command = ("fit", *HARD, "--experiment", "cut", "--ckpt_path", "auto")
    assert run("fit", *HARD, "--experiment", "whole")[0] == 0
    cut = tmp_path / "runs" / "cut"
    process = start(*command, "--model.pause", "0.05")
    wait_for(process, lambda: rows(cut) >= 8 and (cut / "checkpoints" / "last.ckpt").exists())
    process.kill()
    process.communicate()
    # As Lightning leaves it under SLURM: the newest checkpoint is a file of its name, and an older one is damaged.
    checkpoints = cut / "checkpoints"
    (checkpoints / "last.ckpt").rename(cut / "hpc_ckpt_2.ckpt")
    (checkpoints / "last.ckpt").write_bytes((cut / "hpc_ckpt_2.ckpt").read_bytes()[:999])
    code, errors = run(*command)
    assert code == 0, errors
    assert "last.ckpt cannot be read" in errors
    assert f"Going on from {cut.relative_to(tmp_path)}/hpc_ckpt_2.ckpt" in errors
    assert_same_run(cut, tmp_path / "runs" / "whole")

    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in cut.rglob("*")}
    code, errors = run(*command)
    assert code == 0
    assert "runs/cut is finished: nothing is left to do" in errors
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in cut.rglob("*")}
    # For longer it goes on.
    assert run(*command, "--trainer.max_epochs", "5")[0] == 0
    assert checkpoint(cut)["global_step"] == 25
    assert [path.name for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")] == [
        "whole",
        "cut",
    ]

    for path in (*checkpoints.iterdir(), *cut.glob("hpc_*")):
        path.write_bytes(b"damaged")
    code, errors = run(*command, "--trainer.max_epochs", "6")
    assert code == 2
    assert "error: no checkpoint in runs/cut can be read" in errors


SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_ARRAY_JOB_ID": "4710",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_JOB_NAME": "x",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_NODELIST": "localhost",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--ckpt_path", "auto")])
def test_slurm_requeues_the_job_and_the_same_command_goes_on(tmp_path, run, start, options):
    assert run("fit", *HARD, "--experiment", "whole")[0] == 0
    # An earlier run of somebody else makes way once.
    assert run("fit", *QUICK, "--trainer.max_epochs", "1", "--experiment", "cut")[0] == 0
    if options:
        (tmp_path / "runs" / "cut").rename(tmp_path / "runs" / "cut.1")
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    scontrol.chmod(0o755)
    env = {**SLURM, "PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    command = ("fit", *HARD, "--experiment", "cut", *options)
    cut = tmp_path / "runs" / "cut"
    process = start(*command, "--model.pause", "0.1", env=env)
    wait_for(process, lambda: (tmp_path / "runs" / "cut.1").exists() and rows(cut) >= 6)
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGUSR1, errors
    assert (tmp_path / "requeued").read_text() == "requeue 4710_3\n"
    assert not list(cut.glob("hpc_*"))
    stopped = checkpoint(cut)["global_step"]
    code, errors = run(*command, env={**env, "SLURM_RESTART_COUNT": "1"})
    assert code == 0, errors
    assert stopped < checkpoint(cut)["global_step"]
    assert_same_run(cut, tmp_path / "runs" / "whole")
    assert not (tmp_path / "runs" / "cut.2").exists()
    code, errors = run(*command, env={**env, "SLURM_RESTART_COUNT": "2"})
    assert code == 0
    assert "is finished" in errors


def test_nohup_is_respected(tmp_path, start):
    process = start(
        "fit", *QUICK, "--model.pause", "0.05", "--trainer.log_every_n_steps", "1", program=["nohup"]
    )
    wait_for(process, lambda: rows(tmp_path / "runs" / "default") >= 3)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert checkpoint(tmp_path / "runs" / "default")["global_step"] == 30


def test_a_second_signal_stops_at_once(tmp_path, start):
    options = ("--trainer.num_sanity_val_steps", "0", "--trainer.log_every_n_steps", "1")
    process = start("fit", *QUICK, *options, "--model.pause", "6")
    wait_for(process, lambda: rows(tmp_path / "runs" / "default") >= 2)
    process.send_signal(signal.SIGINT)
    errors = ""
    while "finishing this step" not in errors:
        line = process.stderr.readline()
        assert line, errors
        errors += line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=300)
    assert process.returncode == 130, errors + rest
    # Had it finished the step, it would have saved it.
    assert not (tmp_path / "runs" / "default" / "checkpoints").exists()


def test_wandb_writes_below_the_run_and_resumes_under_one_id(tmp_path, run):
    assert run("fit", "--trainer.max_epochs", "1")[0] == 0
    assert run("fit", "--ckpt_path", "last", "--trainer.max_epochs", "2")[0] == 0
    written = sorted((tmp_path / "runs" / "default" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(written) == 2
    assert written[0].name == written[1].name
    assert all(b"learning_rate" in path.read_bytes() for path in written)
    assert not (tmp_path / "wandb").exists()


def test_two_processes_stop_together(tmp_path, start):
    process = start(
        *(
            "fit",
            *QUICK,
            "--model.pause",
            "0.02",
            "--data.batches",
            "200",
            "--interruption.agree_every_n_train_steps",
        ),
        *("5", "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.log_every_n_steps", "1"),
        *("--trainer.use_distributed_sampler", "false"),
    )
    folder = tmp_path / "runs" / "default"
    wait_for(process, lambda: rows(folder) >= 4)
    process.send_signal(signal.SIGTERM)  # the main process alone
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors
    stopped = checkpoint(folder)
    assert stopped["global_step"] % 5 == 0
    # 3 rows of 2 tokens a batch, on each of the two.
    assert stopped["callbacks"]["Throughput"]["tokens"] == 2 * 6 * stopped["global_step"]


def test_a_callback_that_is_added_is_added_once(tmp_path, run):
    """The command that started a run resumes it: its configuration has the callback from the first start."""
    added = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss")
    added = (*QUICK, *added, "--trainer.callbacks.patience=50")
    assert run("fit", *added, "--trainer.max_epochs", "1")[0] == 0
    code, errors = run("fit", *added, "--trainer.max_epochs", "2", "--ckpt_path", "last")
    assert code == 0, errors
    stored = yaml.safe_load((tmp_path / "runs" / "default" / "config.yaml").read_text())
    (callback,) = stored["trainer"]["callbacks"]
    assert callback["init_args"]["patience"] == 50


def test_what_is_added_twice():
    """Only what a list holds already is left out, and numbers never are."""
    options = {
        "callbacks": [{"a": 1}, {"b": 2}, {"a": 1}],
        "weights": [1, 1, 2.0, 2.0],
        "others": ["x", "x"],
        "one": 3,
    }
    drop_repeated(
        options, ["fit", "--callbacks+=A", "--weights+", "2", "--one+=3", "--others=x", "--none+=1"]
    )
    assert options == {
        "callbacks": [{"a": 1}, {"b": 2}],
        "weights": [1, 1, 2.0, 2.0],
        "others": ["x", "x"],
        "one": 3,
    }
