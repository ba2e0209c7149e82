"""Block heads by the command line: from a base to blocks, and one checkpoint under many rules."""

import csv
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import yaml

from lightning_bpd import load
from lightning_bpd.cli.report import report
from lightning_bpd.measuring.record import read_record
from tools.demo_corpus.sentences import sentence_pairs

PROJECT = Path(__file__).parents[2]
CONFIGS = PROJECT / "configs"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
RULES = ("exact", "top-2", "top-3", "minimum-2", "minimum-2+top-2")


def train_py(folder, *args):
    """Runs the command line in a folder; returns exit code, standard output and standard error."""
    command = [sys.executable, str(PROJECT / "train.py"), *args]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A base, and heads on it."""
    folder = tmp_path_factory.mktemp("blocks")
    pairs = sentence_pairs(seed=3)
    for name, count in (("train", 600), ("val", 41), ("test", 31)):
        part = list(islice(pairs, count))
        (folder / f"{name}.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in part))
    settings = {
        "data": {
            "class_path": "ParallelText",
            "init_args": {"folder": ".", "vocab_size": 500, "batch_tokens": 256},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 3},
    }
    shape = {"d_model": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 64}
    base = {"model": {"class_path": "BaseTraining", "init_args": {"architecture": {**shape, "norm": "pre"}}}}
    (folder / "text.yaml").write_text(yaml.safe_dump({**settings, **base}))
    code, _, errors = train_py(
        folder, "fit", "-c", "text.yaml", "--experiment", "base", "--wandb", "disabled"
    )
    assert code == 0, errors
    heads = (
        "-c",
        "text.yaml",
        "-c",
        str(CONFIGS / "translation/frozen.yaml"),
        "--model.base",
        "runs/base/model",
    )
    size = ("--model.heads.block_size", "4", "--model.heads.d_hidden", "32", "--trainer.max_epochs", "2")
    code, output, errors = train_py(folder, "fit", *heads, *size, "--experiment", "heads")
    assert code == 0, errors
    assert "val/mean_accepted_block_size" in errors, "progress shows it"
    for line in ("greedy", "k = 1, exact", "k = 4, exact", "mean", "accepted"):
        assert line in output
    return folder


def test_a_run_leaves_all_that_one_wants_to_see(trained):
    run = trained / "runs" / "heads"
    assert (run / "block_sizes.png").read_bytes().startswith(b"\x89PNG")
    assert "| iteration | accepted | rejected | failed head | p_1 wanted |" in (run / "traces.md").read_text()
    with (run / "accepted_sizes.csv").open() as file:
        assert {row["rule"] for row in csv.DictReader(file)} == {"k4_exact"}
    with (run / "metrics.csv").open() as file:
        names = set(next(csv.reader(file)))
    assert {"val/mean_accepted_block_size", "val/k4_exact/speedup", "train/head_3/accuracy"} <= names
    assert (run / "checkpoints" / "best.ckpt").stat().st_size < 500_000, "heads alone"
    assert load(run / "model").heads.block_size == 4


def test_a_report_follows_a_fit(trained, tmp_path):
    report([str(trained / "runs" / "heads")], str(tmp_path), resamples=100)
    record = read_record(trained / "runs" / "heads" / "compare_validation.json")
    assert (record.training.regime, record.training.block_size) == ("frozen", 4)
    sizes = [(arm.acceptance, arm.block_size) for arm in record.arms if arm.decoder == "blockwise"]
    assert sizes == [*(("exact", size) for size in (1, 2, 3, 4)), ("adaptive", 4)]
    assert all(arm.greedy_agreement == 1 for arm in record.arms)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "the same output" in text
    assert "frozen, gold" in text


@pytest.mark.slow
def test_one_checkpoint_under_five_rules(trained):
    """Five command lines that differ in decoding options only."""
    metrics = {}
    for rule in RULES:
        options = ("--decode.decoder", "blockwise", "--decode.acceptance", rule)
        code, _, errors = train_py(trained, "test", "--experiment", "heads", *options)
        assert code == 0, errors
        path = trained / "runs" / "heads" / f"test_blockwise_all_{rule}.json"
        metrics[rule] = json.loads(path.read_text())["metrics"]
        assert f"test/k4_{rule}/mean_accepted_block_size" in metrics[rule]
        assert metrics[rule]["test/bleu"] == metrics[rule][f"test/k4_{rule}/bleu"]
    sizes = [metrics[rule]["test/mean_accepted_block_size"] for rule in RULES]
    assert len(set(sizes)) == len(RULES), "each rule takes effect"
    assert sizes[0] < sizes[1] < sizes[2]
    assert min(sizes[3:]) >= 1.9  # the last block of a row may be a lone end token
    assert metrics["exact"]["test/k4_exact/greedy_agreement"] == 1.0
    options = ("--decode.decoder", "blockwise", "--decode.block_size", "2")
    code, _, errors = train_py(trained, "validate", "--experiment", "heads", *options)
    assert code == 0, errors
    assert (trained / "runs" / "heads" / "validation_blockwise_2_exact.json").is_file()


def test_translate_and_certify(trained):
    source = trained / "lines.txt"
    source.write_text(
        "".join(line.split("\t")[0] + "\n" for line in (trained / "test.tsv").read_text().splitlines())
    )
    outputs = {}
    for name, options in {
        "greedy": (),
        "blockwise": ("--decoder", "blockwise"),
        "small": ("--decoder", "blockwise", "--block-size", "2", "--batch-size", "3"),
        "loose": ("--decoder", "blockwise", "--acceptance", "top-3"),
    }.items():
        code, outputs[name], errors = train_py(
            trained, "translate", "--model", "runs/heads/model", "--input", str(source), *options
        )
        assert code == 0, errors
    assert outputs["greedy"] == outputs["blockwise"] == outputs["small"] != outputs["loose"]
    code, output, _ = train_py(trained, "certify", "--model", "runs/heads/model", "--input", str(source))
    *rows, counts = output.splitlines()
    assert code == 0
    assert counts == "31 identical, 0 near-tie, 0 divergent of 31 lines"
    assert rows[4] == "5\tidentical"


def test_a_checkpoint_of_heads_becomes_a_finished_model(trained):
    checkpoint = ("export", "--checkpoint", "runs/heads/checkpoints/best.ckpt", "--output", "exported")
    assert train_py(trained, *checkpoint)[0] == 0
    assert load(trained / "exported").heads is not None
    code, _, errors = train_py(trained, *checkpoint, "--base", "runs/heads/nothing")
    assert code == 2
    assert errors.startswith("error: runs/heads/nothing holds no finished model")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("translate", "--model", "runs/heads/model", "--decoder", "blockwise", "--block-size", "5"),
            "error: block_size 5 is larger than the 4 that the heads were trained for",
        ),
        (
            (
                "translate",
                "--model",
                "runs/heads/model",
                "--decoder",
                "blockwise",
                "--acceptance",
                "distance-2",
            ),
            "error: acceptance 'distance-2' compares values that have an order",
        ),
        (
            ("translate", "--model", "runs/heads/model", "--decoder", "blockwise", "--acceptance", "often"),
            "error: there is no acceptance rule 'often': choose exact, top-N",
        ),
        (
            ("translate", "--model", "runs/base/model", "--decoder", "blockwise"),
            "error: this model has no block heads",
        ),
        (("certify", "--model", "runs/base/model"), "error: runs/base/model has no block heads"),
        (
            ("test", "--experiment", "heads", "--decode.decoder", "blockwise", "--decode.block_size", "5"),
            "error: block_size 5 is larger than the 4 that the heads were trained for",
        ),
        (
            ("test", "--experiment", "heads", "--blockwise.rules", '[{"acceptance": "distance-1"}]'),
            "error: ",
        ),
    ],
)
def test_wrong_options_get_one_line(trained, args, message):
    (trained / "empty").write_text("a\n")
    extra = ("--input", "empty") if args[0] in ("translate", "certify") else ()
    code, _, errors = train_py(trained, *args, *extra)
    assert code == 2
    last = errors.splitlines()[-1]
    assert last.startswith(message), errors
    assert "Traceback" not in errors
