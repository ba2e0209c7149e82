"""Images of one size, read once into a memory-mapped array that is keyed by their content (floor 3)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_bpd.codecs.images import Images
from lightning_bpd.datamodules.caches import MappedArray, cached, content_key
from lightning_bpd.datamodules.image_files import fingerprint, read_images, summary
from lightning_bpd.interfaces import InputError
from lightning_bpd.progress import progress_bar

_log = logging.getLogger(__name__)

# Part of the key: raise it when what is stored changes, so that older caches are no longer found.
_FORMAT = 1
_CHUNK_IMAGES = 4096


class EncodedImages(NamedTuple):
    """Images that were read, and what identifies them."""

    images: Images
    """uint8 [N, H, W, C], memory-mapped, read only"""
    names: list[str]
    """the name of each image, sorted"""
    key: str
    """the name of their folder in the cache: a hash of their content"""


def encode_images(
    path: Path, names: Sequence[str], shape: tuple[int, int, int], cache: Path, description: str
) -> EncodedImages:
    """Read the named images, or find them read in ``cache`` by an earlier call.

    They are stored in a folder named by a hash of the content of ``path``, the names and the shape. Calls may be
    interrupted or simultaneous. Memory stays bounded for any number of images.

    Args:
        path: A folder, archive or array file.
        names: The names of the images, as ``image_files.list_images`` gives them.
        shape: Height and width in pixels, and channels.
        cache: Folder for encoded images, made if it is missing.
        description: The name of the images in messages, such as "train".

    Returns:
        The images that can be used, in the order of their names.

    Raises:
        InputError: No image can be used, the cache cannot be written or is damaged, or ``path`` cannot be read.
    """
    listed = hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()
    folder = cache / f"images-{content_key(_FORMAT, 'images', fingerprint(path), listed, shape)}"

    def read(about: dict[str, Any]) -> EncodedImages:
        count, skipped = len(about["names"]), [(name, reason) for name, reason in about["skipped"]]
        if (folder / "images").stat().st_size != count * np.prod(shape):
            raise ValueError(f"it does not have the size of {count} images")
        _log.info("%s: %d images, %s", description, count, summary(skipped))
        images = MappedArray(folder / "images", np.uint8, "r", shape=(count, *shape))
        return EncodedImages(images, about["names"], folder.name)

    return cached(folder, lambda made: _encode(path, names, shape, made, description), read)


def _encode(
    path: Path, names: Sequence[str], shape: tuple[int, int, int], folder: Path, description: str
) -> dict[str, Any]:
    kept: list[str] = []
    skipped: list[tuple[str, str]] = []
    read_file, file = folder / "images.unsorted", folder / "images"
    with (
        progress_bar(f"Reading {description}", "images", len(names)) as report,
        read_file.open("wb") as handle,
    ):

        def skip(name: str, reason: str) -> None:
            skipped.append((name, reason))
            report(1)

        for name, image in read_images(path, names, *shape, skip):
            handle.write(image.tobytes())
            kept.append(name)
            report(1)
    if not kept:
        raise InputError(f"{path}: no {description} image can be used: {summary(skipped)}")
    order = sorted(range(len(kept)), key=kept.__getitem__)
    if order == list(range(len(kept))):
        read_file.rename(file)
    else:
        images = np.memmap(read_file, np.uint8, "r", shape=(len(kept), *shape))
        with file.open("wb") as handle:
            for first in range(0, len(order), _CHUNK_IMAGES):
                handle.write(images[order[first : first + _CHUNK_IMAGES]].tobytes())
        read_file.unlink()
    return {"names": [kept[index] for index in order], "skipped": sorted(skipped)}
