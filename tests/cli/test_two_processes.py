"""Every command on two processes ends well, with the numbers of one process."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from rich.console import Console

from lightning_bpd.callbacks.checkpoints import LastCheckpoint
from lightning_bpd.callbacks.throughput import Throughput
from lightning_bpd.cli.finish import finish
from lightning_bpd.datamodules import Digits, ParallelText
from lightning_bpd.drafters import HeadShape
from lightning_bpd.models import Architecture, ImageArchitecture
from lightning_bpd.tracking.metrics_file import MetricsFile
from lightning_bpd.training import JointFineTuning
from tools.demo_corpus.sentences import sentence_pairs

PROJECT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
ONE = ("--trainer.devices", "1", "--trainer.strategy", "auto")
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
COLLECTIVES = (
    *("barrier", "all_reduce", "reduce", "broadcast"),
    *("all_gather", "all_gather_into_tensor", "gather", "scatter"),
)
TINY = {
    "d_model": 16,
    "heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "feed_forward": 32,
    "norm": "pre",
}
HEADS = ("--model.heads.block_size", "3", "--model.heads.d_hidden", "16", "--model.head_weights", "[3, 1, 1]")
KINDS = {
    "text": {
        "data": {
            "class_path": "ParallelText",
            "init_args": {"folder": ".", "vocab_size": 400, "batch_tokens": 256},
        },
        "model": {"architecture": TINY},
    },
    "images": {
        "data": {"class_path": "Digits", "init_args": {"batch_size": 32}},
        "model": {"images": {**TINY, "height": 8, "width": 8, "channels": 1, "levels": 17, "scale": 2}},
        "trainer": {"limit_train_batches": 10},
        "best_checkpoint": {"monitor": "val/loss", "mode": "min"},
    },
}


def train_py(folder, *args):
    """Runs the command line in a folder; returns what it wrote on standard output."""
    command = [sys.executable, str(PROJECT / "train.py"), *args]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepare(folder, kind):
    """A corpus, if it is not generated, and the configuration of a tiny base."""
    pairs = sentence_pairs(seed=3)
    for name, count in (("train", 200), ("val", 21), ("test", 17)):
        part = list(islice(pairs, count))
        (folder / f"{name}.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in part))
    settings = KINDS[kind]
    model = {"class_path": "BaseTraining", "init_args": settings["model"]}
    trainer = {"accelerator": "cpu", "max_epochs": 2, **settings.get("trainer", {})}
    configuration = {**settings, "model": model, "trainer": trainer}
    (folder / "base.yaml").write_text(yaml.safe_dump(configuration))
    return folder


def test_fit_with_heads_ends_well(tmp_path):
    """The shortest run whose end decodes, writes and prints: from random weights."""
    prepare(tmp_path, "text")
    joint = ("--model", "JointFineTuning", "--model.base", json.dumps(TINY))
    output = train_py(
        tmp_path,
        "fit",
        "-c",
        "base.yaml",
        *joint,
        *HEADS,
        *TWO,
        "--trainer.max_steps",
        "2",
        "--wandb",
        "disabled",
    )
    assert "k = 3, exact" in output
    assert "Try: echo" in output


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_a_run_asks_no_other_rank(kind, tmp_path, monkeypatch):
    """Rank 0 alone writes and shows: whatever needs the others would wait for them in vain."""
    prepare(tmp_path, kind)
    shape = KINDS[kind]["model"]
    heads = HeadShape(block_size=3, d_hidden=16, first_head="learned")
    if kind == "text":
        data = ParallelText(str(tmp_path), vocab_size=400, batch_tokens=256)
        module = JointFineTuning(Architecture(**TINY), heads)
    else:
        data, module = (
            Digits(batch_size=8),
            JointFineTuning(None, heads, images=ImageArchitecture(**shape["images"])),
        )
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, default_root_dir=tmp_path, callbacks=[LastCheckpoint(), Throughput()],
        logger=MetricsFile(tmp_path), max_epochs=1, limit_train_batches=2, limit_val_batches=1, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        for name in COLLECTIVES:
            monkeypatch.setattr(
                torch.distributed, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called")
            )
        finish(trainer, Console(width=500))
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    """A base, heads on it, and both trained further: each by ``fit`` on two processes."""
    folder = prepare(tmp_path_factory.mktemp(request.param), request.param)
    room = "translation" if request.param == "text" else "super_resolution"
    train_py(folder, "fit", "-c", "base.yaml", *TWO, "--experiment", "base")
    for regime, start in (("frozen", "base"), ("joint", "frozen")):
        config = str(PROJECT / f"configs/{room}/{regime}.yaml")
        output = train_py(
            *(folder, "fit", "-c", "base.yaml", "-c", config, "--model.base", f"runs/{start}/model"),
            *(*HEADS, *TWO, "--trainer.max_epochs", "1"),
        )
        assert f"Finished model: runs/{regime}/model" in output
    return request.param, folder


def counted(metrics: dict) -> dict:
    """All but times."""
    return {name: value for name, value in metrics.items() if not name.endswith("speedup")}


@pytest.mark.slow
def test_two_processes_measure_what_one_does(trained):
    """The metrics of ``validate`` and ``test`` to the last digit, and every output of ``predict``."""
    _, folder = trained
    run = folder / "runs" / "joint"
    measured = []
    for processes in (ONE, TWO):
        found = {}
        for command, part in (("validate", "validation"), ("test", "test")):
            train_py(folder, command, "--experiment", "joint", *processes)
            found[command] = counted(json.loads((run / f"{part}_greedy.json").read_text())["metrics"])
            assert len(found[command]) > 10
        train_py(folder, "predict", "--experiment", "joint", *processes)
        written = [*run.glob("predictions.txt"), *run.glob("predictions/*")]
        found["predict"] = {path.name: path.read_bytes() for path in written}
        assert found["predict"]
        for path in written:
            path.unlink()
        measured.append(found)
    assert measured[0] == measured[1]


@pytest.mark.slow
def test_fit_measures_what_one_process_does_of_its_best_checkpoint(trained):
    """Without the training metrics, which no other command has."""
    _, folder = trained
    train_py(folder, "validate", "--experiment", "frozen", *ONE)
    alone = json.loads((folder / "runs/frozen/validation_greedy.json").read_text())["metrics"]
    of_fit = json.loads((folder / "runs/frozen/model/metrics.json").read_text())["validation"]
    assert of_fit
    of_fit = {f"val/{name}": value for name, value in of_fit.items()}
    assert counted(of_fit) == {name: value for name, value in counted(alone).items() if name in of_fit}


@pytest.mark.slow
def test_compare_and_distill_on_two_processes(trained):
    """compare as torchrun would start it, twice at once; distill in two processes of its own."""
    kind, folder = trained
    data = ("--data", ".", "--corpus", "test") if kind == "text" else ("--data", "digits", "--rows", "9")
    where = ("--device", "cpu", "--threads", "1")
    command = ("compare", "--model", "runs/joint/model", *data, *where, "--timed", "0")
    train_py(folder, *command, "--output", "one.json")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(PROJECT / "train.py"), *command, "--output", "two.json"],
            env={**ENVIRONMENT, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=300)
        assert rank.returncode == 0, errors
    one, two = (json.loads((folder / name).read_text()) for name in ("one.json", "two.json"))
    assert one["arms"] == two["arms"]
    assert one["replay"] == two["replay"]
    if kind == "text":
        for processes in ("1", "2"):
            teacher = ("--teacher", "runs/base/model", "--beam", "2", "--processes", processes)
            corpus = ("--data", ".", "--corpus", "[test]", "--part_rows", "5", "--output", f"made{processes}")
            train_py(folder, "distill", *teacher, *corpus)
        one, two = ({path.name: path.read_bytes() for path in folder.glob(f"made{n}/parts/*")} for n in "12")
        assert len(one) == 4
        assert one == two
        assert (folder / "made1/train.de").read_bytes() == (folder / "made2/train.de").read_bytes()
