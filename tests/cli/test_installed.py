"""An installed package, without a checkout, takes the demo corpus from training to the report."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Install the package, without its dependencies and without a network, and return the folder of its programs."""
    if importlib.util.find_spec("pip") is None or int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("pip and setuptools 77 build the package")
    folder = tmp_path_factory.mktemp("installed")
    # Setuptools leaves files beside the source, so it builds a copy.
    source = folder / "source"
    for name in ("lightning_bpd", "configs", "data/demo"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # The dependencies of this environment, behind the packages of the new one.
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (packages / "dependencies.pth").write_text("\n".join(paths) + "\n")
    python = folder / "venv" / "bin" / "python"
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", *offline, source], check=True)
    shutil.rmtree(source)
    return python.parent


@pytest.mark.slow
def test_from_training_to_the_report(environment, tmp_path):
    settings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(arguments, text=None, code=0):
        command = [environment / "lightning-bpd", *arguments.split()]
        done = subprocess.run(command, cwd=tmp_path, env=settings, input=text, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert "train.py" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    where = [environment / "python", "-c", "import lightning_bpd; print(lightning_bpd.__file__)"]
    package = subprocess.run(where, cwd=tmp_path, env=settings, capture_output=True, text=True, check=True)
    assert package.stdout.startswith(str(environment.parent))

    short = "--decode.max_new_tokens 8 --trainer.limit_train_batches 3 --trainer.limit_val_batches 1"
    printed = run(f"fit --trainer.max_epochs 1 {short} --wandb=disabled")
    assert "lightning-bpd translate --model runs/default/model" in printed
    model = "--model runs/default/model"
    lines = "The old man buys a house.\nWhere is Mrs Fischer working?\n"
    translated = run(f"translate {model} --decoder blockwise --max_new_tokens 8", lines)
    assert len(translated.splitlines()) == 2
    run(f"compare {model} --data data/demo --rows 4 --timed 2 --block_sizes [4] --max_new_tokens 8")
    run("report runs/default --corpus test --output page")
    assert (tmp_path / "page" / "report.html").is_file()
    assert "run `lightning-bpd compare` first" in run("report data", code=2)
    # A shipped configuration is found by its name.
    assert "lightning-bpd fit --config configs/" in run(
        "grid --config configs/grids/demo.yaml --dry_run true"
    )
