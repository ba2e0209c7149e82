"""Parallel text on disk, read as a stream: two line-aligned files, TSV or JSON lines (floor 3)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product, zip_longest
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from lightning_bpd.codecs.text_lines import PACKED, STANDARD_INPUT, called, is_stream, read_lines, repeatable
from lightning_bpd.datamodules.caches import file_digest
from lightning_bpd.interfaces import InputError

_PACKED = ("", *PACKED)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class PairFiles:
    """How one part of a corpus is stored, in files or streams, compressed or not."""

    source: Path
    """the source text, or the one file that holds both sides"""
    target: Path | None
    """the target text for "lines"; None for other formats"""
    format: Literal["lines", "tsv", "jsonl", "pairs", "source"]
    """lines: two files aligned line by line; tsv: source, a tab, target; jsonl: one JSON object on each line; pairs:
    tsv or jsonl, decided by the first line; source: only the source text, every target is empty"""
    source_key: str = "source"
    """for JSON only: the key of the source text"""
    target_key: str | None = "target"
    """for JSON only: the key of the target text; None if only sources are read, and every target is empty"""

    @property
    def paths(self) -> list[Path]:
        """The files on disk, one or two."""
        return [self.source] if self.target is None else [self.source, self.target]


def find_corpus(
    data: str, names: Sequence[str], source_language: str, target_language: str, source_alone: bool = False
) -> list[PairFiles]:
    """The files of a corpus that a command names: either a folder and corpus names in it, or one file or pipe.

    Args:
        data: A folder; or a file, a pipe, or ``-`` for standard input, with pairs as in ``.tsv`` or ``.jsonl`` files.
        names: The names of the corpora to read from a folder.
        source_language: The ending of source files, and the key of the source in JSON lines.
        target_language: The ending of target files, and the key of the target.
        source_alone: Whether only sources are read: the lines of a single file or pipe, or the sources of JSON lines.

    Raises:
        InputError: ``data`` does not exist; or as for ``find_pair_files``.
    """
    _check_languages(source_language, target_language)
    path = Path(data)
    if path.is_dir():
        return find_pair_files(path, names, source_language, target_language, source_alone)
    if not is_stream(path) and not path.exists():
        raise InputError(f"--data {data}: there is no such folder or file")
    name = _without_packing(path.name)
    if source_alone and name.endswith(".tsv"):
        raise InputError(
            f"--data {data}: a file given by itself has one sentence a line; for {path.name} give --data {path.parent} "
            f"--corpus '[{path.name}]'"
        )
    if name.endswith((".tsv", ".jsonl")):
        return find_pair_files(path.parent, [path.name], source_language, target_language, source_alone)
    return [_stream(path, source_language, target_language, source_alone)]


def find_pair_files(
    folder: Path,
    names: Sequence[str],
    source_language: str,
    target_language: str,
    source_alone: bool = False,
) -> list[PairFiles]:
    """The files of each name in ``folder``, in the order of ``names``.

    A name stands for ``name.en`` and ``name.de`` (for languages en and de), for ``name.tsv`` or for
    ``name.jsonl``, each plain or with ``.gz``, ``.xz`` or ``.bz2``. A name may carry its extension (``extra.tsv``) and
    may be an absolute path. A pipe, or ``-`` for standard input, holds pairs as TSV or JSON lines. With
    ``source_alone``, ``name.en`` suffices if no other file has the name, JSON lines need no targets, and a pipe holds
    sources.

    Raises InputError if a name has no files, only one side, or more than one candidate, or if a language cannot end
    the name of a file.
    """
    _check_languages(source_language, target_language)
    languages = (source_language, target_language)
    found = []
    for name in names:
        path = Path(name) if name == STANDARD_INPUT else folder / name
        if is_stream(path):
            found.append(_stream(path, *languages, source_alone))
            continue
        if not path.name:
            raise InputError(f"{folder}: {name!r} names no files: give a name such as train")
        candidates, looked_for = _candidates(path, *languages, source_alone)
        if len(candidates) > 1:
            listed = "; ".join(_listed(candidate.paths) for candidate in candidates)
            raise InputError(
                f"{folder}: {name!r} is ambiguous, it may mean any of: {listed}. "
                "Remove or rename all but one, or give the name with its extension"
            )
        if not candidates:
            raise InputError(_missing(folder, name, looked_for, *languages))
        found += candidates
    return found


def _check_languages(*languages: str) -> None:
    """Raise InputError for a language that cannot be the ending of a file, such as one with a slash."""
    for language in languages:
        if not language or PureWindowsPath(language).name != language:
            raise InputError(f"{language!r} cannot be the ending of a file: give a language such as en")


def _candidates(
    base: Path, source_language: str, target_language: str, source_alone: bool = False
) -> tuple[list[PairFiles], list[Path]]:
    """The existing files of the name ``base``, and every path that was tried."""
    ending = _without_packing(base.name).rpartition(".")[2]
    tried = {ending: [base]}
    if ending not in ("tsv", "jsonl"):
        tried = {
            ending: [base.with_name(f"{base.name}.{ending}{packing}") for packing in _PACKED]
            for ending in (source_language, target_language, "tsv", "jsonl")
        }
    there = {ending: list(filter(_is_there, paths)) for ending, paths in tried.items()}
    sources, targets = there.get(source_language, []), there.get(target_language, [])
    target_key = None if source_alone else target_language
    found = [PairFiles(source, target, "lines") for source, target in product(sources, targets)]
    found += [PairFiles(path, None, "tsv") for path in there.get("tsv", ())]
    found += [PairFiles(path, None, "jsonl", source_language, target_key) for path in there.get("jsonl", ())]
    if source_alone and not found:
        found = [PairFiles(path, None, "source") for path in sources]
    return found, list(chain.from_iterable(tried.values()))


def _is_there(path: Path) -> bool:
    return path.exists() and not path.is_dir()


def _without_packing(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if dot + ending in PACKED else name


def _stream(path: Path, source_language: str, target_language: str, source_alone: bool) -> PairFiles:
    if source_alone:
        return PairFiles(path, None, "source")
    return PairFiles(path, None, "pairs", source_language, target_language)


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _missing(
    folder: Path, name: str, looked_for: Sequence[Path], source_language: str, target_language: str
) -> str:
    """The message for a name without files: the paths that were tried, and the names that the folder holds."""
    parent = looked_for[0].parent
    if not parent.is_dir():
        return f"{parent}: there is no such folder (looked in it for {name!r}: {_listed(looked_for)})"
    message = f"{folder}: no files for {name!r}; looked for {_listed(looked_for)}"
    if one_side := list(filter(_is_there, looked_for)):
        return f"{message}; found only one side, {_listed(one_side)}"
    stored = [_without_packing(path.name) for path in parent.iterdir()]
    endings = (f".{source_language}", ".tsv", ".jsonl")
    stems = {each.removesuffix(ending) for each in stored for ending in endings if each.endswith(ending)}
    held = [
        each
        for each in sorted(stems - {""})
        if _candidates(parent / each, source_language, target_language)[0]
    ]
    if held:
        return f"{message}; the folder holds {', '.join(held)}"
    return f"{message}; the folder holds no pair files for {source_language} and {target_language}"


def read_pairs(files: PairFiles, on_bytes: Callable[[int], None] | None = None) -> Iterator[tuple[str, str]]:
    """The pairs (source, target), in order, as a stream of lines by the rules of ``text_lines.read_lines``.

    Streams are copied first, so that they can be read repeatedly.

    Args:
        files: the files to read.
        on_bytes: called repeatedly with the number of bytes read from disk since the last call.

    Raises:
        InputError: names file and line: files of different length, an empty file, invalid UTF-8, damaged
            compression, a TSV line without exactly two columns, a JSON line without two texts.
    """
    sources = _corpus_lines(files.source, on_bytes)
    if files.target is not None:
        yield from _aligned(files, sources, _corpus_lines(files.target, on_bytes))
        return
    if files.format == "source":
        yield from ((line, "") for line in sources)
        return
    first = list(islice(sources, 1))
    is_json = files.format == "jsonl" or (files.format == "pairs" and first[0].startswith("{"))
    read_line, name = _json_pair if is_json else _tsv_pair, called(files.source)
    for number, line in enumerate(chain(first, sources), start=1):
        yield read_line(line, f"{name}, line {number}", files)


def _corpus_lines(path: Path, on_bytes: Callable[[int], None] | None) -> Iterator[str]:
    empty = True
    for line in read_lines(repeatable(path), on_bytes, called(path)):
        empty = False
        yield line
    if empty:
        raise InputError(f"{called(path)}: the file is empty; it needs at least one line")


def _aligned(files: PairFiles, sources: Iterator[str], targets: Iterator[str]) -> Iterator[tuple[str, str]]:
    for pairs, (source, target) in enumerate(zip_longest(sources, targets)):
        if source is None or target is None:
            longer = pairs + 1 + sum(1 for _ in (sources if target is None else targets))
            counts = (longer, pairs) if target is None else (pairs, longer)
            raise InputError(
                f"{files.source} has {counts[0]} lines and {_listed(files.paths[1:])} {counts[1]}; "
                "line i of one must be the translation of line i of the other"
            )
        yield source, target


def _tsv_pair(line: str, place: str, files: PairFiles) -> tuple[str, str]:
    columns = line.split("\t")
    if len(columns) != 2:
        raise InputError(
            f"{place}: {len(columns)} column{'s' * (len(columns) != 1)} instead of 2; "
            "a line is the source, one tab, and the target"
        )
    return columns[0], columns[1]


def _json_pair(line: str, place: str, files: PairFiles) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: not JSON: {error.msg} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON that can be read: {error}") from None
    if isinstance(record, dict) and isinstance(record.get("translation"), dict):
        record = record["translation"]
    if isinstance(record, dict) and isinstance(record.get("messages"), list):
        record = _conversation(record["messages"], place, files)
    keys = [key for key in (files.source_key, files.target_key) if key is not None]
    if not isinstance(record, dict):
        raise InputError(
            f"{place}: not a JSON object; it needs the key{'s' * (len(keys) > 1)} {' and '.join(map(repr, keys))}"
        )
    texts = []
    for key in keys:
        if key not in record:
            raise InputError(f"{place}: the key {key!r} is missing; the keys are {sorted(record)}")
        if not isinstance(record[key], str):
            raise InputError(f"{place}: the value of {key!r} is not a string")
        if _SURROGATE.search(record[key]):
            raise InputError(
                f"{place}: the value of {key!r} holds half of a surrogate pair, which is no character"
            )
        texts.append(record[key])
    return texts[0], texts[1] if len(texts) > 1 else ""


def _conversation(messages: list[Any], place: str, files: PairFiles) -> dict[str, str]:
    """The last message, by the assistant, as the target; all earlier messages, as JSON, as the source.

    The last message may be missing if only sources are read.
    """
    for message in messages:
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise InputError(f"{place}: each message needs a role and a content, both of text")
    answered = bool(messages) and messages[-1]["role"] == "assistant"
    before = messages[:-1] if answered else messages
    if not before or (not answered and files.target_key is not None):
        raise InputError(f"{place}: the messages must end with what the assistant answers to those before it")
    texts = {files.source_key: json.dumps(before, ensure_ascii=False)}
    return texts if files.target_key is None else {**texts, files.target_key: messages[-1]["content"]}


def as_record(source: str, target: str, source_key: str, target_key: str) -> dict[str, Any]:
    """Return a pair as the JSON object that ``read_pairs`` reads: its two texts, or the messages of a conversation."""
    try:
        messages = json.loads(source) if source.startswith("[{") else None
    except (ValueError, RecursionError):
        messages = None
    if isinstance(messages, list) and all(
        isinstance(message, dict) and {"role", "content"} <= message.keys() for message in messages
    ):
        return {"messages": [*messages, {"role": "assistant", "content": target}]}
    return {source_key: source, target_key: target}


def fingerprint(files: Sequence[PairFiles]) -> str:
    """A hash of the files' stored bytes, their order and their format: 32 hexadecimal digits.

    Names, folders and times do not change it. Raises InputError for a missing file.
    """
    whole = hashlib.blake2b(digest_size=16)
    for part in files:
        keys = [part.source_key, part.target_key] if part.format in ("jsonl", "pairs") else []
        whole.update(json.dumps([part.format, *keys]).encode())
        for path in map(repeatable, part.paths):
            whole.update(file_digest(path))
    return whole.hexdigest()
