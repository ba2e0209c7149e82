"""Drafter, rule, sampler, network and codec that the package has never heard of, named by import paths alone."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import yaml

from lightning_bpd.measuring.record import read_record
from tools.demo_corpus.sentences import sentence_pairs

PROJECT = Path(__file__).parents[2]
ALPHABET = "enisratdhulcgmobwfkzvpüäßöjyqx ,."
NEVER = ALPHABET.index("s") + 1
# The project itself has to be found, too, if it is not installed.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), str(PROJECT))),
}


def run(folder: Path, *args: str, lines: str | None = None) -> str:
    command = [sys.executable, str(PROJECT / "train.py"), *args]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, input=lines, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base of a new network on the tokens of a new codec, and a new drafter trained on it."""
    folder = tmp_path_factory.mktemp("extension")
    pairs = sentence_pairs(seed=3)
    for name, count in (("train", 400), ("val", 20), ("test", 20)):
        part = list(islice(pairs, count))
        (folder / f"{name}.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in part))
    base = {
        "model": {
            "class_path": "BaseTraining",
            "init_args": {
                "architecture": {"class_path": "ideas.Window", "init_args": {"seen": 5}},
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.005}},
                "warmup_steps": 20,
            },
        },
        "data": {
            "class_path": "ParallelText",
            "init_args": {
                "folder": ".",
                "codec": {"class_path": "ideas.Spelling", "init_args": {"alphabet": ALPHABET}},
                "batch_tokens": 1024,
            },
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 3},
    }
    drafter = {
        "model": {
            "class_path": "FrozenBaseHeadDistillation",
            "init_args": {
                "base": "runs/base/model",
                "drafter": {"class_path": "ideas.NextOfToken", "init_args": {"block_size": 4, "width": 16}},
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
                "warmup_steps": 5,
            },
        },
        "decode": {"sampler": {"class_path": "ideas.Without", "init_args": {"token": NEVER}}},
    }
    for name, settings in (("base", base), ("drafter", drafter)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    run(folder, "fit", "--config", "base.yaml", "--experiment", "base", "--wandb", "disabled")
    both = ("--config", "base.yaml", "--config", "drafter.yaml")
    run(folder, "fit", *both, "--experiment", "drafter", "--wandb", "disabled", "--trainer.max_epochs", "3")
    return folder


def test_new_ideas_go_from_training_to_the_report(folder):
    config = json.loads((folder / "runs" / "drafter" / "model" / "config.json").read_text())
    assert config["heads"]["class_path"] == "ideas.NextOfToken"
    assert config["network"]["class_path"] == "ideas.Window"
    assert config["network"]["architecture"]["seen"] == 5
    fields = {"alphabet": ALPHABET, "bleu_tokenizer": "13a"}
    assert config["codec"] == {"class_path": "ideas.Spelling", "fields": fields}
    lines = "".join(line.partition("\t")[0] + "\n" for line in (folder / "test.tsv").read_text().splitlines())
    model = ("--model", "runs/drafter/model")
    blocks = run(folder, "translate", *model, "--decoder", "blockwise", lines=lines)
    assert blocks == run(folder, "translate", *model, lines=lines)

    # Validated again with a rule of the same package, compared, and reported.
    run(folder, "test", "--experiment", "drafter", "--decode.decoder", "blockwise",
        "--decode.acceptance", "ideas.Half", "--wandb", "disabled")  # fmt: skip
    written = json.loads((folder / "runs" / "drafter" / "test_blockwise_all_ideas.Half.json").read_text())
    assert written["decode"]["sampler"] == {"class_path": "ideas.Without", "init_args": {"token": NEVER}}
    run(folder, "compare", *model, "--data", ".", "--rules", '["exact", "ideas.Half"]')
    record = read_record(folder / "runs" / "drafter" / "compare_test.json")
    exact = {arm.block_size: arm for arm in record.arms if arm.acceptance == "exact"}
    half = {arm.block_size: arm for arm in record.arms if arm.acceptance == "ideas.Half"}
    assert record.replay is None
    assert 4 in half
    assert all(arm.greedy_agreement == 1 for arm in record.arms)
    assert exact[4].mean_accepted_block_size > 1
    assert max(size for size, count in enumerate(half[4].accepted_sizes, 1) if count) <= 3
    assert half[4].mean_accepted_block_size <= exact[4].mean_accepted_block_size
    run(folder, "report", "runs/drafter", "--output", "page", "--corpus", "test")
    assert "ideas.Half" in (folder / "page" / "report.md").read_text()
