"""What `compare` measured, read from its files and checked, as plain data.

Nothing of the report imports torch: it must be made anywhere that the files can be copied to.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_bpd.interfaces import InputError

FORMAT = 1
REGIMES = ("base", "frozen", "joint")
DATA = ("gold", "distilled", "both", "unknown")
AGAIN = "measure this model again with `python train.py compare`"


@dataclass(frozen=True)
class Arm:
    """One way of decoding, and what came of it."""

    decoder: str
    """greedy or blockwise"""
    block_size: int
    acceptance: str
    bleu: float
    calls: float
    """model calls a sentence"""
    mean_accepted_block_size: float
    greedy_agreement: float
    """share of sentences whose tokens are those of greedy decoding"""
    seconds: float | None
    """wall clock a sentence; None where it was not timed"""
    speed_up: float | None
    outputs: tuple[str, ...]
    tokens: tuple[int, ...]
    """one a sentence"""
    iterations: tuple[int, ...]
    """one a sentence"""


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
    corpus: dict[str, Any]
    """folder, name, sentences, hash"""
    settings: dict[str, Any]
    bleu_signature: str
    provenance: dict[str, str]
    """flat: what was nested has names of two words"""
    references: tuple[str, ...]
    arms: tuple[Arm, ...]
    replay: Replay | None
    acceptance_by_position: tuple[float, ...] | None
    """share of iterations at k' = k that accept at least 1, 2, ... k tokens"""
    costs: Costs | None

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
        InputError: There is nothing to read, it is damaged or of another format, the corpus is not clear, or two
            runs have one regime, data, block size and seed.
    """
    files, left_out = find_files(folders, corpus)
    runs = [read_run(file) for file in files]
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
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}): {AGAIN}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise InputError(f"{file} is of format {found!r}, and this version reads format {FORMAT}: {AGAIN}")
    where = str(file)
    training = _field(record, "training", dict, where)
    references = tuple(_field(record, "references", _strings, where))
    block_size = _field(training, "block_size", _count, f"{where}, training")
    arms = _field(record, "arms", list, where)
    corpus = _field(record, "corpus", dict, where)
    for key in ("folder", "name", "hash"):
        _field(corpus, key, str, f"{where}, corpus")
    if _field(corpus, "sentences", _count, f"{where}, corpus") != len(references):
        raise InputError(
            f"{where}: {corpus['sentences']} sentences, but {len(references)} references: {AGAIN}"
        )
    if not arms or not isinstance(arms[0], dict) or arms[0].get("decoder") != "greedy":
        raise InputError(f"{where}: the first of 'arms' must be greedy decoding: {AGAIN}")
    replay, costs = record.get("replay"), record.get("costs")
    positions = record.get("acceptance_by_position")
    if positions is not None:
        positions = tuple(_field(record, "acceptance_by_position", _numbers, where, block_size))
    provenance = _field(record, "provenance", dict, where)
    return Run(
        folder=str(file.parent),
        name=str(file.parent),
        model=_field(record, "model", str, where),
        regime=_field(training, "regime", REGIMES, f"{where}, training"),
        data=_field(training, "data", DATA, f"{where}, training"),
        block_size=block_size,
        seed=None if training.get("seed") is None else _field(training, "seed", int, f"{where}, training"),
        corpus=corpus,
        settings=_field(record, "settings", dict, where),
        bleu_signature=_field(record, "bleu_signature", str, where),
        provenance=_flat(provenance),
        references=references,
        arms=tuple(_arm(arm, len(references), f"{where}, arms[{place}]") for place, arm in enumerate(arms)),
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


def _arm(record: Any, sentences: int, where: str) -> Arm:
    outputs = _field(record, "outputs", _strings, where, sentences)
    tokens = _field(record, "tokens", _counts, where, sentences)
    iterations = _field(record, "iterations", _counts, where, sentences)
    if not sum(iterations):
        raise InputError(f"{where}: no iterations were counted: {AGAIN}")
    numbers = {
        key: float(_field(record, key, _number, where))
        for key in ("bleu", "calls", "mean_accepted_block_size", "greedy_agreement")
    }
    times = {
        key: None if record.get(key) is None else float(_field(record, key, _number, where))
        for key in ("seconds", "speed_up")
    }
    return Arm(
        decoder=_field(record, "decoder", ("greedy", "blockwise"), where),
        block_size=_field(record, "block_size", _count, where),
        acceptance=_field(record, "acceptance", str, where),
        **numbers,
        **times,  # type: ignore[arg-type]
        outputs=tuple(outputs),
        tokens=tuple(tokens),
        iterations=tuple(iterations),
    )


def _replay(record: Any, block_size: int, where: str) -> Replay:
    iterations = _field(record, "iterations", _counts, where, block_size)
    return Replay(_field(record, "tokens", _count, where), tuple(iterations))


def _costs(record: Any, block_size: int, where: str) -> Costs:
    call = _field(record, "call", _numbers, where, block_size)
    propose = _field(record, "propose", _numbers, where, block_size)
    return Costs(_field(record, "start", _number, where), tuple(call), tuple(propose))


def _number(value: Any) -> bool:
    """a number"""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    """a number of 1 or more"""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _strings(value: Any) -> bool:
    """a list of text"""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _numbers(value: Any) -> bool:
    """a list of numbers"""
    return isinstance(value, list) and all(map(_number, value))


def _counts(value: Any) -> bool:
    """a list of whole numbers"""
    return _numbers(value) and all(isinstance(each, int) and each >= 0 for each in value)


def _field(
    record: Any,
    key: str,
    kind: type | tuple[str, ...] | Callable[[Any], bool],
    where: str,
    length: int | None = None,
) -> Any:
    """One value of a record: of a type, one of some words, or what a check (whose docstring names it) passes."""
    if not isinstance(record, dict) or key not in record:
        raise InputError(f"{where}: {key!r} is missing: {AGAIN}")
    value = record[key]
    if isinstance(kind, tuple):
        right, what = value in kind, f"one of {', '.join(kind)}"
    elif isinstance(kind, type):
        right, what = (
            isinstance(value, kind),
            {"dict": "an object", "str": "text"}.get(kind.__name__, kind.__name__),
        )
    else:
        right, what = kind(value), str(kind.__doc__)
    if not right:
        raise InputError(f"{where}: {key!r} must be {what}: {AGAIN}")
    if length is not None and len(value) != length:
        raise InputError(f"{where}: {key!r} must hold {length} values, and holds {len(value)}: {AGAIN}")
    return value
