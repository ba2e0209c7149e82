"""A disk that fails once: at the n-th open, write, rename, fsync or new folder below a folder."""

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from safetensors import SafetensorError

FAULTS = (errno.ENOSPC, errno.EACCES, errno.EIO)


class Disk:
    """Counts what is asked of it, and fails at the n-th request, counted from 1."""

    def __init__(self, folder: Path, fails_at: int, number: int) -> None:
        self.folder, self.fails_at, self.number = folder.resolve(), fails_at, number
        self.requests: list[str] = []

    def ask(self, request: str, path: Any = None) -> None:
        named = path is not None and not isinstance(path, int)
        if named and not Path(os.fsdecode(path)).absolute().is_relative_to(self.folder):
            return
        self.requests.append(request)
        if len(self.requests) == self.fails_at:
            raise OSError(self.number, os.strerror(self.number))


class File:
    """A file whose writes are asked for; of the one that fails half is written."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, content: Any) -> int:
        try:
            self._disk.ask("write")
        except OSError:
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            raise
        return self._file.write(content)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def failing_disk(folder: Path, fails_at: int = 0, number: int = errno.ENOSPC) -> Iterator[Disk]:
    """Everything that Python code and safetensors write below ``folder`` goes through the disk that is yielded."""
    disk = Disk(folder, fails_at, number)
    real = {name: getattr(os, name) for name in ("open", "replace", "rename", "fsync", "mkdir")}
    real_open, real_serialize = io.open, safetensors.torch.serialize_file

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+"):
            return real_open(file, mode, *args, **options)
        disk.ask("open", file)
        return File(real_open(file, mode, *args, **options), disk)

    def asked(name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            # What removes a folder opens it below another.
            if "dir_fd" not in options:
                disk.ask(name, args[0])
            return real[name](*args, **options)

        return call

    def serialized(tensors: Any, path: Any, *args: Any, **options: Any) -> None:
        try:
            disk.ask("write", path)
        except OSError as error:
            Path(path).write_bytes(b"half")
            raise SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from None
        real_serialize(tensors, path, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(os, name, asked(name))
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        patch.setattr(safetensors.torch, "serialize_file", serialized)
        yield disk
