"""Images and labels in idx files, the format of MNIST, plain or compressed with gzip (floor 3)."""

from __future__ import annotations

import gzip
import math
import re
import struct
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_bpd.faults import damaged
from lightning_bpd.interfaces import InputError

_NAME = re.compile(r"(.*?)[-_.]?images[-_.]idx3[-_.]ubyte(\.gz)?")
_PARTS = {"train": "train/", "val": "val/", "validation": "val/", "test": "test/", "t10k": "test/"}
_BYTES = 0x08
_TYPES = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}


def is_idx(path: Path) -> bool:
    """Whether ``path`` is an idx file of images, by its name, or a folder that directly contains one."""
    return any(map(_is_images, path.iterdir() if path.is_dir() else (path,)))


def idx_files(path: Path) -> dict[str, Path]:
    """The files of images by the prefix of their images' names: ``train/``, ``val/`` or ``test/``, or nothing.

    Raises InputError if two files of a folder hold the same part.
    """
    if not path.is_dir():
        return {"": path}
    files: dict[str, Path] = {}
    # An uncompressed file comes before its compressed copy.
    for file in sorted(
        filter(_is_images, path.iterdir()), key=lambda file: (file.suffix == ".gz", file.name)
    ):
        prefix = _PARTS.get(re.split("[-_.]", _stem(file))[-1], "")
        earlier = files.setdefault(prefix, file)
        if _stem(earlier) != _stem(file):
            raise InputError(
                f"{path}: {earlier.name} and {file.name} hold the same part; give a folder with one of them"
            )
    return files


def idx_names(path: Path) -> dict[str, str]:
    """The file of each image, by the image's name: ``train/000012``, or ``000012`` for a file that is no part.

    Raises InputError if a file is damaged or of another type.
    """
    return {
        name: file.name
        for prefix, file in idx_files(path).items()
        for name in _numbered(prefix, len(read_idx(file, 3)))
    }


def read_idx_images(path: Path, names: Container[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The names in ``names`` that the files have, with their images, uint8 [H, W], in the files' order.

    Raises InputError if a file is damaged or of another type.
    """
    for prefix, file in idx_files(path).items():
        images = read_idx(file, 3)
        for name, image in zip(_numbered(prefix, len(images)), images, strict=True):
            if name in names:
                yield name, image


def idx_labels(path: Path) -> dict[str, int]:
    """The label of each image, by the image's name.

    Raises InputError if the file of labels is missing, damaged or of another type, or holds more or fewer labels than
    there are images.
    """
    labels: dict[str, int] = {}
    for prefix, file in idx_files(path).items():
        plain = re.sub(r"(.*)images([-_.])idx3", r"\1labels\2idx1", file.name.removesuffix(".gz"))
        label_file = next(
            (file.with_name(name) for name in (plain, f"{plain}.gz") if file.with_name(name).exists()), None
        )
        if label_file is None:
            raise InputError(f"{file}: its labels are missing; put {plain} or {plain}.gz beside it")
        found, images = read_idx(label_file, 1), read_idx(file, 3)
        if len(found) != len(images):
            raise InputError(
                f"{label_file} holds {len(found)} labels, but {file.name} holds {len(images)} images; fetch both again"
            )
        labels |= dict(zip(_numbered(prefix, len(images)), found.tolist(), strict=True))
    return labels


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of an idx file.

    Args:
        path: The file; a name that ends in ``.gz`` means that it is compressed.
        dimensions: The number of dimensions that the array must have: 3 for images, 1 for labels.

    Returns:
        uint8, of ``dimensions`` dimensions; read only.

    Raises:
        InputError: The file cannot be read, is damaged, or holds numbers of another type or shape.
    """
    with (
        damaged(path, "fetch it again"),
        gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle,
    ):
        start = handle.read(4)
        if len(start) < 4 or start[:2] != b"\0\0":
            raise InputError(
                f"{path}: this is not an idx file, which begins with two zero bytes; fetch it again"
            )
        kind, found = start[2], start[3]
        if kind != _BYTES:
            raise InputError(
                f"{path}: it holds {_TYPES.get(kind, f'numbers of the unknown type {kind}')}; images and labels must"
                " be unsigned bytes"
            )
        if found != dimensions:
            expected = "images have 3" if dimensions == 3 else "labels have 1"
            raise InputError(f"{path}: its array has {found} dimensions, but {expected}; give the right file")
        sizes = handle.read(4 * dimensions)
        if len(sizes) < 4 * dimensions:
            raise InputError(f"{path}: the file ends in its header; fetch it again")
        shape = struct.unpack(f">{dimensions}I", sizes)
        # One byte more than announced, so that a longer file is noticed and no file fills the memory.
        content = handle.read(min(math.prod(shape), 1 << 40) + 1)
    if len(content) != math.prod(shape):
        follow = "more" if len(content) > math.prod(shape) else f"{len(content):,}"
        raise InputError(
            f"{path}: its header announces {math.prod(shape):,} bytes ({' x '.join(map(str, shape))}), but {follow}"
            " follow; fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _is_images(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and not path.is_dir()


def _stem(path: Path) -> str:
    match = _NAME.fullmatch(path.name)
    return match.group(1) if match else ""


def _numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number:06d}" for number in range(count)]
