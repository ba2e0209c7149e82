"""What `compare` measured, read from its files and checked, as plain data.

Nothing of the report imports torch: it must be made anywhere that the files can be copied to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring.words import KINDS, Kind
from lightning_bpd.report.fields import (
    AGAIN,
    count,
    counts,
    field,
    number,
    number_or_none,
    numbers,
    strings,
)

FORMAT = 2
REGIMES = ("base", "frozen", "joint")
DATA = ("gold", "distilled", "both", "unknown")


@dataclass(frozen=True)
class Arm:
    """One way of decoding, and what came of it."""

    decoder: str
    """greedy or blockwise"""
    block_size: int
    acceptance: str
    quality: dict[str, float]
    """by the names of the run's kind, the principal one first"""
    to_greedy: dict[str, float | None] | None
    """the same against greedy decoding's output, None where that is equal; no dictionary where it was not measured"""
    calls: float
    """model calls a row"""
    mean_accepted_block_size: float
    greedy_agreement: float
    """share of rows whose tokens are those of greedy decoding"""
    seconds: float | None
    """wall clock a row; None where it was not timed"""
    speed_up: float | None
    rows: dict[str, tuple[Any, ...]]
    """what quality follows from, one a row: ``outputs`` of text; ``squared_errors`` and perhaps ``ssims`` of images"""
    tokens: tuple[int, ...]
    """one a row"""
    iterations: tuple[int, ...]
    """one a row"""


@dataclass(frozen=True)
class Replay:
    """Exact blockwise decoding of the whole corpus, counted from one teacher-forced call."""

    tokens: int
    iterations: tuple[int, ...]
    """for k' = 1..k"""


@dataclass(frozen=True)
class Costs:
    """Seconds for a batch of one."""

    start: float
    call: tuple[float, ...]
    """one cached call over 1..k tokens"""
    propose: tuple[float, ...]
    """0..k - 1 proposals"""


@dataclass(frozen=True)
class Run:
    """One model on one corpus."""

    folder: str
    """as the user gave it"""
    name: str
    """the folder's last part where that says which run it is, the whole folder elsewhere"""
    model: str
    regime: str
    data: str
    block_size: int
    """k as trained; 1 for a model without heads"""
    seed: int | None
    """None where the model does not say"""
    kind: str
    """text or images"""
    corpus: dict[str, Any]
    """folder, name, rows, hash"""
    settings: dict[str, Any]
    signature: str
    """how quality is computed"""
    provenance: dict[str, str]
    """flat: what was nested has names of two words"""
    references: tuple[str, ...]
    """of text; images are known by the hash of the corpus"""
    intensities: int
    """of each image; 0 of text"""
    arms: tuple[Arm, ...]
    replay: Replay | None
    acceptance_by_position: tuple[float, ...] | None
    """share of iterations at k' = k that accept at least 1, 2, ... k tokens"""
    costs: Costs | None

    @property
    def words(self) -> Kind:
        """What is said of its kind."""
        return KINDS[self.kind]

    @property
    def count(self) -> int:
        """Rows that it was measured on."""
        return int(self.corpus["rows"])

    @property
    def greedy(self) -> Arm:
        """Greedy decoding of this model."""
        return self.arms[0]

    def arm(self, block_size: int, acceptance: str) -> Arm | None:
        """The blockwise arm of this block size and rule; None where it was not measured."""
        for arm in self.arms[1:]:
            if (arm.decoder, arm.block_size, arm.acceptance) == ("blockwise", block_size, acceptance):
                return arm
        return None


