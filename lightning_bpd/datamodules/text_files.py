"""Parallel text on disk, read as a stream: two line-aligned files, TSV or JSONL, plain or gzip (floor 3)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lightning_bpd.interfaces import InputError

_BOM = b"\xef\xbb\xbf"
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class PairFiles:
    """How one part of a corpus is stored. A file whose name ends in ``.gz`` is compressed."""

    source: Path
    """the source text, or the one file that holds both sides"""
    target: Path | None
    """the target text for "lines", None for the others"""
    format: Literal["lines", "tsv", "jsonl", "source"]
    """lines: two files aligned line by line; tsv: source, a tab, target; jsonl: one JSON object a line; source: the
    source text alone, every target is empty"""
    source_key: str = "source"
    """jsonl only: the key of the source text"""
    target_key: str = "target"
    """jsonl only: the key of the target text"""

    @property
    def paths(self) -> list[Path]:
        """The files on disk, one or two."""
        return [self.source] if self.target is None else [self.source, self.target]


def _not_counted(_: int) -> None:
    """The default of ``on_bytes``: nobody watches the progress."""


def find_pair_files(
    folder: Path,
    names: Sequence[str],
    source_language: str,
    target_language: str,
    source_alone: bool = False,
) -> list[PairFiles]:
    """The files of each name in ``folder``, in the order of ``names``.

    A name stands for ``name.en`` and ``name.de`` (for languages en and de), for ``name.tsv`` or for
    ``name.jsonl``, each plain or with ``.gz``. A name may carry its extension (``extra.tsv``) and may be an
    absolute path. With ``source_alone``, ``name.en`` suffices where nothing else has that name.

    Raises:
        InputError: a name has no files, only one side, or more than one candidate.

    """
    folder = Path(folder)
    found = []
    for name in names:
        candidates, looked_for = _candidates(folder / name, source_language, target_language)
        if source_alone and not candidates:
            endings = (f".{source_language}", f".{source_language}.gz")
            sources = [path for path in looked_for if path.is_file() and path.name.endswith(endings)]
            candidates = [PairFiles(path, None, "source") for path in sources]
        if len(candidates) > 1:
            listed = "; ".join(_listed(candidate.paths) for candidate in candidates)
            raise InputError(
                f"{folder}: {name!r} is ambiguous, it may mean any of: {listed}. "
                "Remove or rename all but one, or give the name with its extension"
            )
        if not candidates:
            raise InputError(_missing(folder, name, looked_for, source_language, target_language))
        found.append(candidates[0])
    return found


def _candidates(base: Path, source_language: str, target_language: str) -> tuple[list[PairFiles], list[Path]]:
    """What exists under the name ``base``, and every file that was looked for."""

    def with_suffix(*suffixes: str) -> list[Path]:
        return [base.with_name(base.name + suffix) for suffix in suffixes]

    if base.name.endswith((".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz")):
        sources, targets, singles = [], [], [base]
    else:
        sources = with_suffix(f".{source_language}", f".{source_language}.gz")
        targets = with_suffix(f".{target_language}", f".{target_language}.gz")
        singles = with_suffix(".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz")
    candidates = [
        PairFiles(source, target, "lines")
        for source in sources
        for target in targets
        if source.is_file() and target.is_file()
    ]
    for single in singles:
        if single.is_file():
            if single.name.endswith((".tsv", ".tsv.gz")):
                candidates.append(PairFiles(single, None, "tsv"))
            else:
                candidates.append(PairFiles(single, None, "jsonl", source_language, target_language))
    return candidates, sources + targets + singles


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _missing(
    folder: Path, name: str, looked_for: Sequence[Path], source_language: str, target_language: str
) -> str:
    """The message for a name without files: what was looked for, and what the folder holds instead."""
    parent = looked_for[0].parent
    if not parent.is_dir():
        return f"{parent}: there is no such folder (looked in it for {name!r}: {_listed(looked_for)})"
    message = f"{folder}: no files for {name!r}; looked for {_listed(looked_for)}"
    one_side = [path for path in looked_for if path.is_file()]
    if one_side:
        return f"{message}; found only one side, {_listed(one_side)}"
    held = _pair_names(parent, source_language, target_language)
    if held:
        return f"{message}; the folder holds {', '.join(held)}"
    return f"{message}; the folder holds no pair files for {source_language} and {target_language}"


def _pair_names(folder: Path, source_language: str, target_language: str) -> list[str]:
    """The names in ``folder`` that :func:`find_pair_files` would accept."""
    names = set()
    for path in folder.iterdir():
        name = path.name.removesuffix(".gz")
        for suffix in (f".{source_language}", ".tsv", ".jsonl"):
            if name.endswith(suffix):
                names.add(name.removesuffix(suffix))
    return sorted(
        name for name in names if name and _candidates(folder / name, source_language, target_language)[0]
    )


def read_pairs(files: PairFiles, on_bytes: Callable[[int], None] = _not_counted) -> Iterator[tuple[str, str]]:
    """The pairs (source, target), in order, as a stream.

    Only a line feed ends a line; a carriage return before it is dropped, and so is a byte order mark at the
    start of a file. Every other character is left as it is.

    Args:
        files: what to read.
        on_bytes: called now and then with the number of bytes read from disk since the last call.

    Raises:
        InputError: names file and line: files of different length, an empty file, invalid UTF-8, damaged
            gzip, a TSV line without exactly two columns, a JSON line without two texts.

    """
    if files.target is not None:
        yield from _read_aligned(files.source, files.target, on_bytes)
        return
    if files.format == "source":
        yield from ((line, "") for line in read_lines(files.source, on_bytes))
        return
    read_line = _tsv_pair if files.format == "tsv" else _json_pair
    for number, line in enumerate(read_lines(files.source, on_bytes), start=1):
        yield read_line(line, f"{files.source}, line {number}", files)


def read_lines(path: Path, on_bytes: Callable[[int], None] = _not_counted) -> Iterator[str]:
    """The lines of one text file, plain or ``.gz``, read as :func:`read_pairs` does, with the same errors."""
    number = 0
    for number, line in enumerate(_raw_lines(Path(path), on_bytes), start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, line {number}: invalid UTF-8 at byte {error.start + 1} of the line "
                f"(0x{line[error.start]:02x}); convert the file to UTF-8"
            ) from None
    if number == 0:
        raise InputError(f"{path}: the file is empty; it needs at least one line")


def _raw_lines(path: Path, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    number = 0
    try:
        with io.BufferedReader(_CountedFile(path, on_bytes), _READ_BYTES) as stored:
            # A buffer around GzipFile as well: its own readline is several times slower.
            handle = (
                io.BufferedReader(gzip.GzipFile(fileobj=stored), _READ_BYTES)
                if path.suffix == ".gz"
                else stored
            )
            for number, line in enumerate(handle, start=1):
                if number == 1:
                    line = line.removeprefix(_BOM)
                yield line.removesuffix(b"\n").removesuffix(b"\r")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: damaged gzip after line {number} ({error}); fetch the file again"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read: {error.strerror}") from None


class _CountedFile(io.FileIO):
    """A file that reports how much of it has been read, for a progress bar."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self._on_bytes(count or 0)
        return count


