"""A corpus encoded once into memory-mapped arrays, keyed by the content of text and tokenizers (floor 3)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lightning_bpd.codecs.text_lines import called, repeatable
from lightning_bpd.codecs.tokenizers import TextSide, whole_row
from lightning_bpd.datamodules.cache_folder import cache_folder
from lightning_bpd.datamodules.text_files import PairFiles, fingerprint, read_pairs
from lightning_bpd.faults import damaged, read_json
from lightning_bpd.interfaces import InputError
from lightning_bpd.progress import progress_bar

_log = logging.getLogger(__name__)

# Part of the key: raise it when what is stored changes, so that older caches are no longer found.
_FORMAT = 1
_CHUNK_PAIRS = 20_000


class RaggedRows:
    """Rows of token ids of different length, one after the other in one array.

    Rows mapped from files are pickled as the names of the files, and a worker process maps the files again.
    """

    tokens: np.ndarray
    """the tokens of all rows: uint16 if the vocabulary is small enough, else int32"""
    offsets: np.ndarray
    """int64 [N + 1]: row i is ``tokens[offsets[i] : offsets[i + 1]]``"""

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray) -> None:
        self.tokens = tokens
        self.offsets = offsets
        # Plain views of the same memory: slicing an np.memmap itself takes several times as long.
        self._tokens = np.asarray(tokens)
        self._offsets = np.asarray(offsets)
        self._mapped_from: tuple[Path, str] | None = None

    @classmethod
    def map(cls, stem: Path, dtype: str) -> RaggedRows:
        """The rows in the files ``stem.tokens`` (of type ``dtype``) and ``stem.offsets``, read only."""
        rows = cls(
            np.memmap(stem.with_suffix(".tokens"), dtype=dtype, mode="r"),
            np.memmap(stem.with_suffix(".offsets"), dtype=np.int64, mode="r"),
        )
        rows._mapped_from = (stem, dtype)
        return rows

    def __reduce__(self) -> tuple[Any, ...]:
        if self._mapped_from is not None:
            return RaggedRows.map, self._mapped_from
        return RaggedRows, (self.tokens, self.offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """Row ``row``, counted from 0, as a view in the stored integer type."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self._tokens[self._offsets[row] : self._offsets[row + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [N], the number of tokens of each row, its end token included."""
        return np.diff(self._offsets)


@dataclass(frozen=True)
class EncodedCorpus:
    """Pairs of rows of token ids. Every row ends with its side's end token; none has a start token."""

    source: RaggedRows
    target: RaggedRows
    dropped_empty: int
    """pairs left out because a side had no text"""
    dropped_long: int
    """pairs left out because a side had too many tokens"""
    row_numbers: np.ndarray
    """int64 [N], memory-mapped: the index of each pair, counted from 0, in its files"""
    shortened: int = 0
    """pairs kept with a side cut to the largest length"""

    def __len__(self) -> int:
        return len(self.source)


def encode_corpus(
    files: Sequence[PairFiles],
    source_tokenizer: TextSide,
    target_tokenizer: TextSide,
    cache: Path,
    max_length: int,
    drop: bool,
    description: str,
) -> EncodedCorpus:
    """Encode the pairs of ``files``, or find them encoded in ``cache`` by an earlier call.

    The encoded corpus is stored in ``cache / key``, where the key is a hash of the content of the files, of both
    tokenizers and of the settings. It appears there only once complete, so calls may be interrupted or simultaneous.
    Memory stays bounded for any size of the corpus.

    Args:
        files: the parts of the corpus, in order.
        source_tokenizer: encodes the source side.
        target_tokenizer: encodes the target side.
        cache: folder for encoded corpora, made if it is missing.
        max_length: the most tokens a side may have, its end token included; at least 2.
        drop: how to treat a pair with an empty side (only white space) or a side over ``max_length``. True,
            for training: the pair is left out and counted. False, for validation and test: every pair stays; a
            long side is cut and ends with the end token, and an empty side is the end token alone.
        description: the name of the corpus in messages, such as "train".

    Raises:
        InputError: no pair is left, the cache cannot be written or is damaged, or the files cannot be read.

    """
    tokenizers = (source_tokenizer, target_tokenizer)
    least = 1 + max(len(side.prefix) + len(side.suffix) for side in tokenizers)
    if max_length < least:
        raise InputError(f"{description}: max_length is {max_length}; a token and the end token take {least}")
    settings = [_FORMAT, fingerprint(files), *(t.fingerprint for t in tokenizers), max_length, drop]
    folder = Path(cache) / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]
    if not folder.is_dir():
        with cache_folder(folder) as partial:
            _encode(files, tokenizers, partial, max_length, drop, description)
    corpus = _open_corpus(folder, (source_tokenizer.vocab_size, target_tokenizer.vocab_size))
    if drop:
        fate = (
            f"{corpus.dropped_empty} empty and {corpus.dropped_long} longer than {max_length} tokens dropped"
        )
    else:
        fate = f"{corpus.shortened} longer than {max_length} tokens cut"
    _log.info("%s: %d pairs, %s", description, len(corpus), fate)
    return corpus


