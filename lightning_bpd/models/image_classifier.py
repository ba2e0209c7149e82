"""A small convolutional classifier of images, whose features measure images that were generated (floor 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_bpd.models.image_tokenizer import to_signal

# Features of an image: few, so that a Fréchet distance needs no more than a thousand or so images.
FEATURES = 64
_WIDTHS: Sequence[int] = (24, 48, 96)
_SIDE = 32


class Judgement(NamedTuple):
    """What the classifier says of images."""

    logits: Tensor
    """[N, classes]"""
    features: Tensor
    """[N, 64]"""


class ImageClassifier(nn.Module):
    """Three stages of two convolutions, each at half the size of the one before, then the mean over all positions.

    Larger images are first reduced by a whole number, to shorter sides of 32 to 63 pixels.

    Args:
        channels: Channels of the images.
        classes: The number of classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for width in _WIDTHS:
            # The first convolution of each stage but the first halves the size; sides may be odd.
            stride = 1 if before == channels else 2
            layers += [nn.Conv2d(before, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.body = nn.Sequential(*layers)
        self.features = nn.Linear(before, FEATURES)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> Judgement:
        """Judge images, uint8 [N, H, W, C]."""
        signal = F.avg_pool2d(to_signal(images), max(1, min(images.shape[1:3]) // _SIDE))
        features = self.features(self.body(signal).mean((2, 3)))
        return Judgement(self.head(torch.relu(features)), features)
