"""Parts on disk: each is a complete file that names its job and its rows (floor 4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_bpd.distillation.plan import PARTS, Job
from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import InputError


class Hypothesis(NamedTuple):
    """One translation by the teacher."""

    text: str
    tokens: int
    """end token included"""
    ended: bool
    """whether an end token, and not the length limit, ended it"""
    score: float | None
    """score of beam search: log-probability over length penalty"""


class Row(NamedTuple):
    """The teacher's hypotheses for one row of the corpus."""

    row: int
    source_tokens: int
    """end token included"""
    hypotheses: list[Hypothesis]


def part_path(folder: Path, part: int) -> Path:
    """Return the path of a part."""
    return folder / PARTS / f"{part:06}.jsonl"


def write_part(folder: Path, job: Job, part: int, rows: Sequence[Row]) -> None:
    """Write a part: a header line, and a line for each row.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    body = "".join(
        json.dumps([row.row, row.source_tokens, row.hypotheses], ensure_ascii=False) + "\n" for row in rows
    ).encode()
    header = {"key": job.key, "part": part, "rows": len(rows), "sha256": hashlib.sha256(body).hexdigest()}
    try:
        write_atomically(part_path(folder, part), json.dumps(header).encode() + b"\n" + body)
    except OSError as error:
        raise InputError(
            f"{part_path(folder, part)} cannot be written: {error.strerror}; the parts before it are kept: make room "
            "and give the same command again"
        ) from error


def missing_parts(folder: Path, job: Job) -> list[int]:
    """Return the numbers of the missing parts.

    Raises:
        InputError: A part is damaged, or belongs to another job.
    """
    return [part for part in range(job.parts) if not _is_there(folder, job, part)]


def _is_there(folder: Path, job: Job, part: int) -> bool:
    if not part_path(folder, part).exists():
        return False
    read_body(folder, job, part)
    return True


def parse_row(line: bytes) -> Row:
    """Parse the line of a row."""
    row, source_tokens, hypotheses = json.loads(line)
    return Row(row, source_tokens, [Hypothesis(*hypothesis) for hypothesis in hypotheses])


def read_body(folder: Path, job: Job, part: int) -> bytes:
    """Read a part's lines, one for each row, and check that they are complete and belong to this job.

    Raises:
        InputError: The part cannot be read, is damaged, or belongs to another job.
    """
    path = part_path(folder, part)
    try:
        first, _, body = path.read_bytes().partition(b"\n")
        header = json.loads(first)
        whole = hashlib.sha256(body).hexdigest() == header["sha256"]
        key, number = header["key"], header["part"]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        whole, key, number = False, job.key, part
    if not whole:
        raise InputError(f"{path} is damaged or incomplete: remove that file, and it is made again")
    if (key, number) != (job.key, part):
        raise InputError(
            f"{path} is part {number} of another distillation ({key}, this one is {job.key}): it was copied here; "
            "remove that file, and the right one is made"
        )
    return body
