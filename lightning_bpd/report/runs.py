"""The runs of a report: found, read, ordered, and checked against each other. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning_bpd.faults import program
from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring.record import DATA, REGIMES, Arm, Record, read_record
from lightning_bpd.report.document import MISSING
from lightning_bpd.report.statistics import bleu_of, psnr

# Settings that may differ between comparable runs.
_VARIES = ("time", "date", "command", "seconds", "started", "host")


@dataclass(frozen=True)
class Run:
    """One model on one corpus."""

    folder: str
    """as the user gave it"""
    name: str
    """the folder's last part if that is unique among the runs, otherwise the whole folder"""
    record: Record

    @property
    def column(self) -> tuple[str, str]:
        """Regime and data: its column in the paper's tables."""
        return self.record.training.regime, self.record.training.data

    @property
    def block_size(self) -> int:
        """k as trained."""
        return self.record.training.block_size

    @property
    def seed(self) -> int | None:
        """The seed of its training; None if the model does not give it."""
        return self.record.training.seed

    @property
    def references(self) -> tuple[str, ...]:
        """The references of its output; for images, the hash of the corpus."""
        return tuple(self.record.references or [self.record.corpus.hash])

    @property
    def provenance(self) -> dict[str, str]:
        """Flat: nested names are joined."""
        return _flat(self.record.provenance)

    @property
    def revision(self) -> str:
        """The revision of the code that measured it, shortened; a dash if it is not known."""
        revisions = (value for key, value in sorted(self.provenance.items()) if "revision" in key.lower())
        return next(revisions, MISSING)[:12]

    def setting(self, key: str) -> str:
        """A setting as text; a dash if it has none of this name."""
        return _text(self.record.settings.get(key, MISSING))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(record: dict[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{key} {inner}": each for inner, each in _flat(value).items()}
        elif value is not None:
            flat[key] = _text(value)
    return flat


def read_runs(folders: Sequence[str], corpus: str | None = None) -> tuple[list[Run], list[str]]:
    """Read all runs, ordered by regime, data, block size and seed.

    Args:
        folders: Folders with compare_*.json files, or folders of such folders.
        corpus: Which corpus to report on; needed only if there are several.

    Returns:
        The runs, and a sentence for each folder that was left out.

    Raises:
        InputError: There is nothing to read, a file is damaged or of another format, the corpus is not clear, there are
            runs of text and of images, or two runs have one regime, data, block size and seed.
    """
    files, left_out = find_files(folders, corpus)
    names = [file.parent.name for file in files]
    runs = []
    for file, name in zip(files, names, strict=True):
        unique = bool(name) and names.count(name) == 1
        runs.append(Run(str(file.parent), name if unique else str(file.parent), read_record(file)))
    seen: dict[tuple[object, ...], Run] = {}
    for run in runs:
        if run.record.kind != runs[0].record.kind:
            kinds = f"{runs[0].folder} is of {runs[0].record.kind} and {run.folder} of {run.record.kind}"
            raise InputError(f"{kinds}: report on one kind at a time")
        other = seen.setdefault((run.column, run.block_size, run.seed), run)
        if other is not run:
            raise InputError(
                f"{other.folder} and {run.folder} are both {', '.join(run.column)}, k = {run.block_size}, seed "
                f"{run.seed}: one table cannot tell them apart; report on one of them at a time"
            )

    def order(run: Run) -> tuple[int, int, int, int]:
        regime, data = run.column
        return REGIMES.index(regime), DATA.index(data), run.block_size, -1 if run.seed is None else run.seed

    return sorted(runs, key=order), left_out


def find_files(folders: Sequence[str], corpus: str | None = None) -> tuple[list[Path], list[str]]:
    """Find the files to read, and say in a sentence which folders were left out. Raises InputError as ``read_runs``."""
    if not folders:
        raise InputError(
            f"report needs the folder of at least one run that `{program()} compare` has measured"
        )
    left_out = []
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: give folders of runs, or a folder of such folders")
        files = sorted(folder.glob("compare_*.json"))
        below = [] if files else sorted(folder.glob("*/compare_*.json"))
        for inner, inside in groupby(below, lambda file: file.parent):
            # A new run moves an earlier one of its name aside, to NAME.1, which is not part of the grid.
            moved = re.fullmatch(r"(.+)\.\d+", inner.name)
            if moved and (folder / moved[1]).is_dir():
                left_out.append(f"{inner} was left out: an earlier run, moved aside for {moved[1]}.")
            else:
                files += inside
        if not files:
            raise InputError(
                f"{folder} holds no compare_*.json, nor does any folder in it: run `{program()} compare` first"
            )
        for file in files:
            found.setdefault(file.resolve(), file)
    by_corpus: dict[str, list[Path]] = {}
    for file in found.values():
        by_corpus.setdefault(file.stem.removeprefix("compare_"), []).append(file)
    names = ", ".join(sorted(by_corpus))
    if corpus is None and len(by_corpus) > 1:
        raise InputError(f"the runs were measured on several corpora: choose one of {names} by --corpus")
    chosen = next(iter(by_corpus)) if corpus is None else corpus
    if chosen not in by_corpus:
        raise InputError(f"no run has a compare_{chosen}.json: there are {names}")
    others = {file.parent for file in found.values()} - {file.parent for file in by_corpus[chosen]}
    left_out += [f"{folder} was left out: it was not measured on {chosen}." for folder in sorted(others)]
    return by_corpus[chosen], left_out


def keys_of(records: Iterable[dict[str, Any]]) -> list[str]:
    """The keys of all records, in their order, each once."""
    return list(dict.fromkeys(key for record in records for key in record))


def varies(key: str) -> bool:
    """Whether a value of this name may differ between runs that are comparable."""
    return any(word in key.lower() for word in _VARIES)


def differences(runs: Sequence[Run]) -> list[str]:
    """A sentence for each setting in which the runs differ; it says which run has which value."""
    # A list, because a setting and an entry of the provenance may have one name, such as device.
    parts = [
        ("Corpus hash", [run.record.corpus.hash for run in runs]),
        (f"Number of {runs[0].record.words.rows}", [str(run.record.corpus.rows) for run in runs]),
        ("Signature of quality", [run.record.signature for run in runs]),
    ]
    for key in keys_of(run.record.settings for run in runs):
        parts.append((key.capitalize().replace("_", " "), [run.setting(key) for run in runs]))
    for key in keys_of(run.provenance for run in runs):
        if not varies(key):
            values = [run.provenance.get(key, MISSING) for run in runs]
            parts.append((key.capitalize().replace("_", " "), values))
    sentences = []
    for name, values in parts:
        groups: dict[str, list[str]] = {}
        for run, value in zip(runs, values, strict=True):
            groups.setdefault(value, []).append(run.name)
        if len(groups) > 1:
            # Only the exceptions are listed by name.
            most = max(groups, key=lambda each: len(groups[each]))
            others = [f"{each} in {', '.join(names)}" for each, names in groups.items() if each != most]
            sentences.append(f"{name}: {most} in {len(groups[most])} of {len(runs)}, {'; '.join(others)}.")
    if len({run.references for run in runs}) > len({run.record.corpus.hash for run in runs}):
        sentences.append("The references differ, although the hash of the corpus is the same.")
    return sentences


def unequal_scores(runs: Sequence[Run]) -> list[str]:
    """A sentence for each run whose quality or block size does not follow from its rows."""
    sentences = []
    for run in runs:
        wrong = []
        # By the exact rule the output is the same for every k', and BLEU is slow to compute.
        scores: dict[tuple[Any, ...], dict[str, float]] = {}
        for arm in run.record.arms:
            if arm.rows not in scores:
                scores[arm.rows] = _scores(run.record, arm)
            found = scores[arm.rows].items()
            far = any(abs(value - (arm.quality[name] or 0)) > 0.01 for name, value in found)
            if far or abs(sum(arm.tokens) / sum(arm.iterations) - arm.mean_accepted_block_size) > 0.005:
                wrong.append(f"{arm.decoder} k' = {arm.block_size}, {arm.acceptance}")
        if wrong:
            sentences.append(
                f"{run.name}: quality or block size does not follow from its outputs and counts ({'; '.join(wrong)})."
            )
    return sentences


def _scores(record: Record, arm: Arm) -> dict[str, float]:
    """Compute the quality of an arm again from its rows."""
    if arm.outputs is not None and record.references is not None:
        return {"bleu": bleu_of(record.signature).corpus_score(arm.outputs, [record.references]).score}
    assert arm.squared_errors is not None
    assert record.intensities is not None
    scores = {"psnr": float(psnr(sum(arm.squared_errors), record.corpus.rows * record.intensities))}
    if arm.ssims is not None and "ssim" in arm.quality:
        scores["ssim"] = fmean(arm.ssims)
    return scores
