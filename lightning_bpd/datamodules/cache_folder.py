"""Cache folders that are either complete or absent (floor 3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_bpd.files import whole_folder
from lightning_bpd.interfaces import InputError


@contextmanager
def cache_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill. It appears as ``folder`` only if no error was raised.

    If another process finishes the folder first, its folder stays, because both have equal content.

    Raises:
        InputError: The folder cannot be written.
    """
    try:
        with whole_folder(folder, replace=False) as partial:
            yield partial
    except OSError as error:
        raise InputError(
            f"{folder.parent}: the cache folder cannot be written ({error.strerror}); choose another"
        ) from error
