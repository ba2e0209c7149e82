"""The folder that holds everything of a run, and the checkpoints in it. No Lightning, no torch."""

from __future__ import annotations

import fcntl
import re
from pathlib import Path
from typing import TextIO

from lightning_bpd.interfaces import InputError

CHECKPOINTS = "checkpoints"


def run_folder(runs: str, experiment: str) -> Path:
    """The folder of an experiment, ``<runs>/<experiment>``; it need not exist.

    Raises:
        InputError: If the name cannot be that of one folder.
    """
    if not re.fullmatch(r"\w[\w.+=,-]*", experiment):
        raise InputError(
            f"--experiment {experiment!r} cannot name a folder: use letters, digits and . _ - + = , only"
        )
    return Path(runs).expanduser() / experiment


def checkpoint_to_resume(folder: Path, checkpoint: str) -> Path:
    """The file that ``--ckpt_path`` of ``fit`` means.

    Args:
        folder: The run's folder.
        checkpoint: ``last``, ``best`` or a file.

    Raises:
        InputError: If it does not exist: a run that was meant to go on must not start afresh.
    """
    if checkpoint not in ("last", "best"):
        return _existing(checkpoint)
    path = folder / CHECKPOINTS / f"{checkpoint}.ckpt"
    if not path.is_file():
        raise InputError(
            f"nothing to resume in {folder}: no {'' if checkpoint == 'last' else 'best '}checkpoint has been "
            "written yet; run without --ckpt_path"
        )
    return path


def checkpoint_to_measure(folder: Path, checkpoint: str | None) -> Path:
    """The file that ``--ckpt_path`` of ``validate``, ``test`` and ``predict`` means; the run's best by default.

    Raises:
        InputError: If it does not exist.
    """
    if checkpoint not in (None, "last", "best"):
        return _existing(checkpoint)
    path = folder / CHECKPOINTS / f"{checkpoint or 'best'}.ckpt"
    if not path.is_file():
        raise InputError(
            f"no checkpoint {path}: train one first (python train.py fit), "
            "or name a file with --ckpt_path or another run with --experiment"
        )
    return path


def lock(folder: Path) -> TextIO:
    """Make sure that no other process trains into this folder.

    Returns:
        The lock, held until it is closed or the process ends, however it ends.

    Raises:
        InputError: If another process holds it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, for the folder itself may be renamed.
    file = folder.with_name(f".{folder.name}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InputError(
            f"another process is training into {folder}: wait for it or choose another --experiment"
        ) from error
    return file


def set_aside(folder: Path) -> Path | None:
    """Rename the folder of an earlier run to the first free ``<folder>.1``, ``<folder>.2`` and so on.

    Returns:
        The new name, or None if there was nothing to keep.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    number = 1
    while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(kept)


def _existing(checkpoint: str) -> Path:
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise InputError(f"--ckpt_path {checkpoint}: no such file; give last, best or a checkpoint file")
    return path
