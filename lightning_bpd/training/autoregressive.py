"""Training of the base: the autoregressive model that blocks are later built on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from lightning_bpd.codecs.images import ImageCodec
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.interfaces import InputError, ParallelBatch
from lightning_bpd.models import (
    Architecture,
    EncoderDecoder,
    ImageArchitecture,
    ImageTransformer,
    Network,
)
from lightning_bpd.training.losses import summed_cross_entropy, without_padding
from lightning_bpd.training.module import DecoderTraining, Stage
from lightning_bpd.training.optimisation import Schedule
from lightning_bpd.training.scoring import TrainingData


def build_network(shape: Architecture | ImageArchitecture, data: TrainingData, seed: int) -> Network:
    """A network with random weights for what the data's tokens are.

    Raises:
        InputError: The data has longer rows than learned positions reach, or images of another shape, or is not what
            the network is for.
    """
    codec = data.codec
    # The same weights whatever random numbers the data took before.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(shape, ImageArchitecture):
            if not isinstance(codec, ImageCodec):
                raise InputError(
                    f"this network is for images, and the data is {codec.kind}: choose another network"
                )
            for name, own, given in (
                ("height", shape.height, codec.height),
                ("width", shape.width, codec.width),
                ("channels", shape.channels, codec.channels),
                ("levels", shape.levels, codec.levels),
                ("scale", shape.scale, codec.factor),
            ):
                if own != given:
                    raise InputError(
                        f"the network's {name} is {own}, and that of the data's images {given}: let model.images and "
                        "data say the same"
                    )
            return ImageTransformer(shape)
        if not isinstance(codec, TextCodec):
            raise InputError(
                f"this network is for text, and the data is {codec.kind}: choose another network"
            )
        if shape.positions == "learned" and data.max_length > shape.max_length:
            raise InputError(
                f"data.max_length is {data.max_length} tokens and the model's learned positions end at "
                f"{shape.max_length}: lower the one or raise model.architecture.max_length"
            )
        source, target = codec.source, codec.target
        return EncoderDecoder(shape, source.vocab_size, target.vocab_size, target.bos_id, target.eos_id)


class BaseTraining(DecoderTraining):
    """Trains an encoder-decoder Transformer on sentence pairs, or an Image Transformer on images.

    The loss of an optimiser step is the mean over all its target tokens, however they were split into
    micro-batches and ranks. Random numbers (dropout) depend only on the seed, the epoch and the place of the
    micro-batch in it, so a resumed run repeats what an uninterrupted one does.

    Args:
        architecture: The network's shape, for text.
        optimizer: Optimiser with its peak learning rate.
        schedule: Learning rate after the warm-up: inverse square root of the step, half a cosine to zero, or constant.
        warmup_steps: Optimiser steps of linear warm-up.
        label_smoothing: Probability spread evenly over the vocabulary.
        decode: How outputs are searched for when they are scored.
        images: The network's shape, for images; in the place of ``architecture``.
    """

    regime = "base"

    def __init__(
        self,
        architecture: Architecture = Architecture(),  # noqa: B008  # frozen
        optimizer: OptimizerCallable = AdamW,
        schedule: Schedule = "inverse_square_root",
        warmup_steps: int = 4000,
        label_smoothing: float = 0.1,
        decode: DecodingOptions = DecodingOptions(),  # noqa: B008  # frozen
        images: ImageArchitecture | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, warmup_steps, decode)
        self.architecture = architecture if images is None else images
        self.label_smoothing = label_smoothing

    def configure_model(self) -> None:
        """Build the network, once the data module knows its vocabularies."""
        if self.network is None:
            self.network = build_network(self.architecture, self.data, self.seed)

    def trained_parameters(self) -> Iterable[Tensor]:
        """All parameters."""
        return self.parameters()

    def summed_loss(self, batch: ParallelBatch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy with smoothed labels, and the number of target tokens."""
        loss, cross_entropy, tokens = self._loss(batch, self.label_smoothing)
        self.log("train/loss", cross_entropy / tokens, prog_bar=True)
        return loss, tokens

    def _loss(self, batch: ParallelBatch, label_smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
        """Summed loss to minimise, summed cross-entropy, number of target tokens."""
        hidden, targets = without_padding(self.read(batch).hidden, batch.target)
        assert self.network is not None
        loss, cross_entropy = summed_cross_entropy(
            hidden, self.network.output_weight, targets, label_smoothing
        )
        return loss, cross_entropy, batch.target.lengths.sum()

    def measure(self, stage: Stage, batch: ParallelBatch) -> dict[int, Any]:
        """Log the teacher-forced loss and the quality of decoded outputs."""
        _, cross_entropy, tokens = self._loss(batch, label_smoothing=0.0)
        return self.score(stage, batch, cross_entropy, tokens)
