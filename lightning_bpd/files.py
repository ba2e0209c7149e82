"""Files that are always whole (floor 0)."""

from __future__ import annotations

import os
import uuid
from pathlib import Path, PureWindowsPath

from lightning_bpd.interfaces import InputError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write so that ``path`` is at every moment the old file or the new one; text is written as UTF-8.

    Its folder is made if need be. Two processes that write the same file at once do no harm.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def path_inside(folder: Path, name: object) -> Path:
    """The path in ``folder`` that a name means which somebody else chose, such as a member of an archive.

    Every such name in an archive, a checkpoint or a model's configuration goes through here before it becomes a path.
    ``/`` and the backslash both separate folders. The last part may be a link; a folder on the way may not lead out.

    Raises:
        InputError: The name is no text, is empty or absolute, has a drive, ``..`` or a control character, or leads
            out of the folder through a link.
    """
    # Windows knows both separators and drives: what is relative there is relative everywhere.
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
