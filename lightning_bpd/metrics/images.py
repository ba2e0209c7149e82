"""The similarity of images to their references, exact on any number of processes.

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
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_bpd.interfaces import InputError
from lightning_bpd.metrics.sums import Sums, ratio, scalar
from lightning_bpd.metrics.token_loss import PARTS, TokenLoss

WHITE = 255
SMALLEST_SSIM_SIDE = 6
"""pixels: the window of SSIM reaches 5 pixels past the border, where the image is mirrored"""

ImageBatch = Tensor | NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
"""uint8 [N, H, W, C], or N images [H, W, C]"""


def squared_error(outputs: ImageBatch, references: ImageBatch) -> int:
    """Sum the squared differences of all intensities."""
    difference = _tensor(outputs).long() - _tensor(references, like=outputs).long()
    return int(difference.square().sum())


def psnr(error: int, dimensions: int) -> float:
    """Compute the peak signal-to-noise ratio of all images together, in decibels.

    Args:
        error: Sum of squared differences.
        dimensions: Number of intensities, pixels times channels of all images.

    Returns:
        Infinity without a difference, NaN without an image.
    """
    if dimensions == 0:
        return math.nan
    return 10 * math.log10(WHITE**2 * dimensions / error) if error else math.inf


def ssim(outputs: ImageBatch, references: ImageBatch) -> list[float]:
    """Compute the structural similarity of each image, at most 1.

    The window is an 11 x 11 Gaussian of sigma 1.5, and borders are mirrored. The computation is in float64, image by
    image, so that no digit depends on the batch. Raises InputError for images of fewer than 6 pixels a side.
    """
    ours, theirs = _tensor(outputs), _tensor(references, like=outputs)
    if len(ours) and min(ours.shape[1:3]) < SMALLEST_SSIM_SIDE:
        raise InputError(
            f"images of {ours.size(1)} x {ours.size(2)} pixels are too small for SSIM, which needs"
            f" {SMALLEST_SSIM_SIDE} a side; use PSNR only"
        )
    # On the CPU, since some accelerators have no float64.
    pairs = [images.permute(0, 3, 1, 2).cpu().double().split(1) for images in (ours, theirs)]
    values = []
    for one, other in zip(*pairs, strict=True):
        # Average the map: the mean of torchmetrics before 1.6 left the borders out.
        _, similarities = structural_similarity_index_measure(
            one, other, data_range=float(WHITE), reduction="none", return_full_image=True
        )
        values.append(float(similarities.mean()))
    return values


def bits_per_dimension(cross_entropy: float, dimensions: int) -> float:
    """Compute bits per intensity: summed cross-entropy in nats over ln 2 and the number of intensities."""
    return cross_entropy / math.log(2) / dimensions if dimensions else math.nan


def image_quality_signature() -> str:
    """Describe in one line how PSNR and SSIM are computed."""
    window = "window:gauss11|sigma:1.5|border:mirrored|k1:0.01|k2:0.03"
    return (
        f"PSNR|mse:corpus|range:255 SSIM|mean:image|{window}|range:255|torchmetrics:{version('torchmetrics')}"
    )


class PeakSignalToNoise(Sums):
    """PSNR of all images of all ranks, from the mean squared error over all their intensities."""

    higher_is_better = True

    def update(self, outputs: ImageBatch, references: ImageBatch) -> None:
        """Add images."""
        self.add(squared_error(outputs, references), _tensor(outputs).numel())

    def compute(self) -> Tensor:
        """Return decibels, float64 scalar; infinity without a difference, NaN without an image."""
        return scalar(psnr(*self.sums.tolist()))


class StructuralSimilarity(Sums):
    """The mean SSIM of all images of all ranks."""

    higher_is_better = True

    def update(self, outputs: ImageBatch, references: ImageBatch) -> None:
        """Add images."""
        values = ssim(outputs, references)
        self.add(sum(round(value * PARTS) for value in values), len(values))

    def compute(self) -> Tensor:
        """Return a float64 scalar, at most 1; NaN without an image."""
        parts, images = self.sums.tolist()
        return scalar(ratio(parts / PARTS, images))


class BitsPerDimension(TokenLoss):
    """Cross-entropy in bits per token, such as an intensity, updated with a sum in nats as ``TokenLoss`` is."""

    def compute(self) -> Tensor:
        """Return a float64 scalar; NaN if a batch's loss was not finite, or without a batch."""
        return scalar(bits_per_dimension(float(super().compute()), 1))


def _tensor(images: ImageBatch, like: ImageBatch | None = None) -> Tensor:
    """Make one tensor, uint8 [N, H, W, C], on the device of ``like``, and check that it has the shape of ``like``."""
    if not isinstance(images, Tensor):
        array = images if isinstance(images, np.ndarray) else np.stack(images) if len(images) else None
        if array is None:
            return torch.zeros(0, 1, 1, 1, dtype=torch.uint8)
        # Copies arrays that are not writeable or not contiguous, because torch would warn.
        images = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise InputError(
            f"images have type {images.dtype} and shape {tuple(images.shape)}: they must be uint8 of shape N x height x"
            " width x channels"
        )
    if like is not None:
        other = _tensor(like)
        if other.shape != images.shape:
            raise InputError(
                f"outputs have shape {tuple(other.shape)} but references have shape {tuple(images.shape)}: give one"
                " reference of equal size for each output"
            )
        images = images.to(other.device)
    return images
