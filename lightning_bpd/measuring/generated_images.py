"""Measures generated images beside the real ones: trains the classifier once, then judges any images (floor 4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lightning_bpd.codecs.images import Images
from lightning_bpd.faults import damaged
from lightning_bpd.files import whole_folder
from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring.image_grids import pairs_grid
from lightning_bpd.metrics.generated_images import (
    Gaussian,
    class_accuracy,
    frechet_distance,
    gaussian,
    nearest_images,
)
from lightning_bpd.models.image_classifier import ImageClassifier, Judgement
from lightning_bpd.progress import progress_bar

logger = logging.getLogger(__name__)

# Part of the folder's name: raise it when the classifier or its training changes, so that older ones are not found.
_FORMAT = 1
_STEPS, _BATCH, _RATE = 1000, 64, 0.003
_TOGETHER = 256


class ImageMeasures(NamedTuple):
    """How good generated images are."""

    class_accuracy: float
    """the share that the classifier gives the label that was asked for, 0 to 1"""
    frechet_distance: float
    """from the real validation images, in the classifier's features; not comparable to a published FID"""
    images: int
    """the number of images, on which the distance depends"""


@dataclass(frozen=True)
class ImageJudge:
    """A classifier of the real images, and their features.

    ``ImageJudge.of(data)`` trains it, or finds it in the data's cache.
    """

    classifier: ImageClassifier
    real: Gaussian
    """of the validation images"""
    accuracy: float
    """of the classifier on the real validation images: what perfect images would reach"""

    @classmethod
    def of(cls, data: Any, seed: int = 1, device: str | torch.device = "cpu") -> ImageJudge:
        """The judge of a data module's images, trained on its training images.

        Args:
            data: A LabelledImageData; its images and labels are used, whatever its tokens are.
            seed: Decides the classifier's weights and the order of its training.
            device: Where the classifier is trained and judges.

        Raises:
            InputError: The cache cannot be written or is damaged, or there are too few validation images.
        """
        train, validation = data.part("train"), data.part("validation")
        classes = len(data.codec.classes)
        folder = (
            Path(data.cache) / f"classifier-{_FORMAT}-{train.key.removeprefix('images-')}-{classes}-{seed}"
        )
        if not folder.is_dir():
            trained = train_classifier(train.images, train.labels, classes, seed, device)
            try:
                with whole_folder(folder, replace=False) as made:
                    save_file(trained.state_dict(), made / "classifier.safetensors")
            except OSError as error:
                raise InputError(
                    f"{folder.parent}: the cache folder cannot be written ({error.strerror}); choose another with cache"
                ) from error
        with damaged(f"the cache {folder}", "delete this folder to have it made again"):
            classifier = ImageClassifier(train.images.shape[3], classes)
            classifier.load_state_dict(load_file(folder / "classifier.safetensors"))
        judgement = judge(classifier.to(device), validation.images)
        accuracy = class_accuracy(judgement.logits, torch.from_numpy(validation.labels))
        logger.info(
            "The classifier of real images is right in %.1f %% of the validation images", 100 * accuracy
        )
        return cls(classifier.eval(), gaussian(judgement.features), accuracy)

    def measure(self, images: Images, labels: Sequence[int]) -> ImageMeasures:
        """Measure generated images, uint8 [N, H, W, C], that were asked to be of the classes ``labels``.

        Raises InputError for fewer than two images.
        """
        judgement = judge(self.classifier, images)
        accuracy = class_accuracy(judgement.logits, torch.tensor(list(labels)))
        distance = frechet_distance(gaussian(judgement.features), self.real)
        return ImageMeasures(accuracy, distance, len(images))


def train_classifier(
    images: Images,
    labels: NDArray[np.int64],
    classes: int,
    seed: int,
    device: str | torch.device = "cpu",
    steps: int = _STEPS,
) -> ImageClassifier:
    """Train a classifier for a fixed number of steps; 1,000 by default.

    Args:
        images: uint8 [N, H, W, C].
        labels: [N].
        classes: The number of classes.
        seed: Decides the weights, the order of the images and their shifts.
        device: Where to train.
        steps: Optimiser steps, each of 64 images.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = ImageClassifier(images.shape[3], classes).to(device)
    random = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(classifier.parameters(), _RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, steps)
    with progress_bar("Training the classifier that judges images", "steps", steps) as report:
        for _ in range(steps):
            rows = np.sort(random.integers(0, len(images), min(_BATCH, len(images))))
            batch = _shifted(np.asarray(images[rows]), *random.integers(-1, 2, 2))
            logits = classifier(torch.from_numpy(batch).to(device)).logits
            loss = F.cross_entropy(logits, torch.from_numpy(labels[rows]).to(device), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            report(1)
    return classifier.eval()


@torch.no_grad()
def judge(classifier: ImageClassifier, images: Images) -> Judgement:
    """What a classifier says of images, uint8 [N, H, W, C], on the CPU. Raises InputError without an image."""
    classifier.eval()
    device = next(classifier.parameters()).device
    parts = [
        classifier(torch.from_numpy(np.array(images[first : first + _TOGETHER])).to(device))
        for first in range(0, len(images), _TOGETHER)
    ]
    if not parts:
        raise InputError("there is no image to judge")
    logits, features = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
    return Judgement(logits, features)


def nearest_training_images(
    images: Images, real: Images
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float64]]:
    """A picture of each image above the training image that is nearest to it.

    Args:
        images: Generated images, uint8 [N, H, W, C].
        real: Training images, uint8 [M, H, W, C].

    Returns:
        The picture, uint8 [height, width, C]; the index of each nearest image, [N]; and its distance, [N]: the root of
        the mean squared difference of intensities. 0 is a copy.
    """
    index, distance = nearest_images(_tensor(images), _tensor(real))
    nearest = [np.asarray(real[number]) for number in index.tolist()]
    return pairs_grid(list(images), nearest), index.numpy(), distance.numpy()


def _tensor(images: Images) -> Tensor:
    return torch.from_numpy(np.array(images))


def _shifted(images: Images, down: int, right: int) -> Images:
    """Move images by some pixels; the border is repeated."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    return np.ascontiguousarray(padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width])
