"""How close images are to their references, exact on any number of processes.

Shapes: N images, H height, W width, C channels. All images are uint8, intensities 0..255.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_bpd.interfaces import InputError
from lightning_bpd.metrics.token_loss import PARTS, TokenLoss

WHITE = 255
SMALLEST_SSIM_SIDE = 6
"""pixels: the window of SSIM reaches 5 pixels past the border, where the image is mirrored"""

ImageBatch = Tensor | NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
"""uint8 [N, H, W, C], or N images [H, W, C]"""


def squared_error(outputs: ImageBatch, references: ImageBatch) -> int:
    """The sum of the squared differences of all intensities."""
    difference = _tensor(outputs).long() - _tensor(references, like=outputs).long()
    return int(difference.square().sum())


def psnr(error: int, dimensions: int) -> float:
    """Peak signal-to-noise ratio of all images taken together, in decibels.

    Args:
        error: Sum of squared differences.
        dimensions: Number of intensities, pixels times channels of all images.

    Returns:
        Infinity where there is no difference, NaN where there is no image.
    """
    if dimensions == 0:
        return math.nan
    return 10 * math.log10(WHITE**2 * dimensions / error) if error else math.inf


def ssim(outputs: ImageBatch, references: ImageBatch) -> list[float]:
    """Structural similarity of each image, at most 1: an 11 x 11 Gaussian window of sigma 1.5, mirrored borders.

    In float64 and image by image, so that no digit depends on the batch. Raises InputError for images of fewer
    than 6 pixels a side.
    """
    ours, theirs = _tensor(outputs), _tensor(references, like=outputs)
    if len(ours) and min(ours.shape[1:3]) < SMALLEST_SSIM_SIDE:
        raise InputError(
            f"images of {ours.size(1)} x {ours.size(2)} pixels are too small for SSIM, which takes"
            f" {SMALLEST_SSIM_SIDE} a side; use PSNR alone"
        )
    # On the CPU, since some accelerators have no float64.
    pairs = [images.permute(0, 3, 1, 2).cpu().double().split(1) for images in (ours, theirs)]
    values = []
    for one, other in zip(*pairs, strict=True):
        # The map, not the mean that comes with it: torchmetrics before 1.6 left the borders out of that.
        _, similarities = structural_similarity_index_measure(
            one, other, data_range=float(WHITE), reduction="none", return_full_image=True
        )
        values.append(float(similarities.mean()))
    return values


def bits_per_dimension(cross_entropy: float, dimensions: int) -> float:
    """Bits that an intensity takes: summed cross-entropy in nats over ln 2 and the number of intensities."""
    return cross_entropy / math.log(2) / dimensions if dimensions else math.nan


def image_quality_signature() -> str:
    """How PSNR and SSIM are computed, in a line that goes with the numbers."""
    window = "window:gauss11|sigma:1.5|border:mirrored|k1:0.01|k2:0.03"
    return (
        f"PSNR|mse:corpus|range:255 SSIM|mean:image|{window}|range:255|torchmetrics:{version('torchmetrics')}"
    )


class PeakSignalToNoise(Metric):
    """PSNR over all images of all ranks, of the mean squared error over all their intensities."""

    full_state_update = False
    higher_is_better = True
    error: Tensor
    dimensions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("error", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("dimensions", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, outputs: ImageBatch, references: ImageBatch) -> None:
        """Add images."""
        # Never in place: spawned ranks start with states that share their memory.
        self.error = self.error + squared_error(outputs, references)
        self.dimensions = self.dimensions + _tensor(outputs).numel()

    def compute(self) -> Tensor:
        """Decibels, float64 scalar; infinity without any difference, NaN without any image."""
        return torch.tensor(psnr(int(self.error), int(self.dimensions)), dtype=torch.float64)


class StructuralSimilarity(Metric):
    """The mean SSIM of all images of all ranks."""

    full_state_update = False
    higher_is_better = True
    parts: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("parts", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, outputs: ImageBatch, references: ImageBatch) -> None:
        """Add images."""
        values = ssim(outputs, references)
        self.parts = self.parts + sum(round(value * PARTS) for value in values)
        self.images = self.images + len(values)

    def compute(self) -> Tensor:
        """float64 scalar, at most 1; NaN without any image."""
        images = int(self.images)
        return torch.tensor(int(self.parts) / PARTS / images if images else math.nan, dtype=torch.float64)


class BitsPerDimension(TokenLoss):
    """The cross-entropy of all intensities in bits an intensity; updated with nats and number, as ``TokenLoss`` is."""

    def compute(self) -> Tensor:
        """float64 scalar; NaN when a batch's loss was not finite or there was none."""
        return torch.tensor(bits_per_dimension(float(super().compute()), 1), dtype=torch.float64)


def _tensor(images: ImageBatch, like: ImageBatch | None = None) -> Tensor:
    """One tensor, uint8 [N, H, W, C], on the device and of the shape of ``like``."""
    if not isinstance(images, Tensor):
        array = images if isinstance(images, np.ndarray) else np.stack(images) if len(images) else None
        if array is None:
            return torch.zeros(0, 1, 1, 1, dtype=torch.uint8)
        # A copy only where torch would otherwise warn that it cannot write to it.
        images = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise InputError(
            f"images of type {images.dtype} and shape {tuple(images.shape)}: they must be uint8 of shape N x height x"
            " width x channels"
        )
    if like is not None:
        other = _tensor(like)
        if other.shape != images.shape:
            raise InputError(
                f"outputs of shape {tuple(other.shape)} beside references of shape {tuple(images.shape)}: they must be"
                " the same"
            )
        images = images.to(other.device)
    return images
