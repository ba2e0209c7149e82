"""Lines of text from files, standard input and pipes, with one set of rules for all commands (floor 2)."""

from __future__ import annotations

import atexit
import bz2
import gzip
import io
import lzma
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

from lightning_bpd.interfaces import InputError

STANDARD_INPUT = "-"
PACKED = {".gz": "gzip", ".xz": "xz", ".bz2": "bzip2"}
"""compression by the ending of a file's name"""

_OPEN: dict[str, Any] = {"gzip": gzip.open, "xz": lzma.open, "bzip2": bz2.open}
# The mark of bzip2 is long, because text may begin with BZh; no UTF-8 begins with one of the other marks.
_MAGIC = {"gzip": (b"\x1f\x8b",), "xz": (b"\xfd7zXZ\0",)} | {
    "bzip2": tuple(
        b"BZh%d" % level + block for level in range(1, 10) for block in (b"1AY&SY", b"\x17rE8P\x90")
    )
}
_MAGIC_BYTES = 10
_OTHER_ENCODINGS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_BOM = b"\xef\xbb\xbf"
_BLOCK = 1 << 20
# Bytes, far more than any sentence or conversation. Without a limit a small compressed file could fill the memory.
_LONGEST_LINE = 1 << 26


def read_lines(
    path: str | Path, on_bytes: Callable[[int], None] | None = None, name: str | None = None
) -> Iterator[str]:
    """Read the lines of a text, as a stream in bounded memory.

    Only a line feed ends a line. A carriage return before it is dropped, and so is a byte order mark at the start of
    the text. Every other character, such as U+2028 or NUL, belongs to its line. The last line needs no line feed.
    The content shows whether text is compressed by gzip, xz or bzip2.

    Args:
        path: A file, a pipe, or ``-`` for standard input.
        on_bytes: Called repeatedly with the number of bytes read since the last call, before decompression.
        name: Name of the text in messages; its path by default.

    Raises:
        InputError: The text cannot be read, is not UTF-8 (with the number of the line), or is damaged.
    """
    name = name or called(path)
    for number, line in enumerate(_raw_lines(path, name, on_bytes or (lambda count: None)), start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            for mark, encoding in _OTHER_ENCODINGS.items() if number == 1 else ():
                if line.startswith(mark):
                    raise InputError(
                        f"{name}, line 1: this is {encoding}; convert it to UTF-8, for example by iconv -f {encoding} "
                        "-t UTF-8"
                    ) from None
            raise InputError(
                f"{name}, line {number}: invalid UTF-8 at byte {error.start + 1} of the line "
                f"(0x{line[error.start]:02x}); convert the text to UTF-8, for example with iconv"
            ) from None


def called(path: str | Path) -> str:
    """Return the name of a text for messages."""
    return "standard input" if str(path) == STANDARD_INPUT else str(path)


def is_stream(path: str | Path) -> bool:
    """Whether a text can be read only once: standard input, or a pipe such as ``<(...)`` in a shell."""
    path = Path(path)
    return str(path) == STANDARD_INPUT or (path.exists() and not path.is_file() and not path.is_dir())


def repeatable(path: str | Path) -> Path:
    """Return a file that can be read any number of times: the path itself, or a copy of a stream.

    A process copies each stream once and deletes the copy when it ends. Raises InputError if the copy fails.
    """
    return _copied(str(path)) if is_stream(path) else Path(path)


@cache
def _copied(path: str) -> Path:
    try:
        copy = tempfile.NamedTemporaryFile(prefix="lightning_bpd-")  # noqa: SIM115  # closed at the end of the process
        atexit.register(copy.close)
        with _opened(path) as stream:
            shutil.copyfileobj(stream, copy)
        copy.flush()
    except OSError as error:
        raise InputError(
            f"{called(path)} cannot be copied to {tempfile.gettempdir()}: {error.strerror}"
        ) from None
    return Path(copy.name)


@contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    if str(path) != STANDARD_INPUT:
        with open(path, "rb") as file:
            yield file
    elif sys.__stdin__ is None:
        raise InputError("standard input is closed: give a file")
    else:
        yield sys.stdin.buffer


def _raw_lines(path: str | Path, name: str, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    number, packing = 0, None
    try:
        with _opened(path) as file, io.BufferedReader(_Counted(file, on_bytes), _BLOCK) as stored:
            start = stored.peek(_MAGIC_BYTES)[:_MAGIC_BYTES]
            by_name = PACKED.get(Path(path).suffix)
            packing = next((kind for kind, magic in _MAGIC.items() if start.startswith(magic)), by_name)
            # The decompressor has a buffer, too: its own readline is several times slower.
            handle = stored if packing is None else io.BufferedReader(_OPEN[packing](stored, "rb"), _BLOCK)
            for number, line in enumerate(iter(partial(handle.readline, _LONGEST_LINE), b""), start=1):
                if len(line) == _LONGEST_LINE:
                    raise InputError(
                        f"{name}, line {number}: longer than {_LONGEST_LINE >> 20} MiB, so this is not text"
                    )
                if number == 1:
                    line = line.removeprefix(_BOM)
                yield line.removesuffix(b"\n").removesuffix(b"\r")
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        # Errors of the operating system have a number; errors of decompressors have none.
        if packing is not None and getattr(error, "errno", None) is None:
            raise InputError(
                f"{name}: damaged {packing} after line {number} ({error}); fetch the file again"
            ) from None
        raise InputError(f"{name}: the file cannot be read: {getattr(error, 'strerror', error)}") from None


class _Counted(io.RawIOBase):
    """The bytes of an open file, which reports the number of bytes read, for a progress bar.

    The first read waits for enough bytes to recognise compressed text, even from a slow pipe.
    """

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._file: Any = file
        self._on_bytes = on_bytes
        self._least = _MAGIC_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        count = more = self._file.readinto1(view)
        while more and count < self._least:
            more = self._file.readinto1(view[count:])
            count += more
        self._least = 0
        self._on_bytes(count)
        return count
