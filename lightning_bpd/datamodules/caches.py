"""Caches of encoded data: keyed by content, and either complete or absent (floor 3)."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from lightning_bpd.faults import damaged, read_json
from lightning_bpd.files import whole_folder
from lightning_bpd.interfaces import InputError

T = TypeVar("T")


def default_cache(folder: Path) -> Path:
    """The folder ``.encoded`` in ``folder``, or ``data/.encoded`` if ``folder`` cannot be written."""
    # The superuser can write into read-only folders, but the mark is respected.
    writable = os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222
    return folder / ".encoded" if writable else Path("data/.encoded")


def content_key(*settings: Any) -> str:
    """A hash of values that JSON can hold: 24 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]


def file_digest(path: Path) -> bytes:
    """The hash of a file's bytes. Each process reads a file once, unless its size or time of change differs.

    Raises InputError if the file cannot be read.
    """
    try:
        stored = path.stat()
        return _digest(path.resolve(), stored.st_size, stored.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read: {error.strerror}") from None


@cache
def _digest(path: Path, size: int, changed: int) -> bytes:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "blake2b").digest()


def cached(folder: Path, make: Callable[[Path], Any], read: Callable[[dict[str, Any]], T]) -> T:
    """Read a folder of a cache; make it first if it is missing.

    If another process finishes the folder first, its folder stays, because both have equal content.

    Args:
        folder: The folder. It appears only once it is complete.
        make: Fills a folder and returns what ``about.json`` is to hold.
        read: Makes the result from the content of ``about.json``.

    Raises:
        InputError: The folder cannot be written, or what it holds is damaged.
    """
    if not folder.is_dir():
        with writing(folder.parent), whole_folder(folder, replace=False) as partial:
            about = json.dumps(make(partial), indent=1)
            (partial / "about.json").write_text(f"{about}\n")
    remedy = "delete this folder to have it made again"
    with damaged(f"the cache {folder}", remedy):
        return read(read_json(folder / "about.json", remedy.replace("this", "its")))


@contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Turn an OSError into an InputError: the folder ``cache`` cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{cache}: the cache folder cannot be written ({error.strerror}); choose another with cache"
        ) from error


class MappedArray(np.memmap):
    """An array in a file, opened as np.memmap is. Its pickle is the file's name, so worker processes map the file, too.

    Index ``numpy.asarray`` of it: slices of np.memmap itself take several times as long.
    """

    def __reduce__(self) -> Any:
        if not isinstance(self.base, mmap.mmap):  # a part of the array
            return super().__reduce__()
        return MappedArray, (self.filename, self.dtype, "r", 0, self.shape)

    def __deepcopy__(self, memo: Any) -> Self:
        return self