def _read_aligned(source: Path, target: Path, on_bytes: Callable[[int], None]) -> Iterator[tuple[str, str]]:
    sources, targets = read_lines(source, on_bytes), read_lines(target, on_bytes)
    pairs = 0
    while True:
        # Not zip: it would lose the line that the longer file gave last.
        source_line, target_line = next(sources, None), next(targets, None)
        if source_line is None or target_line is None:
            break
        yield source_line, target_line
        pairs += 1
    if source_line is None and target_line is None:
        return
    source_count = pairs + (source_line is not None) + sum(1 for _ in sources)
    target_count = pairs + (target_line is not None) + sum(1 for _ in targets)
    raise InputError(
        f"{source} has {source_count} lines and {target.name} {target_count}; "
        "line i of one must be the translation of line i of the other"
    )


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
    if isinstance(record, dict) and isinstance(record.get("translation"), dict):
        record = record["translation"]
    if isinstance(record, dict) and isinstance(record.get("messages"), list):
        record = _conversation(record["messages"], place, files)
    if not isinstance(record, dict):
        raise InputError(
            f"{place}: not a JSON object; it needs the keys {files.source_key!r} and {files.target_key!r}"
        )
    texts = []
    for key in (files.source_key, files.target_key):
        if key not in record:
            raise InputError(f"{place}: the key {key!r} is missing; the keys are {sorted(record)}")
        if not isinstance(record[key], str):
            raise InputError(f"{place}: the value of {key!r} is not a string")
        if not _is_unicode(record[key]):
            raise InputError(
                f"{place}: the value of {key!r} holds half of a surrogate pair, which is no character"
            )
        texts.append(record[key])
    return texts[0], texts[1]


def _conversation(messages: list[Any], place: str, files: PairFiles) -> dict[str, str]:
    """What the assistant says last, after all before it as JSON."""
    for message in messages:
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise InputError(f"{place}: each message needs a role and a content, both of text")
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise InputError(f"{place}: the messages must end with what the assistant answers to those before it")
    before = json.dumps(messages[:-1], ensure_ascii=False)
    return {files.source_key: before, files.target_key: messages[-1]["content"]}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def fingerprint(files: Sequence[PairFiles]) -> str:
    """A hash of the content: of the files' bytes as stored, their order, and how they are read.

    Names, folders and times play no part. 32 hexadecimal digits. Raises InputError for a missing file.
    """
    whole = hashlib.blake2b(digest_size=16)
    for part in files:
        keys = [part.source_key, part.target_key] if part.format == "jsonl" else []
        whole.update(json.dumps([part.format, *keys]).encode())
        for path in part.paths:
            try:
                stored = path.stat()
                whole.update(_digest(path.resolve(), stored.st_size, stored.st_mtime_ns))
            except OSError as error:
                raise InputError(f"{path}: the file cannot be read: {error.strerror}") from None
    return whole.hexdigest()


@cache
def _digest(path: Path, size: int, changed: int) -> bytes:
    """Of the file's bytes; read once by each process, unless its size or time of change is another."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "blake2b").digest()
