"""Enlarging images with a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lightning_bpd.codecs.images import ImageCodec, Images, images_to_tokens
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.interfaces import DecodeResult, InputError, TokenRows
from lightning_bpd.saved.finished_model import GenerativeModel


@dataclass(frozen=True, eq=False)
class Upscaler(GenerativeModel):
    """A model of images, put into eval mode. Raises InputError for a model of anything else."""

    codec: ImageCodec

    def __post_init__(self) -> None:
        if self.codec.kind != "images":
            raise InputError(f"this is a model of {self.codec.kind}, which enlarges no images")
        self.to(self.device)

    def upscale(self, images: Images, options: DecodingOptions) -> tuple[list[Images], DecodeResult]:
        """Enlarge small images together, uint8 [N, h, w, C]: uint8 [H, W, C] of each, and how they were decoded."""
        result = self.decode(self._rows(images), options)
        return self.codec.decode(result.rows()), result

    def batches(self, sources: Sequence[Images], batch_size: int) -> Iterator[tuple[list[int], TokenRows]]:
        """Small images, uint8 [h, w, C], as batches ready to decode, with the index of each."""
        for first in range(0, len(sources), batch_size):
            images = np.stack(sources[first : first + batch_size])
            yield list(range(first, first + len(images))), self._rows(images)

    def _rows(self, images: Images) -> TokenRows:
        tokens = torch.from_numpy(images_to_tokens(images, self.codec.levels)).to(self.device)
        return TokenRows(tokens, torch.full((len(tokens),), tokens.size(1), device=self.device))
