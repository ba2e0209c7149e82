"""Images with classes, as batches of labels and tokens (floor 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_bpd.codecs.image_codes import ImageCodes
from lightning_bpd.codecs.image_tokenizers import read_tokenizer
from lightning_bpd.codecs.images import Images, dequantise
from lightning_bpd.codecs.labelled_images import ImageLevels, LabelledImageCodec
from lightning_bpd.datamodules import digits
from lightning_bpd.datamodules.encoded_tokens import Variants, encode_tokens, encode_views
from lightning_bpd.datamodules.held_out import Part
from lightning_bpd.datamodules.image_source import ImageSource
from lightning_bpd.datamodules.loading import PartsOfImages
from lightning_bpd.interfaces import InputError, LabelledTokens


@dataclass(frozen=True)
class LabelledRows:
    """The images of a part of the data, with their labels and tokens."""

    images: Images
    """uint8 [N, H, W, C]"""
    labels: NDArray[np.int64]
    """[N]"""
    tokens: NDArray[np.integer]
    """[V * N, L]: row v * N + n is variant v of image n; a held-out part has one variant"""
    key: str
    """a hash of the content of ``images``"""

    def __len__(self) -> int:
        return len(self.tokens)


class LabelledImageData(PartsOfImages[LabelledRows, LabelledTokens], ABC):
    """The base class of ``LabelledImages`` and ``LabelledDigits``.

    ``codec`` says what the tokens mean: ``codec.grid``, ``codec.vocabulary`` and ``codec.classes``. It is known at
    once, before ``setup``. Every batch is a ``LabelledTokens``.
    """

    mix = "gold"
    distilled_by: str | None = None
    self_distillation = False
    train_images: LabelledRows
    validation_images: LabelledRows
    test_images: LabelledRows

    @property
    @abstractmethod
    def codec(self) -> LabelledImageCodec:
        """The meaning of the tokens. Raises InputError if the classes cannot be found."""

    @property
    @abstractmethod
    def cache(self) -> Path:
        """The folder for what is computed once from the data."""

    @property
    def max_length(self) -> int:
        """The tokens of an image."""
        return self.codec.length

    def part(self, part: Part) -> LabelledRows:
        """Images, labels and tokens of a part. Raises InputError if there is no such part."""
        return self._part(part)

    def references(self, stage: Part) -> Images:
        """The images, uint8 [N, H, W, C]; ``LabelledTokens.index`` holds their indices."""
        return self._part(stage).images

    def sources(self, stage: Part) -> NDArray[np.int64]:
        """The labels, int64 [N], in the order of ``references``."""
        return self._part(stage).labels

    def target_counts(self) -> torch.Tensor:
        """The number of occurrences of each token in the training images, int64 [vocabulary]."""
        tokens, counts = self.train_images.tokens, np.zeros(self.codec.vocabulary, dtype=np.int64)
        for first in range(0, len(tokens), 4096):
            counts += np.bincount(tokens[first : first + 4096].reshape(-1), minlength=len(counts))
        return torch.from_numpy(counts)

    def _collate(self, rows: LabelledRows) -> Callable[[Sequence[int]], LabelledTokens]:
        return partial(collate, rows.labels, rows.tokens)


class LabelledImages(LabelledImageData):
    """Images of classes from folders, an archive or idx files, in batches of a fixed number.

    Each class has a folder with its images. Folders around the class folders called ``train``, ``val`` (or
    ``validation``) and ``test`` hold the parts; without them the parts are shares of all images, chosen by name. Idx
    files, such as MNIST's, lie in one folder, their labels beside them. Images are cropped to the centre and reduced
    to the given size; smaller and damaged images are left out and counted. Images and tokens are computed once and
    then cached by content. An interrupted training continues with the batch after its checkpoint.

    Args:
        path: A folder of class folders, a .tar, .tar.gz, .tgz or .zip of them, or a folder of idx files.
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.
        channels: 1 for grey, 3 for red, green and blue.
        levels: Number of different intensities, 2 to 256; each is a token, unless there is a tokenizer.
        tokenizer: The tokenizer whose codes are the tokens: a folder that a training of a tokenizer ends with, or
            ``hf:`` and the folder or name of a JanusVQVAE, Emu3VQVAE or ChameleonVQVAE.
        device: Where the tokenizer encodes the images, such as cpu or cuda.
        variants: The training images: "none" takes each image once, "flips" also its mirror image, and "ten_crops"
            the centre and the four corners, and their mirror images. An epoch holds all variants.
        crop_margin: Pixels by which images are read larger than ``height`` and ``width``, for crops.
        validation_share: The share of the images for validation, if no folder holds them.
        test_share: The share of the images for test, if no folder holds a part.
        batch_size: Images in a training batch.
        validation_batch_size: Images in a batch of validation, test and prediction; ``batch_size`` if not given.
        cache: Folder for what is computed once. By default ``.encoded`` in the folder or beside the file, or
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
        tokenizer: str | None = None,
        device: str = "cpu",
        variants: Variants = "none",
        crop_margin: int = 0,
        validation_share: float = 0.05,
        test_share: float = 0.05,
        batch_size: int = 64,
        validation_batch_size: int | None = None,
        cache: str | None = None,
        workers: int = 0,
        seed: int = 1,
    ) -> None:
        super().__init__(batch_size, validation_batch_size, workers, seed)
        if crop_margin < 0:
            raise InputError(f"crop_margin is {crop_margin}; it must be 0 or more.")
        if variants == "ten_crops" and crop_margin == 0:
            raise InputError(
                'variants "ten_crops" needs images larger than the crops: set crop_margin to some pixels, and lower'
                " height and width by as many if the images are no larger"
            )
        # The sizes are checked at once; the classes are read when they are needed.
        ImageLevels(height, width, channels, levels, ("any",))
        self.source = ImageSource(path, validation_share, test_share, cache)
        self.variants: Variants = variants
        try:
            self._device = torch.device(device)
        except RuntimeError:
            raise InputError(f"device is {device!r}; give cpu, cuda or another device of PyTorch") from None
        self.tokenizer = tokenizer
        self._size = height, width, channels
        self._levels = levels
        self._margin = crop_margin

    @cached_property
    def codec(self) -> LabelledImageCodec:
        """The levels of intensities, or the codes of the tokenizer."""
        return _codec(self._size, self._levels, self.source.classes, self.tokenizer, self._device)

    @property
    def cache(self) -> Path:
        """The folder for what is computed once from the data."""
        return self.source.cache

    def _exists(self, part: Part) -> bool:
        return bool(self.source.parts[part])

    def _load(self, part: Part) -> LabelledRows:
        codec = self.codec
        shape = codec.height + self._margin, codec.width + self._margin, codec.channels
        images, names, key = self.source.read(part, shape)
        labels = np.fromiter(map(self.source.label_of, names), np.int64, len(names))
        variants = self.variants if part == "train" else "none"
        tokens = encode_tokens(images, codec, variants, key, self.cache, part)
        if self._margin:
            first = self._margin // 2
            images = images[:, first : first + codec.height, first : first + codec.width]
            key = f"{key}-{codec.height}x{codec.width}"
        return LabelledRows(images, labels, tokens, key)