def _open_corpus(folder: Path, vocabularies: tuple[int, int]) -> EncodedCorpus:
    with damaged(f"the cache of the corpus {folder}", "delete this folder to have it made again"):
        about = read_json(folder / "about.json", "delete its folder to have it made again")
        corpus = EncodedCorpus(
            source=RaggedRows.map(folder / "source", about["source_dtype"]),
            target=RaggedRows.map(folder / "target", about["target_dtype"]),
            dropped_empty=about["dropped_empty"],
            dropped_long=about["dropped_long"],
            row_numbers=np.memmap(folder / "row_numbers", dtype=np.int64, mode="r"),
            shortened=about["shortened"],
        )
        for rows, vocabulary in zip((corpus.source, corpus.target), vocabularies, strict=True):
            if not len(rows) == len(corpus.row_numbers) == about["pairs"] or rows.offsets[-1] != len(
                rows.tokens
            ):
                raise ValueError("its files do not belong together")
            if (
                rows.offsets[0]
                or rows.lengths.min() < 1
                or rows.tokens.max() >= vocabulary
                or rows.tokens.min() < 0
            ):
                raise ValueError("there are tokens or rows that no corpus has")
    return corpus


def _encode(
    files: Sequence[PairFiles],
    tokenizers: tuple[TextSide, TextSide],
    folder: Path,
    max_length: int,
    drop: bool,
    description: str,
) -> None:
    """Encode ``files`` into ``folder``, chunk by chunk."""
    seen = kept = empty = long = 0
    around = np.array([[len(side.prefix) + len(side.suffix)] for side in tokenizers])

    total_bytes = sum(repeatable(path).stat().st_size for part in files for path in part.paths)
    with (
        _RowsWriter(folder / "source", tokenizers[0].vocab_size) as source_writer,
        _RowsWriter(folder / "target", tokenizers[1].vocab_size) as target_writer,
        (folder / "row_numbers").open("wb") as row_numbers,
        progress_bar(f"Encoding {description}", "bytes", total_bytes) as report,
    ):
        stream = chain.from_iterable(read_pairs(part, report) for part in files)
        while pairs := list(islice(stream, _CHUNK_PAIRS)):
            try:
                sources = _encode_texts([source for source, _ in pairs], tokenizers[0])
                targets = _encode_texts([target for _, target in pairs], tokenizers[1])
            except InputError:
                _name_line(pairs, tokenizers, files, seen)
                raise
            lengths = np.array([list(map(len, sources)), list(map(len, targets))])
            is_empty = (lengths == 0).any(axis=0)
            is_long = (lengths + around > max_length).any(axis=0)
            if drop:
                is_kept = ~(is_empty | is_long)
                empty += int(is_empty.sum())
                long += int((is_long & ~is_empty).sum())
            else:
                is_kept = np.ones_like(is_long)
                long += int(is_long.sum())
            rows = np.flatnonzero(is_kept)
            source_writer.append([whole_row(tokenizers[0], sources[row], max_length) for row in rows])
            target_writer.append([whole_row(tokenizers[1], targets[row], max_length) for row in rows])
            row_numbers.write((seen + rows).tobytes())
            seen += len(pairs)
            kept += len(rows)
    if not kept:
        names = ", ".join(called(path.name) for part in files for path in part.paths)
        raise InputError(
            f"{description}: no pair is left of {names}: "
            f"{empty} empty and {long} longer than {max_length} tokens were dropped"
        )
    about = {
        "pairs": kept,
        "dropped_empty": empty,
        "dropped_long": long if drop else 0,
        "shortened": 0 if drop else long,
        "source_dtype": source_writer.dtype.name,
        "target_dtype": target_writer.dtype.name,
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def _encode_texts(texts: Sequence[str], tokenizer: TextSide) -> list[list[int]]:
    return tokenizer.encode(["" if text.isspace() else text for text in texts])


def _name_line(
    pairs: Sequence[tuple[str, str]],
    tokenizers: tuple[TextSide, TextSide],
    files: Sequence[PairFiles],
    first: int,
) -> None:
    """Raise InputError with file and line of the first pair that a tokenizer refuses; ``first`` pairs come before."""
    for number, pair in enumerate(pairs, first):
        try:
            for text, tokenizer in zip(pair, tokenizers, strict=True):
                _encode_texts([text], tokenizer)
        except InputError as error:
            raise InputError(f"{_place(files, number)}: {error}") from error


def _place(files: Sequence[PairFiles], number: int) -> str:
    """File and line of a pair, counted from 0 over all files."""
    lines = (
        f"{called(part.source)}, line {line}" for part in files for line, _ in enumerate(read_pairs(part), 1)
    )
    return next(islice(lines, number, None))


class _RowsWriter:
    """Writes the files that ``RaggedRows.map`` reads."""

    def __init__(self, stem: Path, vocab_size: int) -> None:
        self.dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)
        self._tokens = stem.with_suffix(".tokens").open("wb")
        self._offsets = stem.with_suffix(".offsets").open("wb")
        self._total = 0
        self._offsets.write(np.zeros(1, np.int64).tobytes())

    def __enter__(self) -> _RowsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tokens.close()
        self._offsets.close()

    def append(self, rows: Sequence[Sequence[int]]) -> None:
        ends = self._total + np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
        if len(ends):
            count = int(ends[-1]) - self._total
            # Unlike tofile, write gives the reason of a failure.
            self._tokens.write(np.fromiter(chain.from_iterable(rows), self.dtype, count).tobytes())
            self._offsets.write(ends.tobytes())
            self._total += count
