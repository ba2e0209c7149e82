"""Cache folders that are whole or not there (floor 3)."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_bpd.interfaces import InputError


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which appears as ``folder`` only if that went well.

    Interrupted and simultaneous calls do no harm.

    Raises:
        InputError: It cannot be made.
    """
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"{folder.parent}: the cache folder cannot be written ({error.strerror}); choose another"
        ) from None
    try:
        yield partial
        try:
            partial.rename(folder)
        except OSError:
            # Another process may have finished the same rows first; what it stored is as good.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
