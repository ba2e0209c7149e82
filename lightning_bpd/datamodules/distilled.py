"""The manifest of distilled data: teacher, corpus, settings, and whether the data is complete (floor 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_bpd.faults import program, read_json
from lightning_bpd.interfaces import InputError

MANIFEST = "distillation.json"
# Raise it when equal settings would give different files.
FORMAT = 1


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of distilled data. Raises InputError if it is missing, damaged, or of another format."""
    path = folder / MANIFEST
    if not path.exists():
        raise InputError(f"{folder} holds no distilled data (no {MANIFEST}): {program()} distill makes it")
    manifest = read_json(path, "remove the folder and distil again")
    known = manifest.get("format")
    if known != FORMAT:
        raise InputError(f"{path} is of format {known} and this version reads {FORMAT}: distil again")
    return manifest


def finished_distillation(folder: Path) -> dict[str, Any]:
    """The same for data that must be complete. Raises InputError, too, if the distillation was not finished."""
    manifest = read_manifest(folder)
    if not manifest.get("complete"):
        raise InputError(
            f"the distilled data in {folder} is not finished: give the command that began it once more, and it goes on"
        )
    return manifest
