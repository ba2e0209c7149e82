"""Files and folders that are always complete, also after a kill, a full disk or a power cut (floor 0)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import platform
import shutil
import sysconfig
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from lightning_bpd.interfaces import InputError

# Unfinished files have such hidden names. Only the machine in the name can tell whether the writing process still runs.
_OWN = f".{platform.node()}-"
_ENDING = ".partial"
_DAY = 24 * 60 * 60


def shipped(name: str) -> Path:
    """Return the path of a file that comes with the project, such as ``configs/default.yaml``.

    It lies in a checkout, or in ``share/lightning_bpd`` of the environment that the package was installed into.
    """
    checkout = Path(__file__).parents[1] / name
    return (
        checkout if checkout.exists() else Path(sysconfig.get_path("data")) / "share" / "lightning_bpd" / name
    )


def write_atomically(path: Path, content: str | bytes, durable: bool = True) -> None:
    """Write a file by ``whole_file``; text is written as UTF-8."""
    with whole_file(path, durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write to. At every moment ``path`` is the old file or the complete new file.

    A missing folder is made. Two processes may write one file at once.

    Args:
        path: The file.
        durable: Return only when the disk holds the file, so that it survives a power cut.

    Raises:
        OSError: The file cannot be written; the error names ``path``.
    """
    with _partial(path, lambda name: os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)) as (
        partial,
        descriptor,
    ):
        with open(descriptor, "wb", closefd=False) as file:
            yield file
        if durable:
            os.fsync(descriptor)
        os.replace(partial, path)
        if durable:
            _sync(path.parent)


def append_to_file(path: Path, content: str) -> None:
    """Add text to the end of a file, and return when the disk holds the text. A kill may leave a part of the text.

    Raises:
        OSError: The file cannot be written; the error names ``path``.
    """
    with _naming(path), path.open("ab") as file:
        file.write(content.encode())
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def whole_folder(folder: Path, replace: bool) -> Iterator[Path]:
    """An empty folder to fill. It becomes ``folder`` when it is complete and the disk holds it.

    Args:
        folder: The folder. Missing parent folders are made.
        replace: Whether to replace a folder that exists by then. If not, the existing folder stays.

    Raises:
        OSError: The folder cannot be written; the error names ``folder`` or a file in it.
    """

    def make(name: Path) -> int:
        name.mkdir()
        return os.open(name, os.O_RDONLY)

    with _partial(folder, make) as (partial, _):
        yield partial
        for path in (*partial.rglob("*"), partial):
            _sync(path)
        try:
            os.rename(partial, folder)
        except OSError:
            if not folder.is_dir():
                raise
            if replace:
                _take_place(partial, folder)
        _sync(folder.parent)


def path_inside(folder: Path, name: object) -> Path:
    """The path in ``folder`` of an untrusted name, such as the name of a member of an archive.

    Every name in an archive, a checkpoint or a model's configuration passes this check before it becomes a path.
    ``/`` and the backslash both separate folders. The last part may be a link; no parent folder may lead out.

    Raises:
        InputError: The name is not text, is empty or absolute, has a drive, ``..`` or a control character, or leads
            out of the folder through a link.
    """
    # Windows paths know both separators and drives: a path that is relative there is relative everywhere.
    given = PureWindowsPath(name if isinstance(name, str) else "")
    path = folder / given.as_posix()
    if (
        given.anchor
        or not given.name
        or ".." in given.parts
        or any(ord(character) < 32 or ord(character) == 127 for character in str(given))
        or not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(folder))
    ):
        raise InputError(f"{folder}: the name {name!r} does not lead to a file inside it; rename it there")
    return path


@contextmanager
def _partial(path: Path, make: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    """A locked file or folder beside ``path``, removed at the end unless it was renamed, and its descriptor.

    Raises:
        InputError: The path has no name of its own, such as ``.``, so that nothing can lie beside it.
    """
    if path.name in ("", ".."):
        raise InputError(f"{path} cannot be written as a whole: give it a name, such as {path / 'output'}")
    partial, descriptor = None, None
    try:
        with _naming(path):
            _make_folder(path.parent)
            remove_what_was_left(path.parent)
            while True:
                partial = path.with_name(f"{_OWN}{uuid.uuid4().hex[:8]}{_ENDING}")
                descriptor = make(partial)
                with suppress(OSError):  # not every file system has locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if partial.exists():
                    break
                os.close(
                    descriptor
                )  # Between the two lines above another process took it for one that was left.
            yield partial, descriptor
    finally:
        if partial is not None:
            _remove(partial)
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors name ``path`` if they name no file or a partial file, which the user does not know."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and _ENDING not in str(error.filename):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@functools.cache
def remove_what_was_left(folder: Path) -> None:
    """Remove partial files and folders of killed processes: no process holds their locks.

    Whatever writes into a folder does so first; call this where a resumed process may have nothing to write.
    """
    for path in folder.glob(f".*-????????{_ENDING}"):
        with suppress(OSError):
            # The locks of another machine may be invisible here.
            if not path.name.startswith(_OWN) and time.time() - path.stat().st_mtime < _DAY:
                continue
            descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(descriptor)


def _take_place(new: Path, folder: Path) -> None:
    """Replace ``folder`` by ``new``. Afterwards the old folder is called ``new``, or is removed."""
    with suppress(AttributeError):  # not every system has it
        # RENAME_EXCHANGE: there is no moment without the folder.
        if ctypes.CDLL(None).renameat2(-100, os.fsencode(new), -100, os.fsencode(folder), 2) == 0:
            return
    earlier = Path(f"{new}.earlier")
    os.rename(folder, earlier)
    try:
        os.rename(new, folder)
    except OSError:
        os.rename(earlier, folder)
        raise
    _remove(earlier)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    """Wait until the disk holds a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