def read_runs(folders: Sequence[str], corpus: str | None = None) -> tuple[list[Run], list[str]]:
    """Read all runs, ordered by regime, data, block size and seed.

    Args:
        folders: Folders with compare_*.json files, or folders of such folders.
        corpus: Which corpus to report on; may be left out where there is only one.

    Returns:
        The runs, and a sentence for each folder that was left out.

    Raises:
        InputError: There is nothing to read, it is damaged or of another format, the corpus is not clear, there are
            runs of text and of images, or two runs have one regime, data, block size and seed.
    """
    files, left_out = find_files(folders, corpus)
    runs = [read_run(file) for file in files]
    for run in runs[1:]:
        if run.kind != runs[0].kind:
            raise InputError(
                f"{runs[0].folder} is of {runs[0].kind} and {run.folder} of {run.kind}: report on one kind at a time"
            )
    names = [Path(run.folder).name for run in runs]
    runs = [
        replace(run, name=name or run.folder) if names.count(name) == 1 else run
        for run, name in zip(runs, names, strict=True)
    ]
    seen: dict[tuple[str, str, int, int | None], Run] = {}
    for run in runs:
        other = seen.setdefault((run.regime, run.data, run.block_size, run.seed), run)
        if other is not run:
            raise InputError(
                f"{other.folder} and {run.folder} are both {run.regime}, {run.data}, k = {run.block_size}, seed "
                f"{run.seed}: one table cannot tell them apart; report on one of them at a time"
            )
    return sorted(runs, key=_order), left_out


def _order(run: Run) -> tuple[int, int, int, int]:
    seed = -1 if run.seed is None else run.seed
    return REGIMES.index(run.regime), DATA.index(run.data), run.block_size, seed


def find_files(folders: Sequence[str], corpus: str | None = None) -> tuple[list[Path], list[str]]:
    """The files to read, and a sentence for each folder that was left out.

    Raises:
        InputError: A folder holds no such files, or they are of several corpora and ``corpus`` names none of them.
    """
    if not folders:
        raise InputError(
            "report needs the folder of at least one run that `python train.py compare` has measured"
        )
    left_out = []
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: give folders of runs, or a folder of such folders")
        files = sorted(folder.glob("compare_*.json"))
        if not files:
            for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
                inside = sorted(inner.glob("compare_*.json"))
                # A new run moves an earlier one of its name aside, to NAME.1: that one is not part of the grid.
                moved = re.fullmatch(r"(.+)\.\d+", inner.name)
                if inside and moved and (folder / moved[1]).is_dir():
                    left_out.append(f"{inner} was left out: an earlier run, moved aside for {moved[1]}.")
                else:
                    files += inside
        if not files:
            raise InputError(
                f"{folder} holds no compare_*.json, nor does any folder in it: run `python train.py compare` first"
            )
        for file in files:
            found.setdefault(file.resolve(), file)
    names = sorted({_corpus(file) for file in found.values()})
    if corpus is None and len(names) > 1:
        raise InputError(
            f"the runs were measured on several corpora: choose one of {', '.join(names)} by --corpus"
        )
    chosen = names[0] if corpus is None else corpus
    if chosen not in names:
        raise InputError(f"no run has a compare_{chosen}.json: there are {', '.join(names)}")
    files = [file for file in found.values() if _corpus(file) == chosen]
    for folder in sorted({file.parent for file in found.values()} - {file.parent for file in files}):
        left_out.append(f"{folder} was left out: it was not measured on {chosen}.")
    return files, left_out


def _corpus(file: Path) -> str:
    return file.stem.removeprefix("compare_")


