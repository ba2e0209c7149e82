"""An installed package works as a checkout does: the same configurations and the same demo corpus."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lightning_bpd import files
from lightning_bpd.cli.entry import shipped_configs
from lightning_bpd.faults import program

ROOT = Path(__file__).parents[2]


def test_all_that_a_command_reads_is_installed():
    mapping = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    installed = {
        Path(folder).relative_to("share/lightning_bpd") / path.name: path
        for folder, patterns in mapping.items()
        for pattern in patterns
        for path in ROOT.glob(pattern)
    }
    shipped = [*ROOT.glob("configs/**/*.yaml"), ROOT / "data/demo/corpus.tsv.gz"]
    assert installed == {path.relative_to(ROOT): path for path in shipped}


def test_files_lie_in_the_environment_where_there_is_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "site-packages" / "lightning_bpd" / "files.py"))
    monkeypatch.setattr(files.sysconfig, "get_path", lambda name: str(tmp_path / name))
    expected = tmp_path / "data" / "share" / "lightning_bpd" / "configs" / "default.yaml"
    assert files.shipped("configs/default.yaml") == expected


def test_a_shipped_configuration_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, path = "configs/translation/multi30k.yaml", str(ROOT / "configs/translation/multi30k.yaml")
    given = ["fit", "--config", name, "-c", name, f"--config={name}", "--config", "none.yaml", "--data", name]
    expected = [
        "fit",
        "--config",
        path,
        "-c",
        path,
        f"--config={path}",
        "--config",
        "none.yaml",
        "--data",
        name,
    ]
    assert shipped_configs(given) == expected
    # A file of the user's own goes first.
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("")
    assert shipped_configs(given) == given


@pytest.mark.parametrize(
    ("called", "named"),
    [
        ("/x/lightning-bpd", "lightning-bpd"),
        ("train.py", "python train.py"),
        ("/x/lightning_bpd/__main__.py", "python -m lightning_bpd"),
        ("/x/pytest/__main__.py", "python train.py"),
    ],
)
def test_messages_name_the_command_that_the_user_types(called, named, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    assert program() == named


def test_python_m_starts_the_command_line(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lightning_bpd", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert "certify" in done.stdout
