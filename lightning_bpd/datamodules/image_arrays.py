"""Arrays of images in ``.npy`` and ``.npz`` files, read image by image and never unpickled (floor 3)."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_bpd.datamodules.held_out import Part
from lightning_bpd.interfaces import InputError

PART_OF_FOLDER: dict[str, Part] = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}
"""the names of folders, or of arrays in an ``.npz`` file, and the part that each holds"""
# The largest number of bytes that one byte of a zip archive can unpack to.
_MOST_PACKED = 1040


class _Array(NamedTuple):
    """Where an array of images begins in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    in_columns: bool
    """whether the array is in Fortran order, in which the intensities of one image are not contiguous"""


def is_array_file(path: Path) -> bool:
    """Whether ``path`` is a file with an extension of numpy."""
    return path.name.endswith((".npy", ".npz")) and not path.is_dir()


def array_names(path: Path) -> list[str]:
    """The names of the images, their numbers: ``000012``, or ``train/000012`` if an ``.npz`` file has arrays for parts.

    Raises InputError if the file holds no images.
    """
    names = [name for prefix, (_, shape) in _arrays(path).items() for name in _numbered(prefix, shape)]
    if not names:
        raise InputError(f"{path}: the array holds no image")
    return names


def read_arrays(path: Path, names: Container[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The names in ``names`` that the file has, with their images, uint8 [H, W] or [H, W, C], in the file's order.

    Raises InputError if the file holds no images, or ends too early.
    """
    for prefix, (key, shape) in _arrays(path).items():
        with _open_array(path, key) as (handle, _):
            size = math.prod(shape[1:])
            for name in _numbered(prefix, shape):
                content = handle.read(size)
                if len(content) < size:
                    raise InputError(f"{path}: the array ends too early; write the file again")
                if name in names:
                    yield name, np.frombuffer(content, np.uint8).reshape(shape[1:])


def _numbered(prefix: str, shape: tuple[int, ...]) -> list[str]:
    digits = max(6, len(str(shape[0])))
    return [f"{prefix}{number:0{digits}d}" for number in range(shape[0])]


def _arrays(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Key and shape of one array for each part, or else of the only array, by the prefix of their images' names."""
    keys = [""]
    if path.name.endswith(".npz"):
        with zipfile.ZipFile(path) as zipped:
            keys = [name.removesuffix(".npy") for name in zipped.namelist() if name.endswith(".npy")]
    usable, problems = {}, {}
    for key in keys:
        with _open_array(path, key) as (_, array):
            if problem := _problem(array):
                problems[key] = problem
            else:
                usable[key] = (key, array.shape)
    if parts := {f"{key}/": usable[key] for key in usable if key in PART_OF_FOLDER}:
        return parts
    if len(usable) == 1:
        return {"": next(iter(usable.values()))}
    if keys == [""]:
        raise InputError(f"{path}: {problems['']}")
    listed = "; ".join(f"{key}: {problems.get(key, 'images')}" for key in keys) or "nothing"
    raise InputError(
        f"{path}: it must hold one array of images, or arrays called train, val and test; it holds {listed}"
    )


def _problem(array: _Array) -> str | None:
    """The reason why an array holds no images; None if it holds images."""
    if array.dtype.hasobject:
        return "Python objects, which are never unpickled; save an array of uint8"
    grey = len(array.shape) == 3
    if array.dtype != np.uint8 or not (grey or (len(array.shape) == 4 and array.shape[3] in (1, 3))):
        return (
            f"{array.dtype} of shape {' x '.join(map(str, array.shape))}; images are uint8 of N x height x width, or of"
            " N x height x width x channels with 1 channel or 3"
        )
    if array.in_columns:
        return "an array in Fortran order; save numpy.ascontiguousarray of it"
    return None


@contextmanager
def _open_array(path: Path, key: str) -> Iterator[tuple[IO[bytes], _Array]]:
    """Open the array of a ``.npy`` file, or of a key in an ``.npz`` file, positioned after its header."""
    with ExitStack() as stack:
        if path.name.endswith(".npy"):
            handle: IO[bytes] = stack.enter_context(path.open("rb"))
        else:
            handle = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(f"{key}.npy"))
        try:
            version = np.lib.format.read_magic(handle)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, in_columns, dtype = read(handle)
        except ValueError as error:
            raise InputError(
                f"{path}: it is no array that numpy wrote ({error}); save it with numpy.save"
            ) from None
        # The size that the header claims must be possible for the packed bytes.
        most = path.stat().st_size * (1 if path.name.endswith(".npy") else _MOST_PACKED)
        if math.prod(shape) * dtype.itemsize > most or any(side < 0 for side in shape):
            raise InputError(f"{path}: the array ends too early; write the file again")
        yield handle, _Array(shape, dtype, in_columns and len(shape) > 1)
