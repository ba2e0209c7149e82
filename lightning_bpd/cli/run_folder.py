"""The folder of all files of a run, and the checkpoints in it. Imports neither Lightning nor torch."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from lightning_bpd.faults import program
from lightning_bpd.files import remove_what_was_left, write_atomically
from lightning_bpd.interfaces import InputError

CHECKPOINTS = "checkpoints"
# Values of --ckpt_path beside a file: the checkpoints that a run keeps.
NAMES = ("last", "best")
# A run whose start failed has none of these files.
RESULTS = (CHECKPOINTS, "metrics.csv", "model")
# Holds the planned length of a run that reached its end.
FINISHED = "finished.json"


def run_folder(runs: str, experiment: str) -> Path:
    """The folder of an experiment, ``<runs>/<experiment>``. Raises InputError if the name cannot name one folder."""
    if not re.fullmatch(r"\w[\w.+=,-]*", experiment):
        raise InputError(
            f"--experiment {experiment!r} cannot name a folder: use letters, digits and . _ - + = , only"
        )
    return Path(runs).expanduser() / experiment


def checkpoint_to_resume(folder: Path, checkpoint: str) -> Path:
    """The file that ``--ckpt_path`` of ``fit`` means: ``last``, ``best`` or a file.

    Raises InputError if the file does not exist, because a run that should resume must not start anew.
    """
    kind = "best checkpoint" if checkpoint == "best" else "checkpoint"
    remedy = f"no {kind} has been written yet; run without --ckpt_path"
    return _existing(folder, checkpoint, f"nothing to resume in {folder}: {remedy}")


def checkpoint_to_measure(folder: Path, checkpoint: str | None) -> Path:
    """The file that ``--ckpt_path`` of ``validate``, ``test`` and ``predict`` means; the run's best by default.

    Raises InputError if it does not exist.
    """
    checkpoint = checkpoint or "best"
    return _existing(
        folder,
        checkpoint,
        f"no checkpoint {folder / CHECKPOINTS / checkpoint}.ckpt: train one first ({program()} fit), "
        "or name a file with --ckpt_path or another run with --experiment",
    )


def is_of_run(folder: Path, checkpoint: str | None) -> bool:
    """Whether a ``--ckpt_path`` means a checkpoint of this run: ``last``, ``best`` or a file inside its folder."""
    if checkpoint is None:
        return False
    return checkpoint in NAMES or Path(checkpoint).expanduser().resolve().is_relative_to(folder.resolve())


def folder_of(checkpoint: str | None) -> Path | None:
    """The folder of the run that a checkpoint file lies in; None if it is no file of a run with a configuration."""
    if checkpoint is None or checkpoint in NAMES:
        return None
    checkpoints = Path(checkpoint).expanduser().absolute().parent
    is_run = checkpoints.name == CHECKPOINTS and (checkpoints.parent / "config.yaml").is_file()
    return checkpoints.parent if is_run else None


def lock(folder: Path) -> TextIO:
    """Make sure that no other process trains into this folder. Raises InputError if another process does.

    Returns the lock, which is held until it is closed or the process ends, however it ends.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = _lock_path(folder).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InputError(
            f"another process is training into {folder}: wait for it or choose another --experiment"
        ) from error
    file.truncate(0)
    file.write(os.environ.get("SLURM_JOB_ID", ""))
    file.flush()
    return file


def is_requeued(folder: Path) -> bool:
    """Whether SLURM runs this job again, and this job was the last to train into the folder."""
    if os.environ.get("SLURM_RESTART_COUNT", "0") == "0" or not _lock_path(folder).is_file():
        return False
    return _lock_path(folder).read_text() == os.environ.get("SLURM_JOB_ID")


def mark_finished(folder: Path, trainer: Mapping[str, Any]) -> None:
    """Record that a run has reached its end, with the length in the trainer's options."""
    write_atomically(folder / FINISHED, json.dumps(_length(trainer)) + "\n")


def is_finished(folder: Path, trainer: Mapping[str, Any]) -> bool:
    """Whether a run has reached its end, and its length equals the length in the trainer's options."""
    try:
        return bool(json.loads((folder / FINISHED).read_text(encoding="utf-8")) == _length(trainer))
    except (OSError, ValueError):
        return False


def _length(trainer: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(trainer[name]) for name in ("max_epochs", "max_steps", "max_time")}


def _lock_path(folder: Path) -> Path:
    # Beside the folder, because the folder itself may be renamed.
    return folder.with_name(f".{folder.name}.lock")


def set_aside(folder: Path) -> Path | None:
    """Rename the folder of an earlier run to the first free ``<folder>.1``, ``<folder>.2`` and so on.

    Unfinished files of killed processes are removed first, because nobody writes there any more. Returns the new name,
    or None if there was nothing to keep: no run, or a run that never took a step.
    """
    if not any((folder / name).exists() for name in RESULTS):
        return None
    for path in (folder, *(each for each in folder.rglob("*") if each.is_dir())):
        remove_what_was_left(path)
    number = 1
    while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(kept)


def _existing(folder: Path, checkpoint: str, no_such_name: str) -> Path:
    path, message = folder / CHECKPOINTS / f"{checkpoint}.ckpt", no_such_name
    if checkpoint not in NAMES:
        path = Path(checkpoint).expanduser()
        options = "last, best (to fit also auto) or a checkpoint file"
        message = f"--ckpt_path {checkpoint}: no such file; give {options}"
    if not path.is_file():
        raise InputError(message)
    return path
