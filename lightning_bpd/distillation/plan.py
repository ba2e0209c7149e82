"""What is to be distilled, cut into parts that can be made anywhere, in any order (floor 4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_bpd.datamodules.distilled import FORMAT, MANIFEST, read_manifest
from lightning_bpd.faults import damaged
from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import InputError, check_range

PARTS = "parts"


@dataclass(frozen=True)
class Settings:
    """How the teacher's output is searched for. Each of them may change it, if only by rounding."""

    decoder: Literal["beam", "greedy"]
    beam: int
    alpha: float
    best: int
    """hypotheses kept of each source"""
    extra_length: int
    max_length: int
    """source tokens, end token included, from which a row is left out"""
    precision: Literal["float32", "bfloat16"]
    batch_tokens: int
    """source tokens decoded together, padding included"""
    part_rows: int
    device: str
    """its kind: cpu or cuda"""

    def __post_init__(self) -> None:
        if self.decoder not in ("beam", "greedy"):
            raise InputError(f"decoder {self.decoder!r} cannot distil: choose beam or greedy")
        if self.decoder == "greedy" and self.best != 1:
            raise InputError(f"greedy decoding gives 1 hypothesis, not {self.best}: choose beam")
        if not 1 <= self.best <= self.beam:
            raise InputError(
                f"of a beam of {self.beam} the best 1 to {self.beam} can be had, not {self.best}"
            )
        check_range(1, 1000, beam=self.beam)
        check_range(1, batch_tokens=self.batch_tokens, part_rows=self.part_rows)
        check_range(2, max_length=self.max_length)
        check_range(0, extra_length=self.extra_length, alpha=self.alpha)


@dataclass(frozen=True)
class Job:
    """A teacher, a corpus and settings: all that decides what is written."""

    teacher: str
    """fingerprint of the teacher's weights and tokenizers"""
    corpus: str
    """hash of the corpus' content"""
    pairs: int
    settings: Settings

    @property
    def key(self) -> str:
        """16 hexadecimal digits that stand in each part: parts of different jobs are never mixed."""
        content = [FORMAT, self.teacher, self.corpus, self.pairs, asdict(self.settings)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def parts(self) -> int:
        """The number of parts; at least 1."""
        return max(-(-self.pairs // self.settings.part_rows), 1)


def rows_of_part(lengths: np.ndarray, part: int, settings: Settings) -> np.ndarray:
    """The rows of a part, longest source first: what it holds depends on nothing else, such as who makes it.

    Args:
        lengths: int64 [N], source tokens of each row.
        part: From 0.
        settings: How many rows a part has.
    """
    # Long rows first: if memory is short that shows at once. Stable, so that equal lengths keep their order.
    order = np.argsort(-lengths, kind="stable")
    return order[part * settings.part_rows : (part + 1) * settings.part_rows]


def batches_of_part(rows: np.ndarray, lengths: np.ndarray, settings: Settings) -> Iterator[np.ndarray]:
    """Rows that are decoded together. A row that is too long is in none, nor is one without text."""
    rows = rows[(lengths[rows] < settings.max_length) & (lengths[rows] > 1)]
    first = 0
    while first < len(rows):
        count = max(settings.batch_tokens // int(lengths[rows[first]]), 1)
        yield rows[first : first + count]
        first += count


def open_folder(folder: Path, job: Job, about: Mapping[str, Any]) -> None:
    """Begin a folder of distilled data, or make sure that the one that is there is of the same job.

    Args:
        folder: Where it is.
        job: What it is to hold.
        about: What is written down beside, for people.

    Raises:
        InputError: The folder is of another teacher, corpus or settings, or of something else, or cannot be written.
    """
    path = folder / MANIFEST
    if path.is_file():
        known = read_manifest(folder)
        with damaged(path, "remove the folder and distil again"):
            differences = _differences(known, _manifest(job, about))
        if differences:
            raise InputError(
                f"{path} was begun with {'; '.join(differences)}: nothing was changed; choose another --output, or "
                "remove that folder to begin anew"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no distilled data: choose another --output")
    try:
        write_atomically(path, _text(_manifest(job, about)))
    except OSError as error:
        raise InputError(f"--output {folder} cannot be written: {error.strerror}") from error


def reopen_folder(folder: Path) -> None:
    """Write into the manifest that files are being replaced: a killed process may leave some old and some new."""
    manifest = read_manifest(folder)
    if manifest["complete"]:
        write_atomically(folder / MANIFEST, _text({**manifest, "complete": False}))


def close_folder(folder: Path, result: Mapping[str, Any]) -> None:
    """Write into the manifest that all is there."""
    write_atomically(
        folder / MANIFEST, _text({**read_manifest(folder), "complete": True, "result": dict(result)})
    )


def _manifest(job: Job, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "key": job.key,
        "teacher": {"fingerprint": job.teacher, **about["teacher"]},
        "corpus": {"hash": job.corpus, "pairs": job.pairs, **about["corpus"]},
        "settings": asdict(job.settings),
        "versions": {name: version(name) for name in ("lightning_bpd", "torch")},
        "parts": job.parts,
        "complete": False,
    }


def _differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In words; empty where the key is the same."""
    if known.get("key") == wanted["key"]:
        return []
    found = []
    for what, name in (("teacher", "fingerprint"), ("corpus", "hash")):
        old, new = known.get(what, {}), wanted[what]
        if old.get(name) != new[name]:
            found.append(
                f"another {what} ({old.get('path')}, {old.get(name)}, not {new['path']}, {new[name]})"
            )
    for name, value in wanted["settings"].items():
        old = known.get("settings", {}).get(name)
        if old != value:
            found.append(f"{name} {old}, not {value}")
    return found or ["other settings"]


def _text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
