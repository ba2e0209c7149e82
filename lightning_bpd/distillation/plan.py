"""The plan of a distillation: parts that can be made on any machine, in any order (floor 4)."""

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
from lightning_bpd.decoding import Sampled
from lightning_bpd.faults import damaged
from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import InputError, check_range

PARTS = "parts"


@dataclass(frozen=True)
class Settings:
    """Settings of the teacher's decoding. Each of them may change the output, if only by rounding."""

    decoder: Literal["beam", "greedy", "sample"]
    beam: int
    alpha: float
    best: int
    """hypotheses kept of each source"""
    extra_length: int
    max_length: int
    """number of source tokens, end token included, from which a row is left out"""
    precision: Literal["float32", "bfloat16"]
    batch_tokens: int
    """source tokens decoded together, padding included; with ``max_new_tokens``, these included too"""
    part_rows: int
    device: str
    """kind of device: cpu or cuda"""
    max_new_tokens: int | None = None
    """the most tokens of a completion, for teachers that complete prompts; replaces ``extra_length``"""
    sampling: Sampled | None = None
    """how tokens are drawn, if the decoder is sample"""

    def __post_init__(self) -> None:
        if self.decoder not in ("beam", "greedy", "sample"):
            raise InputError(f"decoder {self.decoder!r} cannot distil: choose beam, greedy or sample")
        if self.decoder != "beam" and self.best != 1:
            name = "sampling" if self.decoder == "sample" else "greedy decoding"
            raise InputError(f"{name} gives 1 hypothesis, not {self.best}: choose beam")
        if not 1 <= self.best <= self.beam:
            raise InputError(
                f"a beam of {self.beam} gives the best 1 to {self.beam} hypotheses, not {self.best}"
            )
        check_range(1, 1000, beam=self.beam)
        check_range(
            1, batch_tokens=self.batch_tokens, part_rows=self.part_rows, max_new_tokens=self.max_new_tokens
        )
        check_range(2, max_length=self.max_length)
        check_range(0, extra_length=self.extra_length, alpha=self.alpha)

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain data, without those that are not used."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Job:
    """A teacher, a corpus and settings, which together determine the output."""

    teacher: str
    """fingerprint of the teacher's weights and tokenizers"""
    corpus: str
    """hash of the corpus' content"""
    pairs: int
    settings: Settings

    @property
    def key(self) -> str:
        """16 hexadecimal digits in each part, so that parts of different jobs are never mixed."""
        content = [FORMAT, self.teacher, self.corpus, self.pairs, self.settings.plain()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def parts(self) -> int:
        """The number of parts; at least 1."""
        return max(-(-self.pairs // self.settings.part_rows), 1)


def rows_of_part(lengths: np.ndarray, part: int, settings: Settings) -> np.ndarray:
    """Return the rows of a part, longest source first. They depend on the arguments only, not on processes.

    Args:
        lengths: int64 [N], source tokens of each row.
        part: Number of the part, from 0.
        settings: Holds the number of rows of a part.
    """
    # Long rows come first, so that a lack of memory shows at once. The sort is stable: equal lengths keep their order.
    order = np.argsort(-lengths, kind="stable")
    return order[part * settings.part_rows : (part + 1) * settings.part_rows]


def batches_of_part(rows: np.ndarray, lengths: np.ndarray, settings: Settings) -> Iterator[np.ndarray]:
    """Yield batches of rows that are decoded together, without rows that are too long or have no text."""
    rows = rows[(lengths[rows] < settings.max_length) & (lengths[rows] > 1)]
    first = 0
    while first < len(rows):
        count = max(settings.batch_tokens // (int(lengths[rows[first]]) + (settings.max_new_tokens or 0)), 1)
        yield rows[first : first + count]
        first += count


def count_batches(job: Job, lengths: np.ndarray) -> int:
    """Return the number of batches of all parts, whichever of them are missing; ``lengths`` is int64 [N]."""
    parts = (rows_of_part(lengths, part, job.settings) for part in range(job.parts))
    return sum(1 for rows in parts for _ in batches_of_part(rows, lengths, job.settings))


def open_folder(folder: Path, job: Job, about: Mapping[str, Any]) -> None:
    """Begin a folder of distilled data, or check that an existing folder belongs to this job.

    Args:
        folder: The folder.
        job: The job of the folder.
        about: Further information for people.

    Raises:
        InputError: The folder is of another teacher, corpus or settings, holds other files, or cannot be written.
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
    """Mark the manifest as incomplete: a killed process may leave some files old and some new."""
    manifest = read_manifest(folder)
    if manifest.get("complete", True):
        write_atomically(folder / MANIFEST, _text({**manifest, "complete": False}))


def close_folder(folder: Path, result: Mapping[str, Any]) -> None:
    """Mark the manifest as complete, and add the result."""
    write_atomically(
        folder / MANIFEST, _text({**read_manifest(folder), "complete": True, "result": dict(result)})
    )


def _manifest(job: Job, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "key": job.key,
        "teacher": {"fingerprint": job.teacher, **about["teacher"]},
        "corpus": {"hash": job.corpus, "pairs": job.pairs, **about["corpus"]},
        "settings": job.settings.plain(),
        "versions": {name: version(name) for name in ("lightning_bpd", "torch")},
        "parts": job.parts,
        "complete": False,
    }


def _differences(known: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Describe the differences of two manifests; none if their keys are equal."""
    if known.get("key") == expected["key"]:
        return []
    differences = []
    for part, name in (("teacher", "fingerprint"), ("corpus", "hash")):
        old, new = known.get(part, {}), expected[part]
        if old.get(name) != new[name]:
            differences.append(
                f"another {part} ({old.get('path')}, {old.get(name)}, not {new['path']}, {new[name]})"
            )
    for name, value in expected["settings"].items():
        old = known.get("settings", {}).get(name)
        if old != value:
            differences.append(f"{name} {old}, not {value}")
    return differences or ["other settings"]


def _text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
