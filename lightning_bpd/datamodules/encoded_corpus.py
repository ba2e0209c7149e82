"""A corpus encoded once into memory-mapped arrays, keyed by the content of text and tokenizers (floor 3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lightning_bpd.codecs.text_lines import called, repeatable
from lightning_bpd.codecs.tokenizers import TextSide, whole_row
from lightning_bpd.datamodules.caches import MappedArray, cached, content_key
from lightning_bpd.datamodules.text_files import PairFiles, fingerprint, read_pairs
from lightning_bpd.interfaces import InputError
from lightning_bpd.progress import progress_bar

_log = logging.getLogger(__name__)

# Part of the key: raise it when what is stored changes, so that older caches are no longer found.
_FORMAT = 1
_CHUNK_PAIRS = 20_000


@dataclass(frozen=True)
class RaggedRows:
    """Rows of token ids of different length, one after the other in one array."""

    tokens: np.ndarray
    """the tokens of all rows: uint16 if the vocabulary is small enough, else int32"""
    offsets: np.ndarray
    """int64 [N + 1]: row i is ``tokens[offsets[i] : offsets[i + 1]]``"""

    def __reduce__(self) -> tuple[Any, ...]:
        return RaggedRows, (self.tokens, self.offsets)  # without the cached lengths

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """Row ``row``, counted from 0, as a view in the stored integer type."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return np.asarray(self.tokens)[self.offsets[row] : self.offsets[row + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [N], the number of tokens of each row, its end token included."""
        return np.diff(np.asarray(self.offsets))


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

    The encoded corpus is stored in a folder named by a hash of the content of the files, of both tokenizers and of the
    settings. Calls may be interrupted or simultaneous. Memory stays bounded for any size of the corpus.

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
    folder = Path(cache) / content_key(
        _FORMAT, fingerprint(files), *(side.fingerprint for side in tokenizers), max_length, drop
    )
    corpus = cached(
        folder,
        lambda path: _encode(files, tokenizers, path, max_length, drop, description),
        lambda about: _open_corpus(folder, about, tokenizers),
    )
    fate = f"{corpus.shortened} longer than {max_length} tokens cut"
    if drop:
        fate = (
            f"{corpus.dropped_empty} empty and {corpus.dropped_long} longer than {max_length} tokens dropped"
        )
    _log.info("%s: %d pairs, %s", description, len(corpus), fate)
    return corpus


def _open_corpus(folder: Path, about: dict[str, Any], tokenizers: Sequence[TextSide]) -> EncodedCorpus:
    source, target = (
        RaggedRows(
            MappedArray(folder / f"{side}.tokens", about[f"{side}_dtype"], "r"),
            MappedArray(folder / f"{side}.offsets", np.int64, "r"),
        )
        for side in ("source", "target")
    )
    counts = {name: about[name] for name in ("dropped_empty", "dropped_long", "shortened")}
    numbers = MappedArray(folder / "row_numbers", np.int64, "r")
    for rows, tokenizer in zip((source, target), tokenizers, strict=True):
        tokens, offsets = rows.tokens, rows.offsets
        if not len(rows) == len(numbers) == about["pairs"] or offsets[-1] != len(tokens):
            raise ValueError("its files do not belong together")
        if offsets[0] or rows.lengths.min() < 1 or tokens.max() >= tokenizer.vocab_size or tokens.min() < 0:
            raise ValueError("there are tokens or rows that no corpus has")
    return EncodedCorpus(source, target, row_numbers=numbers, **counts)


def _encode(
    files: Sequence[PairFiles],
    tokenizers: Sequence[TextSide],
    folder: Path,
    max_length: int,
    drop: bool,
    description: str,
) -> dict[str, Any]:
    """Encode ``files`` into ``folder``, chunk by chunk. Returns the counts and types of what was stored."""
    seen = kept = empty = long = 0
    around = np.array([[len(side.prefix) + len(side.suffix)] for side in tokenizers])
    dtypes = [np.dtype(np.uint16 if side.vocab_size <= 1 << 16 else np.int32) for side in tokenizers]
    total_bytes = sum(repeatable(path).stat().st_size for part in files for path in part.paths)
    stored = ("source.tokens", "source.offsets", "target.tokens", "target.offsets", "row_numbers")
    with ExitStack() as stack:
        *handles, row_numbers = (stack.enter_context((folder / name).open("wb")) for name in stored)
        tokens_and_offsets = handles[:2], handles[2:]
        report = stack.enter_context(progress_bar(f"Encoding {description}", "bytes", total_bytes))
        for _, offsets in tokens_and_offsets:
            offsets.write(np.zeros(1, np.int64).tobytes())
        stream = chain.from_iterable(read_pairs(part, report) for part in files)
        while pairs := list(islice(stream, _CHUNK_PAIRS)):
            try:
                sides = [
                    _encode_texts(texts, side)
                    for texts, side in zip(zip(*pairs, strict=True), tokenizers, strict=True)
                ]
            except InputError:
                _name_line(pairs, tokenizers, files, seen)
                raise
            lengths = np.array([list(map(len, side)) for side in sides])
            is_empty = (lengths == 0).any(axis=0) & drop
            is_long = (lengths + around > max_length).any(axis=0) & ~is_empty
            empty += int(is_empty.sum())
            long += int(is_long.sum())
            rows = np.flatnonzero(~(is_empty | is_long) | (not drop))
            for side, tokenizer, dtype, handles in zip(
                sides, tokenizers, dtypes, tokens_and_offsets, strict=True
            ):
                _append([whole_row(tokenizer, side[row], max_length) for row in rows], dtype, *handles)
            row_numbers.write((seen + rows).tobytes())
            seen += len(pairs)
            kept += len(rows)
    if not kept:
        names = ", ".join(called(path.name) for part in files for path in part.paths)
        raise InputError(
            f"{description}: no pair is left of {names}: "
            f"{empty} empty and {long} longer than {max_length} tokens were dropped"
        )
    return {
        "pairs": kept,
        "dropped_empty": empty,
        "dropped_long": long if drop else 0,
        "shortened": 0 if drop else long,
        "source_dtype": dtypes[0].name,
        "target_dtype": dtypes[1].name,
    }


def _encode_texts(texts: Sequence[str], tokenizer: TextSide) -> list[list[int]]:
    return tokenizer.encode(["" if text.isspace() else text for text in texts])


def _name_line(
    pairs: Sequence[tuple[str, str]], tokenizers: Sequence[TextSide], files: Sequence[PairFiles], first: int
) -> None:
    """Raise InputError with file and line of the first pair that a tokenizer refuses; ``first`` pairs come before."""
    for number, pair in enumerate(pairs, first):
        try:
            for text, tokenizer in zip(pair, tokenizers, strict=True):
                _encode_texts([text], tokenizer)
        except InputError as error:
            places = ((part, line) for part in files for line, _ in enumerate(read_pairs(part), 1))
            part, line = next(islice(places, number, None))
            raise InputError(f"{called(part.source)}, line {line}: {error}") from error


def _append(rows: Sequence[Sequence[int]], dtype: np.dtype, tokens: BinaryIO, offsets: BinaryIO) -> None:
    """Write rows to the end of the two files of a ``RaggedRows``."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    offsets.write((tokens.tell() // dtype.itemsize + np.cumsum(lengths)).tobytes())
    # Unlike tofile, write gives the reason of a failure.
    tokens.write(np.fromiter(chain.from_iterable(rows), dtype, int(lengths.sum())).tobytes())
