"""The provenance of a result."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("lightning_bpd", "torch", "pytorch-lightning", "sacrebleu", "sentencepiece")
# What else a result may depend on, named if it is installed.
OPTIONAL = ("transformers", "vector-quantize-pytorch")


def provenance() -> dict[str, Any]:
    """Versions, git revision, device and command line, as plain data.

    Returns:
        ``python`` and ``packages`` versions; ``git`` with ``revision`` and ``changed`` (whether tracked files differ
        from it), or None when the package does not run from a repository; ``device``; ``command``.
    """
    return {
        "python": platform.python_version(),
        "packages": {**{name: version(name) for name in PACKAGES}, **_optional()},
        "git": git_state(Path(__file__).parents[2]),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "command": sys.argv,
    }


def _optional() -> dict[str, str]:
    found = {}
    for name in OPTIONAL:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """The revision checked out in ``folder`` and whether tracked files differ from it; None outside a repository."""
    if not (
        folder / ".git"
    ).exists():  # a package installed below some other project's repository is not of it
        return None
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no") != ""
    except (OSError, subprocess.SubprocessError):  # no git here, or no commit yet
        return None
    return {"revision": revision, "changed": changed}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def processor() -> str:
    """The name of the CPU, if the system gives it, or of the machine type."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
