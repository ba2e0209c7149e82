"""Images for training, validation and test: reads large images, gives batches of tokens of small and large images."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lightning_bpd.codecs.images import ImageCodec, Tokens, dequantise, quantise
from lightning_bpd.codecs.images import Images as ImageArray
from lightning_bpd.datamodules.caches import default_cache
from lightning_bpd.datamodules.encoded_images import encode_images
from lightning_bpd.datamodules.held_out import Part
from lightning_bpd.datamodules.image_files import content_hashes, list_images, split_names
from lightning_bpd.datamodules.loading import PartsOfData
from lightning_bpd.datamodules.token_batches import TokenBatchSampler
from lightning_bpd.interfaces import InputError, ParallelBatch, TokenRows

_log = logging.getLogger(__name__)

_COUNTED_IMAGES = 1024
_DIGITS_PARTS: dict[Part, slice] = {
    "train": slice(0, 1400),
    "validation": slice(1400, 1597),
    "test": slice(1597, 1797),
}


class SuperResolution(PartsOfData[ImageArray], ABC):
    """Large images and small images made from them, as batches of tokens: the base class of ``Images`` and ``Digits``.

    Args:
        codec: The codec of the tokens.
        batch_size: Images in a training batch.
        validation_batch_size: Images in a batch of validation, test and prediction; ``batch_size`` if not given.
        workers: Processes that prepare batches.
        seed: Decides the order of the training images.
    """

    codec: ImageCodec
    mix = "gold"
    distilled_by: str | None = None
    self_distillation = False
    train_images: ImageArray
    validation_images: ImageArray
    test_images: ImageArray

    def __init__(
        self, codec: ImageCodec, batch_size: int, validation_batch_size: int | None, workers: int, seed: int
    ) -> None:
        super().__init__("images", batch_size, validation_batch_size, workers, seed)
        self.codec = codec
        self.max_length = codec.target_length
        self.batch_size, self.validation_batch_size = self._batch_sizes
        for name in ("batch_size", "validation_batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if seed < 0:
            raise InputError(f"seed is {seed}; it must be 0 or more.")
        self._sources: dict[Part, ImageArray] = {}

    def references(self, stage: Part) -> ImageArray:
        """The large images, uint8 [N, H, W, C]; ``ParallelBatch.index`` holds their indices."""
        return self._part(stage)

    def sources(self, stage: Part) -> ImageArray:
        """The small images, uint8 [N, h, w, C], in the order of ``references``."""
        if stage not in self._sources:
            self._sources[stage] = self.codec.small(self._part(stage))
        return self._sources[stage]

    def target_counts(self) -> torch.Tensor:
        """The number of occurrences of each level in the large training images, int64 [levels]."""
        counts = np.zeros(self.codec.levels, dtype=np.int64)
        for first in range(0, len(self.train_images), _COUNTED_IMAGES):
            some = quantise(self.train_images[first : first + _COUNTED_IMAGES], self.codec.levels)
            counts += np.bincount(some.reshape(-1), minlength=len(counts))
        return torch.from_numpy(counts)

    def _lengths(self, rows: ImageArray) -> tuple[np.ndarray, np.ndarray]:
        # All rows are equally long, so each image counts as one token.
        ones = np.ones(len(rows), dtype=np.int64)
        return ones, ones

    def _collate(self, rows: ImageArray) -> Callable[[Sequence[int]], ParallelBatch]:
        return partial(_collate, rows, self.codec)

    def _sampler(self, rows: ImageArray, batch_size: int, shuffle: bool) -> TokenBatchSampler:
        _, world_size = self._rank()
        batches = -(-len(rows) // batch_size) if shuffle else 1
        if len(rows) < -(-batches // world_size) * world_size:
            raise InputError(
                f"{len(rows)} images make {batches} batches of at most {batch_size}, which {world_size} processes"
                " cannot share; raise batch_size or use fewer processes."
            )
        return super()._sampler(rows, batch_size, shuffle)


class Images(SuperResolution):
    """Images from a folder, an archive or an array file, in batches of a fixed number.

    Folders, or folders in the archive, called ``train``, ``val`` (or ``validation``) and ``test`` hold the parts;
    other folders, such as one for each class, are ignored. Without these folders the parts are shares of all images,
    chosen by name. Images are cropped to the centre and reduced to the given size. Smaller and damaged images are left
    out and counted. Images are read once and then cached by content. An interrupted training continues with the batch
    after its checkpoint.

    Args:
        path: A folder of images, a .tar, .tar.gz, .tgz or .zip of them, or a .npy or .npz file of uint8
            [N, H, W] or [N, H, W, C].
        height: Height of the large images, in pixels.
        width: Width of the large images, in pixels.
        channels: 1 for grey, 3 for red, green and blue.
        levels: Number of different intensities, 2 to 256.
        factor: Height and width of a large image divided by those of the small image that the model sees.
        validation_share: The share of the images for validation, if no folder holds them.
        test_share: The share of the images for test, if no folder holds a part.
        batch_size: Images in a training batch.
        validation_batch_size: Images in a batch of validation, test and prediction; ``batch_size`` if not given.
        cache: Folder for the images that were read. By default ``.encoded`` in the folder or beside the file, or
            ``data/.encoded`` if that folder cannot be written.
        workers: Processes that prepare batches; 0 prepares them in the training process, which is seldom slower.
        seed: Decides the order of the training images.
    """

    def __init__(
        self,
        path: str,
        height: int = 32,
        width: int = 32,
        channels: int = 3,
        levels: int = 256,
        factor: int = 4,
        validation_share: float = 0.05,
        test_share: float = 0.05,
        batch_size: int = 16,
        validation_batch_size: int | None = None,
        cache: str | None = None,
        workers: int = 0,
        seed: int = 1,
    ) -> None:
        codec = ImageCodec(height, width, channels, levels, factor)
        super().__init__(codec, batch_size, validation_batch_size, workers, seed)
        split_names([], validation_share, test_share)
        self.path = Path(path)
        self.validation_share, self.test_share = validation_share, test_share
        self._cache = Path(cache) if cache is not None else None
        self._names: dict[Part, list[str]] | None = None

    def _parts(self) -> dict[Part, list[str]]:
        """The names of the images of each part."""
        if self._names is None:
            names = list_images(self.path)
            contents = partial(content_hashes, self.path)
            self._names = split_names(names, self.validation_share, self.test_share, contents)
            others = len(names) - sum(map(len, self._names.values()))
            if others:
                _log.warning("%s: %d images are in none of train, val and test", self.path, others)
        return self._names

    def _exists(self, part: Part) -> bool:
        return bool(self._parts()[part])

    def _load(self, part: Part) -> ImageArray:
        if not self._exists(part):
            held = ", ".join(f"{len(names)} {each}" for each, names in self._parts().items())
            remedy = {
                "train": "add a folder called train",
                "validation": "add a folder called val, or raise validation_share",
                "test": "add a folder called test or, where no folder is called train, val or test, raise test_share",
            }
            raise InputError(f"{self.path}: it holds no {part} images ({held}); {remedy[part]}.")
        names = self._parts()[part]
        cache = self._cache or default_cache(self.path if self.path.is_dir() else self.path.parent)
        return encode_images(self.path, names, self.codec.shape, cache, part)


class Digits(SuperResolution):
    """Handwritten digits of scikit-learn: 8 x 8 pixels of 17 intensities, from 4 x 4 pixels. No download.

    A fixed split has 1,400 images for training, 197 for validation and 200 for test.

    Args:
        batch_size: Images in a training batch.
        validation_batch_size: Images in a batch of validation, test and prediction; ``batch_size`` if not given.
        workers: Processes that prepare batches; 0 prepares them in the training process.
        seed: Decides the order of the training images.
    """

    def __init__(
        self,
        batch_size: int = 32,
        validation_batch_size: int | None = None,
        workers: int = 0,
        seed: int = 1,
    ) -> None:
        codec = ImageCodec(height=8, width=8, channels=1, levels=17, factor=2)
        super().__init__(codec, batch_size, validation_batch_size, workers, seed)

    def _exists(self, part: Part) -> bool:
        return True

    def _load(self, part: Part) -> ImageArray:
        # Imported here, because the import takes a second and only this method needs it.
        from sklearn.datasets import load_digits

        levels = load_digits().images.astype(np.int64)
        # Shuffled by hash: the images are sorted by writer, so parts cut in order would have different writers.
        order = sorted(range(len(levels)), key=lambda number: hashlib.sha256(str(number).encode()).digest())
        return dequantise(levels[order[_DIGITS_PARTS[part]]], self.codec.levels)[..., None]


def _collate(images: ImageArray, codec: ImageCodec, rows: Sequence[int]) -> ParallelBatch:
    """A batch of tokens of the images with the given indices."""
    index = np.asarray(rows, dtype=np.int64)
    chosen = np.asarray(images)[index]
    source, target = codec.source_tokens(chosen), codec.target_tokens(chosen)
    return ParallelBatch(_rows(source), _rows(target), torch.from_numpy(index))


def _rows(tokens: Tokens) -> TokenRows:
    """Rows of equal length."""
    return TokenRows(torch.from_numpy(tokens), torch.full((len(tokens),), tokens.shape[1], dtype=torch.int64))
