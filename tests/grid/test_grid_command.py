"""The command as it is called: files that stack, flags, the printed plan, the lock and the exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonargparse import auto_cli

import lightning_bpd
from lightning_bpd.cli import grid as command
from lightning_bpd.cli.grid import duration, grid
from lightning_bpd.cli.run_folder import lock
from lightning_bpd.grid import plan as grid_plan
from lightning_bpd.interfaces import InputError

REPOSITORY = Path(lightning_bpd.__file__).parents[1]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Calls the command as the command line does, in the repository, with runs in the test's folder."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(command, "_gpus", list)

    def call(*args):
        capsys.readouterr()
        options = ["--runs", str(tmp_path / "runs"), "--data", str(tmp_path), *args]
        auto_cli(grid, args=options, as_positional=False, exit_on_error=False, prog="grid")
        return capsys.readouterr().out

    return call


def test_files_stack_and_flags_win(call, tmp_path):
    (tmp_path / "own.yaml").write_text("name: own\nblock_sizes: [2, 3]\narguments: [--wandb=disabled]\n")
    files = ("--config", "configs/grids/translation.yaml", "--config", str(tmp_path / "own.yaml"))
    printed = call(
        *(*files, "--dry_run", "true", "--mixes", "[gold]", "--jobs", "2", "--data", str(tmp_path))
    )
    assert "joint_gold_k3_s1" in printed
    assert "k8" not in printed
    assert "distilled" not in printed
    assert str(tmp_path / "runs" / "own" / "base") in printed
    assert not (tmp_path / "runs").exists()
    (line,) = (line for line in printed.splitlines() if "--experiment frozen_gold_k2_s1" in line)
    assert line.strip().startswith("python train.py fit --config configs/translation/multi30k.yaml")
    assert "--wandb=disabled" in line
    assert "11 of 11 steps to do, 2 at once: about " in printed


def test_what_is_missing_is_said_before_anything_runs(call, tmp_path):
    for args, message in (
        (("--base", "nowhere"), "--base nowhere: no finished model is there"),
        (("--teacher_data", str(tmp_path)), "--teacher_data .*: no finished distilled text"),
        (("--base_configs", "[nothing.yaml]"), "there is no file nothing.yaml"),
        (("--data", "nowhere"), "--data nowhere: no such folder"),
        (("--regimes", "[joint]"), "joint_from"),
    ):
        with pytest.raises(InputError, match=message):
            call(*args)
    assert not (tmp_path / "runs").exists()


def test_a_grid_of_images(tmp_path, monkeypatch, capsys):
    """Of the digits nothing is on disk; other images are a folder or an archive."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(command, "_gpus", list)

    def planned(*args):
        options = ["--runs", str(tmp_path / "runs"), "--dry_run", "true", *args]
        auto_cli(grid, args=options, as_positional=False, exit_on_error=False, prog="grid")
        return capsys.readouterr().out

    printed = planned("--config", "configs/grids/digits.yaml")
    assert len(re.findall(r"^(?:frozen|joint)\w+ ", printed, re.MULTILINE)) == 11
    assert len(re.findall("python train.py compare ", printed)) == 12
    assert "--data" not in printed
    cifar10 = ("--config", "configs/grids/cifar10_small.yaml", "--data")
    with pytest.raises(InputError, match="--data nowhere: no such folder"):
        planned(*cifar10, "nowhere")
    (tmp_path / "images.zip").touch()
    assert f"--data.path {tmp_path / 'images.zip'}" in planned(*cifar10, str(tmp_path / "images.zip"))


def test_a_base_of_images_from_elsewhere(tmp_path, monkeypatch, capsys):
    """Its own run, or a flag, says what it is measured on."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(command, "_gpus", list)
    base = tmp_path / "elsewhere" / "model"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(base)

    def planned(grid_file, *args):
        options = ["--config", f"configs/grids/{grid_file}.yaml", "--runs", str(tmp_path / "runs"), *args]
        options += ["--base", str(tmp_path / "link"), "--dry_run", "true"]
        auto_cli(grid, args=options, as_positional=False, exit_on_error=False, prog="grid")
        return capsys.readouterr().out

    with pytest.raises(InputError, match=r"link: there is no .*elsewhere/config\.yaml, .*: give --data, or"):
        planned("digits")
    assert "--timed 50 --data=digits" in planned("digits", "--compare_arguments", "[--data=digits]")
    (tmp_path / "images.zip").touch()
    printed = planned("cifar10_small", "--data", str(tmp_path / "images.zip"))
    assert f"/base/model --data {tmp_path / 'images.zip'} --corpus validation" in printed
    (base.parent / "config.yaml").touch()
    assert "--data" not in planned("digits")


RECORD = next(Path(__file__).parents[1].glob("report/compare_0_1/text/heads/*.json"))
FAKE = """
import json, sys
from pathlib import Path
options = dict(zip(sys.argv[1:], sys.argv[2:]))
if sys.argv[1] == "fit":
    model = Path(options["--runs"]) / options["--experiment"] / "model"
    model.mkdir(parents=True)
    if options["--experiment"] == (Path(__file__).parent / "fails").read_text():
        sys.exit("the reason")
    metrics = {"validation": {"bleu": 12.345, "mean_accepted_block_size": 1.5}}
    (model / "metrics.json").write_text(json.dumps(metrics))
    (model / "config.json").write_text("{}")
