"""Hugging Face bases by the command line: fit, translate, certify, distill, export, test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_models import pairs

PROJECT = Path(__file__).parents[2]
CONFIGS = PROJECT / "configs" / "translation"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}


def train_py(folder, *args):
    """Runs the command line in a folder; returns exit code, standard output and standard error."""
    done = subprocess.run(
        [sys.executable, str(PROJECT / "train.py"), *args],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(corpus, marian) -> Path:
    settings = {
        "data": {
            "class_path": "ParallelText",
            "init_args": {"folder": ".", "batch_tokens": 600, "max_length": 100},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
        "decode": {"extra_length": 5},
    }
    (corpus / "text.yaml").write_text(yaml.safe_dump(settings))
    (corpus / "lines.txt").write_text("".join(f"{source}\n" for source, _ in pairs(9, seed=8)))
    code, output, errors = train_py(
        corpus, "fit", "-c", str(CONFIGS / "frozen.yaml"), "-c", "text.yaml", "--model.base", f"hf:{marian}",
        "--model.heads.block_size", "3", "--model.heads.d_hidden", "16", "--model.heads.candidates", "100",
        "--experiment", "heads", "--wandb", "disabled",
    )  # fmt: skip
    assert code == 0, errors
    assert "k = 3, exact" in output
    return corpus


@pytest.mark.slow
def test_from_a_model_to_faster_translation(trained, marian):
    outputs = {}
    for name, options in {
        "base": ("--model", f"hf:{marian}"),
        "greedy": ("--model", "runs/heads/model"),
        "blockwise": ("--model", "runs/heads/model", "--decoder", "blockwise"),
        "moved": ("--model", "runs/heads/model", "--decoder", "blockwise", "--base", f"hf:{marian}"),
    }.items():
        code, outputs[name], errors = train_py(
            trained, "translate", "--input", "lines.txt", "--extra-length", "5", *options
        )
        assert code == 0, errors
    assert len(set(outputs.values())) == 1
    assert outputs["base"].count("\n") == 9
    code, output, errors = train_py(
        trained, "certify", "--model", "runs/heads/model", "--input", "lines.txt", "--extra-length", "5"
    )
    assert code == 0, errors
    assert output.endswith("9 identical, 0 near-tie, 0 divergent of 9 lines\n")
    code, _, errors = train_py(
        trained, "export", "--checkpoint", "runs/heads/checkpoints/best.ckpt", "--output", "exported"
    )
    assert code == 0, errors
    assert {path.name for path in (trained / "exported").iterdir()} == {
        "heads.safetensors", "config.json", "metrics.json", "README.md",
    }  # fmt: skip
    code, _, errors = train_py(trained, "test", "--experiment", "heads", "--decode.decoder", "blockwise")
    assert code == 0, errors
    measured = json.loads((trained / "runs/heads/test_blockwise_all_exact.json").read_text())
    assert measured["metrics"]["test/k3_exact/greedy_agreement"] == 1.0


@pytest.mark.slow
def test_a_teachers_translations_train_both(trained, marian):
    distil = ("distill", "--data", ".", "--output", "distilled", "--decoder", "beam", "--beam", "2")
    limits = ("--extra-length", "5", "--processes", "1", "--max-length-ratio", "1000")
    code, _, errors = train_py(trained, *distil, *limits, "--teacher", f"hf:{marian}")
    # Random weights end few rows.
    assert code == 0 or "nothing is left of" in errors, errors
    code, _, errors = train_py(
        trained, "fit", "-c", str(CONFIGS / "joint.yaml"), "-c", "text.yaml", "--model.base", "runs/heads/model",
        "--model.heads.block_size", "3", "--model.heads.d_hidden", "16", "--model.head_weights", "[4, 2, 1]",
        "--experiment", "joint", "--wandb", "disabled",
    )  # fmt: skip
    assert code == 0, errors
    assert "going on from them" in errors
    assert (trained / "runs/joint/model/base/model.safetensors").is_file()
    code, output, errors = train_py(
        trained, "translate", "--model", "runs/joint/model", "--input", "lines.txt", "--decoder", "blockwise"
    )
    assert code == 0, errors
    assert output.count("\n") == 9


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("hf:nowhere/at/all", "error: nowhere/at/all: no such folder"),
        ("hf:.", "error: . holds no Hugging Face model"),
        ("hf:x,dtype=int4", "error: hf:x,dtype=int4: unknown dtype 'int4'"),
    ],
)
def test_wrong_models_get_one_line(tmp_path, model, message):
    (tmp_path / "lines.txt").write_text("a\n")
    code, _, errors = train_py(tmp_path, "translate", "--model", model, "--input", "lines.txt")
    assert code == 2
    assert errors.splitlines()[-1].startswith(message), errors


@pytest.mark.slow
def test_prompts_from_the_command_line(corpus, llama):
    (corpus / "short.yaml").write_text(yaml.safe_dump({"trainer": {"accelerator": "cpu", "max_epochs": 1}}))
    code, _, errors = train_py(
        corpus, "fit", "-c", str(CONFIGS / "prompts.yaml"), "-c", str(CONFIGS / "frozen.yaml"), "-c", "short.yaml",
        "--model.base", f"hf:{llama}", "--model.heads.block_size", "2",
        "--data.folder", ".", "--data.template", "translate: {source} =", "--data.source_language", "en",
        "--data.target_language", "de", "--data.max_length", "120", "--decode.extra_length", "5",
        "--experiment", "prompts", "--wandb", "disabled",
    )  # fmt: skip
    assert code == 0, errors
    (corpus / "lines.txt").write_text("A dog.\n\nTwo cats.\n")
    outputs = []
    for decoder in ("greedy", "blockwise"):
        code, output, errors = train_py(
            corpus, "translate", "--model", "runs/prompts/model", "--input", "lines.txt", "--decoder", decoder
        )
        assert code == 0, errors
        outputs.append(output)
    assert outputs[0] == outputs[1]
    assert outputs[0].count("\n") == 3
