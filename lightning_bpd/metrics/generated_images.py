"""How good generated images are, in the features of a classifier: class accuracy, Fréchet distance, nearest images.

Shapes: N generated images, M real images, F features.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bpd.interfaces import InputError


class Gaussian(NamedTuple):
    """The mean and the covariance of features."""

    mean: Tensor
    """float64 [F]"""
    covariance: Tensor
    """float64 [F, F], unbiased"""


def gaussian(features: Tensor) -> Gaussian:
    """Mean and covariance of features, [N, F] of any float type.

    Raises InputError for fewer than two rows, which have no covariance.
    """
    if features.dim() != 2 or len(features) < 2:
        raise InputError(
            f"a covariance needs at least two rows of features, not {tuple(features.shape)}: give more images"
        )
    features = features.double().cpu()
    mean = features.mean(0)
    centred = features - mean
    return Gaussian(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """The squared Fréchet distance of two Gaussians: |m - m'|² + tr(C + C' - 2 (C C')^½) (Heusel et al. 2017).

    With the features of a classifier of ours it is not comparable to a published FID, which has the features of one
    certain Inception network. Compare only values of one classifier and one number of images: the distance of a finite
    sample from its own distribution is not 0, and falls with the number of images.

    Returns:
        At least 0.
    """
    # tr (C C')^½ is the sum of the roots of the eigenvalues of C^½ C' C^½, which is symmetric: no complex numbers.
    root = _root(one.covariance)
    eigenvalues = torch.linalg.eigvalsh(root @ other.covariance @ root)
    cross = float(eigenvalues.clamp(min=0).sqrt().sum())
    traces = float(one.covariance.trace() + other.covariance.trace())
    return max(0.0, float((one.mean - other.mean).square().sum()) + traces - 2 * cross)


def _root(matrix: Tensor) -> Tensor:
    """The symmetric root of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of images that the classifier gives their label: [N, classes] and int64 [N]; NaN without images."""
    return float((logits.argmax(-1) == labels).double().mean()) if len(labels) else math.nan


def nearest_images(images: Tensor, real: Tensor, together: int = 256) -> tuple[Tensor, Tensor]:
    """The real image that is nearest to each image, by the squared difference of intensities.

    Args:
        images: uint8 [N, H, W, C].
        real: uint8 [M, H, W, C], M at least 1.
        together: Real images that are compared at a time.

    Returns:
        The index of the nearest real image, int64 [N], and the root of the mean squared difference, float64 [N], in
        intensities from 0 to 255; 0 is a copy.

    Raises:
        InputError: The images are not of one size, or there is no real image.
    """
    if images.shape[1:] != real.shape[1:] or not len(real):
        raise InputError(
            f"images of shape {tuple(images.shape)} cannot be compared with real images of {tuple(real.shape)}: give at"
            " least one real image of their size"
        )
    # float64 holds these sums of squares exactly, so a copy has a difference of 0.
    rows = images.flatten(1).double()
    least = torch.full((len(rows),), math.inf, dtype=torch.float64)
    index = torch.zeros(len(rows), dtype=torch.long)
    for first in range(0, len(real), together):
        some = real[first : first + together].flatten(1).double()
        squared = rows.square().sum(1, keepdim=True) + some.square().sum(1) - 2 * rows @ some.T
        values, places = squared.min(1)
        nearer = values < least
        least = torch.where(nearer, values, least)
        index = torch.where(nearer, places + first, index)
    return index, (least / rows.size(1)).clamp(min=0).sqrt()