if sys.argv[1] == "compare":
    record = json.loads((Path(__file__).parent / "record.json").read_text())
    record["arms"] = record["arms"][:1]
    record["arms"][0]["quality"]["bleu"] = 20.0
    place = Path(options["--model"]).parent / f"compare_{options['--corpus']}.json"
    # As compare refuses to replace what was measured otherwise.
    assert not place.exists()
    place.write_text(json.dumps(record))
if sys.argv[1] == "report":
    Path(options["--output"]).mkdir(exist_ok=True)
    (Path(options["--output"]) / "report.html").write_text("")
"""


def test_a_grid_from_start_to_report(call, tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(FAKE)
    (tmp_path / "record.json").write_bytes(RECORD.read_bytes())
    (tmp_path / "fails").write_text("frozen_gold_k2_s1")
    monkeypatch.setattr(command, "TRAIN", [sys.executable, str(tmp_path / "train.py")])
    small = ("--block_sizes", "[1,2]", "--mixes", "[gold]", "--jobs", "2")
    with pytest.raises(SystemExit) as stopped:
        call(*small)
    assert stopped.value.code == 1
    folder = tmp_path / "runs" / "grid"
    assert not (folder / "joint_gold_k2_s1").exists()
    assert (folder / "joint_gold_k1_s1" / "compare_test_2016_flickr.json").is_file()
    assert (folder / "report" / "report.html").is_file()
    # All that the report may take for a measurement is one.
    measured = {path.parent.name for path in folder.glob("*/compare_*.json")}
    assert measured == {"base", "joint_gold_k1_s1"}
    assert "the reason" in (folder / "logs" / "frozen_gold_k2_s1.log").read_text()
    assert json.loads((folder / "steps" / "step_frozen_gold_k2_s1.json").read_text())["exit_code"] == 1

    (tmp_path / "fails").write_text("")
    printed = call(*small)
    assert re.search(
        r"frozen_gold_k2_s1: done in \d+ s  BLEU 12\.35, mean accepted block size 1\.50", printed
    )
    assert re.search(r"compare_joint_gold_k2_s1: done in \d+ s  BLEU 20\.00", printed)
    assert "\nbase: started" not in printed
    assert f"Report: {folder / 'report' / 'report.html'}" in printed
    assert "all 9 steps are done" in call(*small)
    call(*small, "--timed", "7")
    assert (folder / "earlier" / "compare_base.1").is_file()
    assert (folder / "base" / "compare_test_2016_flickr.json").is_file()
    call(*small)
    assert "joint_gold_k1_s1  " in call(*small, "--dry_run", "true")


def test_one_grid_at_a_time(call, tmp_path):
    with lock(tmp_path / "runs" / "grid"), pytest.raises(InputError, match="another process runs a grid in"):
        call()
    (tmp_path / "runs" / "grid" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="holds a run, not a grid"):
        call()


def test_gpus_are_shared_out(monkeypatch):
    def shares(gpus, **settings):
        monkeypatch.setattr(command, "_gpus", lambda: gpus)
        jobs, slots = command._slots(grid_plan.Grid(**settings))
        assert jobs == len(slots)
        return [slot.get("CUDA_VISIBLE_DEVICES") for slot in slots]

    assert shares(["0", "1"]) == ["0", "1"]
    assert shares(["0", "1"], jobs=1) == ["0,1"]
    assert shares(["3", "5"], jobs=3) == ["3", "5", "3"]
    assert set(shares([])) == {None}
    monkeypatch.setattr(command.os, "sched_getaffinity", lambda process: set(range(8)))
    _, slots = command._slots(grid_plan.Grid(jobs=2))
    assert [slot["OMP_NUM_THREADS"] for slot in slots] == ["4", "4"]


def test_durations():
    assert [duration(seconds) for seconds in (0.4, 59.6, 125, 12_000)] == [
        "0 s",
        "1 min 0 s",
        "2 min 5 s",
        "3 h 20 min",
    ]


def test_planning_needs_no_torch():
    """Only what runs does."""
    code = "import lightning_bpd.grid.run, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
