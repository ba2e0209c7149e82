"""Images for training, validation and test: reads large images, gives batches of tokens of small and large images."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from lightning_bpd.codecs.images import ImageCodec, Tokens, dequantise, quantise
from lightning_bpd.codecs.images import Images as ImageArray
from lightning_bpd.datamodules.digits import read_digits
from lightning_bpd.datamodules.held_out import Part
from lightning_bpd.datamodules.image_source import ImageSource
from lightning_bpd.datamodules.loading import PartsOfImages
from lightning_bpd.interfaces import ParallelBatch, TokenRows

_COUNTED_IMAGES = 1024


class SuperResolution(PartsOfImages[ImageArray, ParallelBatch], ABC):
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
        super().__init__(batch_size, validation_batch_size, workers, seed)
        self.codec = codec
        self.max_length = codec.target_length
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

    def _collate(self, rows: ImageArray) -> Callable[[Sequence[int]], ParallelBatch]:
        return partial(_collate, rows, self.codec)


class Images(SuperResolution):
    """Images from a folder, an archive or an array file, in batches of a fixed number.

    Folders, or folders in the archive, called ``train``, ``val`` (or ``validation``) and ``test`` hold the parts;
    other folders, such as one for each class, are ignored. Without these folders the parts are shares of all images,
    chosen by name. Images are cropped to the centre and reduced to the given size. Smaller and damaged images are left
    out and counted. Images are read once and then cached by content. An interrupted training continues with the batch
    after its checkpoint.

    Args:
        path: A folder of images, a .tar, .tar.gz, .tgz or .zip of them, a .npy or .npz file of uint8 [N, H, W] or
            [N, H, W, C], or an idx file or a folder of idx files, such as MNIST's.
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
        self.source = ImageSource(path, validation_share, test_share, cache)
        self.path = self.source.path

    def _exists(self, part: Part) -> bool:
        return bool(self.source.parts[part])

    def _load(self, part: Part) -> ImageArray:
        return self.source.read(part, self.codec.shape).images


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
        levels, _ = read_digits(part)
        return dequantise(levels, self.codec.levels)


def _collate(images: ImageArray, codec: ImageCodec, rows: Sequence[int]) -> ParallelBatch:
    """A batch of tokens of the images with the given indices."""
    index = np.asarray(rows, dtype=np.int64)
    chosen = np.asarray(images)[index]
    source, target = codec.source_tokens(chosen), codec.target_tokens(chosen)
    return ParallelBatch(_rows(source), _rows(target), torch.from_numpy(index))


def _rows(tokens: Tokens) -> TokenRows:
    """Rows of equal length."""
    return TokenRows(torch.from_numpy(tokens), torch.full((len(tokens),), tokens.shape[1], dtype=torch.int64))