class LabelledDigits(LabelledImageData):
    """Handwritten digits of scikit-learn: 8 x 8 pixels of 17 intensities, in ten classes. No download.

    A fixed split has 1,400 images for training, 197 for validation and 200 for test.

    Args:
        tokenizer: The tokenizer whose codes are the tokens, as of ``LabelledImages``.
        batch_size: Images in a training batch.
        validation_batch_size: Images in a batch of validation, test and prediction; ``batch_size`` if not given.
        cache: Folder for what is computed once.
        workers: Processes that prepare batches; 0 prepares them in the training process.
        seed: Decides the order of the training images.
    """

    def __init__(
        self,
        tokenizer: str | None = None,
        batch_size: int = 32,
        validation_batch_size: int | None = None,
        cache: str = "data/.encoded",
        workers: int = 0,
        seed: int = 1,
    ) -> None:
        super().__init__(batch_size, validation_batch_size, workers, seed)
        self.tokenizer = tokenizer
        self._cache = Path(cache)

    @cached_property
    def codec(self) -> LabelledImageCodec:
        """The levels of intensities, or the codes of the tokenizer."""
        return _codec((8, 8, 1), digits.LEVELS, tuple(map(str, range(10))), self.tokenizer)

    @property
    def cache(self) -> Path:
        """The folder for what is computed once from the data."""
        return self._cache

    def _exists(self, part: Part) -> bool:
        return True

    def _load(self, part: Part) -> LabelledRows:
        levels, labels = digits.read_digits(part)
        images = dequantise(levels, digits.LEVELS)
        tokens = np.concatenate(list(encode_views(images, self.codec, "none")))
        return LabelledRows(images, labels, tokens, f"digits-{part}")


def _codec(
    size: tuple[int, int, int],
    levels: int,
    classes: tuple[str, ...],
    tokenizer: str | None,
    device: torch.device = torch.device("cpu"),  # noqa: B008  # not changed
) -> LabelledImageCodec:
    if tokenizer is None:
        return ImageLevels(*size, levels, classes)
    found = read_tokenizer(tokenizer, size)
    found.to(device)
    return ImageCodes.of(found, classes)


def collate(labels: NDArray[np.int64], tokens: NDArray[np.integer], rows: Sequence[int]) -> LabelledTokens:
    """A batch of the given rows of ``tokens``, whose variants are stored one after the other."""
    index = np.asarray(rows, dtype=np.int64)
    chosen = np.asarray(tokens)[index].astype(np.int64)
    index %= len(labels)
    return LabelledTokens(torch.from_numpy(labels[index]), torch.from_numpy(chosen), torch.from_numpy(index))
