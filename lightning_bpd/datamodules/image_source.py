"""The images of a folder, archive, array or idx file: their parts, and their classes (floor 3)."""

from __future__ import annotations

import logging
from functools import cached_property, partial
from pathlib import Path

from lightning_bpd.datamodules.caches import default_cache
from lightning_bpd.datamodules.encoded_images import EncodedImages, encode_images
from lightning_bpd.datamodules.held_out import Part
from lightning_bpd.datamodules.idx_files import idx_labels, is_idx
from lightning_bpd.datamodules.image_arrays import is_array_file
from lightning_bpd.datamodules.image_files import content_hashes, is_parted, list_images, split_names
from lightning_bpd.interfaces import InputError

_log = logging.getLogger(__name__)


class ImageSource:
    """Images that are listed at the first use, and read once into a cache.

    Args:
        path: What ``image_files.list_images`` reads.
        validation_share: The share of the images for validation, if no folder holds them.
        test_share: The share of the images for test, if no folder holds a part.
        cache: Folder for the images that were read. By default ``.encoded`` in the folder or beside the file, or
            ``data/.encoded`` if that folder cannot be written.

    Raises:
        InputError: A share is out of range.
    """

    def __init__(self, path: str, validation_share: float, test_share: float, cache: str | None) -> None:
        split_names([], validation_share, test_share)
        self.path = Path(path)
        self._shares = validation_share, test_share
        self._cache = cache

    @property
    def cache(self) -> Path:
        """The folder of the cache."""
        if self._cache is not None:
            return Path(self._cache)
        return default_cache(self.path if self.path.is_dir() else self.path.parent)

    @cached_property
    def parts(self) -> dict[Part, list[str]]:
        """The names of the images of each part. Raises InputError if ``path`` cannot be read."""
        names = list_images(self.path)
        parts = split_names(names, *self._shares, partial(content_hashes, self.path))
        others = len(names) - sum(map(len, parts.values()))
        if others:
            _log.warning("%s: %d images are in none of train, val and test", self.path, others)
        return parts

    def read(self, part: Part, shape: tuple[int, int, int]) -> EncodedImages:
        """The images of a part. Raises InputError if there is none."""
        if not self.parts[part]:
            held = ", ".join(f"{len(names)} {each}" for each, names in self.parts.items())
            remedy = {
                "train": "add a folder called train",
                "validation": "add a folder called val, or raise validation_share",
                "test": "add a folder called test or, where no folder is called train, val or test, raise test_share",
            }
            raise InputError(f"{self.path}: it holds no {part} images ({held}); {remedy[part]}.")
        return encode_images(self.path, self.parts[part], shape, self.cache, part)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The name of each class of the training images, by its label: folders in order, or the numbers of idx files.

        Raises InputError as ``label_of`` does.
        """
        names = {self._class_of[name] for name in self.parts["train"]}
        if is_idx(self.path):
            return tuple(map(str, range(max(map(int, names), default=-1) + 1)))
        return tuple(sorted(names))

    def label_of(self, name: str) -> int:
        """The label of an image.

        Raises InputError if it lies in no class folder, or its class has no training image, or the files have no
        classes.
        """
        own = self._class_of[name]
        if own not in self._labels:
            raise InputError(
                f"{self.path}: {name} is of the class {own!r}, which has no training image; add some to train, or"
                " remove the class"
            )
        return self._labels[own]

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.classes)}

    @cached_property
    def _class_of(self) -> dict[str, str]:
        """The name of the class of each image."""
        if is_idx(self.path):
            return {name: str(label) for name, label in idx_labels(self.path).items()}
        if is_array_file(self.path):
            raise InputError(
                f"{self.path}: an array file has no classes; give a folder or archive with one folder for each class,"
                " or idx files"
            )
        names = [name for part in self.parts.values() for name in part]
        parted = is_parted(names)
        own = {name: name.partition("/")[2] if parted else name for name in names}
        for name, inner in own.items():
            if "/" not in inner:
                raise InputError(
                    f"{self.path}: {name} lies in no class folder; put the images of each class into a folder with the"
                    " name of the class, such as train/cat/1.png, for at least two classes"
                )
        return {name: inner.partition("/")[0] for name, inner in own.items()}
