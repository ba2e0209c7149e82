"""The product as its users run it: the real model and data, by the command line."""

import csv
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ENVIRONMENT

import lightning_bpd
from lightning_bpd.metrics import bleu_signature

TRAIN = Path(lightning_bpd.__file__).parents[1] / "train.py"
AVERAGE = {"decay": 0.9, "use_buffers": False}
SMALL = {
    "model": {
        "init_args": {
            "base": {
                "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 64, "dropout": 0.2,
            },
            "warmup_steps": 10,
        }
    },
    "data": {"init_args": {"folder": "data/demo", "pairs": 600, "vocab_size": 500, "batch_tokens": 256}},
    "decode": {"extra_length": 5},
    "trainer": {
        "max_epochs": 3,
        "log_every_n_steps": 1,
        "accumulate_grad_batches": 2,
        "callbacks": [{"class_path": "pytorch_lightning.callbacks.EMAWeightAveraging", "init_args": AVERAGE}],
    },
    "last_checkpoint": {"every_n_train_steps": 3},
    "wandb": "disabled",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return folder


def start(place: Path, *args: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *args], cwd=place, env=ENVIRONMENT, stderr=subprocess.PIPE, **options
    )


def run(place: Path, *args: str, text: bytes = b"") -> bytes:
    process = start(place, *args, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    output, errors = process.communicate(text, timeout=300)
    assert process.returncode == 0, errors.decode()
    return output


@pytest.fixture(scope="module")
def whole(place):
    """A run that nothing disturbs, and what it printed."""
    output = run(place, "fit", "--config", "small.yaml", "--experiment", "whole").decode()
    return place / "runs" / "whole", output


def test_a_run_ends_with_a_table_samples_and_a_finished_model(place, whole):
    folder, output = whole
    for expected in ("Result", "Samples", "Finished model: runs/whole/model", "translate --model"):
        assert expected in output
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.csv", "curves.png", "samples.md", "checkpoints", "model"} <= names
    metrics = json.loads((folder / "model" / "metrics.json").read_text())
    assert metrics["bleu_signature"] == bleu_signature()
    assert metrics["decode"]["decoder"] == "greedy"
    assert metrics["decode"]["extra_length"] == 5
    assert "validation BLEU (greedy)" in output
    assert 1 <= metrics["epochs"] <= 3
    assert metrics["training_seconds"] > 0
    assert metrics["tokens_per_second"] > 0
    assert metrics["provenance"]["packages"]["torch"] == torch.__version__
    model = lightning_bpd.load(folder / "model")
    lines = ["The dog sleeps.", "", "Where is my brother?"]
    expected = model.translate(lines)
    written = run(
        place, "translate", "--model", str(folder / "model"), text="\n".join(lines).encode() + b"\n"
    )
    assert written.decode() == "".join(line + "\n" for line in expected)


@pytest.mark.slow
def test_a_killed_run_resumed_is_a_run_never_killed(place, whole):
    process = start(
        place, "fit", "--config", "small.yaml", "--experiment", "killed", stdout=subprocess.DEVNULL
    )
    metrics = place / "runs" / "killed" / "metrics.csv"
    deadline = time.monotonic() + 120
    # In the middle of the second epoch, some steps after the last checkpoint.
    while not (
        metrics.is_file()
        and "\n" in metrics.read_text()
        and steps(metrics) >= steps(whole[0] / "metrics.csv") // 2
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = torch.load(metrics.parent / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < done["global_step"] < steps(whole[0] / "metrics.csv")

    run(place, "fit", "--experiment", "killed", "--ckpt_path", "last")
    for name in ("best", "last"):
        ours, theirs = (
            torch.load(place / "runs" / experiment / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for experiment in ("killed", "whole")
        )
        assert ours["global_step"] == theirs["global_step"]
        for states in ("state_dict", "current_model_state", "averaging_state"):
            assert ours[states].keys() == theirs[states].keys()
            assert all(torch.equal(ours[states][key], theirs[states][key]) for key in ours[states])
    assert losses(metrics) == losses(whole[0] / "metrics.csv")


def test_a_run_without_a_step_says_so(place):
    process = start(
        place, "fit", "--config", "small.yaml", "--experiment", "none", "--trainer.max_epochs", "0"
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    assert "No training step was taken, so there is no finished model." in errors.decode()
    assert b"Traceback" not in errors


def steps(metrics: Path) -> int:
    return max(int(row["step"]) for row in csv.DictReader(metrics.open()))


def losses(metrics: Path) -> list[tuple[str, ...]]:
    names = ("step", "train/loss", "train/learning_rate", "val/loss", "val/bleu")
    return [tuple(row[name] for name in names) for row in csv.DictReader(metrics.open())]


@pytest.mark.slow
def test_measuring_commands_start_from_the_run(place, whole):
    for part, options, decoder in (
        ("validate", (), "greedy"),
        ("test", ("--decode.decoder", "beam", "--data.seed", "2"), "beam"),
    ):
        run(place, part, "--experiment", "whole", *options)
        name = {"validate": "validation", "test": "test"}[part]
        written = json.loads((whole[0] / f"{name}_{decoder}.json").read_text())
        assert written["decode"]["decoder"] == decoder
        assert written["decode"]["extra_length"] == 5
    run(place, "predict", "--experiment", "whole")
    assert len((whole[0] / "predictions.txt").read_text().splitlines()) == 500
    run(place, "export", "--checkpoint", "runs/whole/checkpoints/best.ckpt", "--output", "exported")
    for name in ("model.safetensors", "config.json", "tokenizer.model"):
        assert (place / "exported" / name).read_bytes() == (whole[0] / "model" / name).read_bytes()


def test_ten_thousand_lines_of_anything_come_back(place, whole):
    generator = random.Random(0)
    lines = []
    for number in range(10_000):
        kind = number % 50
        if kind == 0:
            lines.append("")
        elif kind == 1:
            lines.append("😀👩‍👩‍👧 🇩🇪" * generator.randint(1, 4))
        elif number in (77, 5077):
            lines.append("Der lange Satz. " * 313)
        else:
            codes = [
                generator.choice([generator.randint(32, 126), generator.randint(1, 0x2FFFF)])
                for _ in range(12)
            ]
            lines.append("".join(chr(code) for code in codes if code != 10 and not 0xD800 <= code < 0xE000))
    assert max(map(len, lines)) >= 5000
    text = "".join(line + "\n" for line in lines).encode()
    options = ("--model", str(whole[0] / "model"), "--extra_length", "5", "--batch_size", "256")
    output = run(place, "translate", *options, text=text).decode()
    assert output.count("\n") == 10_000
    assert output.endswith("\n")
    translated = output.split("\n")[:-1]
    assert all(translated[number] == "" for number in range(0, 10_000, 50))