def read_run(file: Path) -> Run:
    """Read and check one file.

    Raises:
        InputError: It cannot be read, is damaged, or is of another format. The message says what and where.
    """
    try:
        record = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({error}): {AGAIN}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise InputError(f"{file} is of format {found!r}, and this version reads format {FORMAT}: {AGAIN}")
    where = str(file)
    training = field(record, "training", dict, where)
    kind = field(record, "kind", tuple(KINDS), where)
    block_size = field(training, "block_size", count, f"{where}, training")
    arms = field(record, "arms", list, where)
    corpus = field(record, "corpus", dict, where)
    for key in ("folder", "name", "hash"):
        field(corpus, key, str, f"{where}, corpus")
    rows = field(corpus, "rows", count, f"{where}, corpus")
    references = field(record, "references", strings, where, rows) if kind == "text" else []
    if not arms or not isinstance(arms[0], dict) or arms[0].get("decoder") != "greedy":
        raise InputError(f"{where}: the first of 'arms' must be greedy decoding: {AGAIN}")
    replay, costs = record.get("replay"), record.get("costs")
    positions = record.get("acceptance_by_position")
    if positions is not None:
        positions = tuple(field(record, "acceptance_by_position", numbers, where, block_size))
    provenance = field(record, "provenance", dict, where)
    return Run(
        folder=str(file.parent),
        name=str(file.parent),
        model=field(record, "model", str, where),
        regime=field(training, "regime", REGIMES, f"{where}, training"),
        data=field(training, "data", DATA, f"{where}, training"),
        block_size=block_size,
        seed=None if training.get("seed") is None else field(training, "seed", int, f"{where}, training"),
        kind=kind,
        corpus=corpus,
        settings=field(record, "settings", dict, where),
        signature=field(record, "signature", str, where),
        provenance=_flat(provenance),
        references=tuple(references),
        intensities=0 if kind == "text" else field(record, "intensities", count, where),
        arms=tuple(_arm(arm, kind, rows, f"{where}, arms[{place}]") for place, arm in enumerate(arms)),
        replay=None if replay is None else _replay(replay, block_size, f"{where}, replay"),
        acceptance_by_position=positions,
        costs=None if costs is None else _costs(costs, block_size, f"{where}, costs"),
    )


def _flat(record: dict[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{key} {inner}": each for inner, each in _flat(value).items()}
        elif value is not None:
            flat[str(key)] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _arm(record: Any, kind: str, rows: int, where: str) -> Arm:
    tokens = field(record, "tokens", counts, where, rows)
    iterations = field(record, "iterations", counts, where, rows)
    if not sum(iterations):
        raise InputError(f"{where}: no iterations were counted: {AGAIN}")
    numbers = {
        key: float(field(record, key, number, where))
        for key in ("calls", "mean_accepted_block_size", "greedy_agreement")
    }
    times = {
        key: None if record.get(key) is None else float(field(record, key, number, where))
        for key in ("seconds", "speed_up")
    }
    return Arm(
        decoder=field(record, "decoder", ("greedy", "blockwise"), where),
        block_size=field(record, "block_size", count, where),
        acceptance=field(record, "acceptance", str, where),
        quality=_quality(record, kind, where),
        to_greedy=_to_greedy(record, where),
        **numbers,
        **times,  # type: ignore[arg-type]
        rows=_of_rows(record, kind, rows, where),
        tokens=tuple(tokens),
        iterations=tuple(iterations),
    )


def _quality(record: Any, kind: str, where: str) -> dict[str, float]:
    given = field(record, "quality", dict, where)
    principal, *others = KINDS[kind].qualities
    if principal == "psnr" and given.get(principal, 0) is None:
        raise InputError(
            f"{where}: the images are equal to the true ones, so that their PSNR is infinite and cannot be compared"
        )
    names = [principal, *(name for name in others if name in given)]
    return {name: float(field(given, name, number, f"{where}, quality")) for name in names}


def _to_greedy(record: Any, where: str) -> dict[str, float | None] | None:
    if record.get("to_greedy") is None:
        return None
    given = {
        name: field(record["to_greedy"], name, number_or_none, f"{where}, to_greedy")
        for name in record["quality"]
    }
    return {name: None if value is None else float(value) for name, value in given.items()}


def _of_rows(record: Any, kind: str, rows: int, where: str) -> dict[str, tuple[Any, ...]]:
    if kind == "text":
        return {"outputs": tuple(field(record, "outputs", strings, where, rows))}
    found = {"squared_errors": tuple(field(record, "squared_errors", counts, where, rows))}
    if "ssim" in record["quality"]:
        found["ssims"] = tuple(field(record, "ssims", numbers, where, rows))
    return found


def _replay(record: Any, block_size: int, where: str) -> Replay:
    iterations = field(record, "iterations", counts, where, block_size)
    return Replay(field(record, "tokens", count, where), tuple(iterations))


def _costs(record: Any, block_size: int, where: str) -> Costs:
    call = field(record, "call", numbers, where, block_size)
    propose = field(record, "propose", numbers, where, block_size)
    return Costs(field(record, "start", number, where), tuple(call), tuple(propose))
