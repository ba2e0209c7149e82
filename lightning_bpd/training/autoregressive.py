"""Training of the base: the autoregressive model that blocks are later built on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.interfaces import InputError, ParallelBatch
from lightning_bpd.models import Architecture, ImageArchitecture, Network, NetworkShape
from lightning_bpd.training.losses import summed_cross_entropy, without_padding
from lightning_bpd.training.module import DecoderTraining, Stage
from lightning_bpd.training.optimisation import Schedule
from lightning_bpd.training.scoring import TrainingData


def build_network(shape: NetworkShape, data: TrainingData, seed: int) -> Network:
    """A network with random weights for what the data's tokens are.

    Raises:
        InputError: The data has longer rows than learned positions reach, or images of another shape, or is not what
            the network is for.
    """
    if shape.kind != data.codec.kind:
        raise InputError(
            f"this network is for {shape.kind}, and the data is {data.codec.kind}: choose another network"
        )
    # The same weights whatever random numbers the data took before.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = shape.build(data.codec.vocabularies)
    if network.max_length is not None and data.max_length > network.max_length:
        raise InputError(
            f"data.max_length is {data.max_length} tokens and the model's learned positions end at "
            f"{network.max_length}: lower the one or raise model.architecture.max_length"
        )
    return network


class BaseTraining(DecoderTraining):
    """Trains a network from random weights: an encoder-decoder Transformer on sentence pairs, or any other.

    The loss of an optimiser step is the mean over all its target tokens, however they were split into
    micro-batches and ranks. Random numbers (dropout) depend only on the seed, the epoch and the place of the
    micro-batch in it, so a resumed run repeats what an uninterrupted one does.

    Args:
        architecture: The shape of the network: an Architecture if no class is named, or any other NetworkShape.
        optimizer: Optimiser with its peak learning rate.
        schedule: Learning rate after the warm-up: inverse square root of the step, half a cosine to zero, or constant.
        warmup_steps: Optimiser steps of linear warm-up.
        label_smoothing: Probability spread evenly over the vocabulary.
        decode: How outputs are searched for when they are scored.
        images: The shape of an Image Transformer; in the place of ``architecture``.
    """

    regime = "base"

    def __init__(
        self,
        architecture: Architecture | NetworkShape | None = None,
        optimizer: OptimizerCallable = AdamW,
        schedule: Schedule = "inverse_square_root",
        warmup_steps: int = 4000,
        label_smoothing: float = 0.1,
        decode: DecodingOptions = DecodingOptions(),  # noqa: B008  # frozen
        images: ImageArchitecture | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, warmup_steps, decode)
        self.architecture = images or architecture or Architecture()
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
