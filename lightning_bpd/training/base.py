"""Training of the base: the autoregressive model that blocks are later built on."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lightning_bpd.codecs.codec import check_decoding
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
from lightning_bpd.saved.finished_model import CHECKPOINT_KEY, Parts, describe
from lightning_bpd.training.losses import decoder_inputs, summed_cross_entropy, without_padding
from lightning_bpd.training.optimisation import Schedule, with_schedule
from lightning_bpd.training.scoring import Scores, TrainingData, check_codec, decode_batch
from lightning_bpd.training.step_loss import StepLoss, leave_together, seed_micro_batch


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


class BaseTraining(pl.LightningModule):
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
        super().__init__()
        self.architecture = architecture if images is None else images
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.label_smoothing = label_smoothing
        self.decode = decode
        self.seed = torch.initial_seed()
        self.network: Network | None = None
        self.scores: Scores | None = None
        self.validation_outputs: dict[int, Any] = {}
        """the latest validation's outputs on this rank, by the pair's place in the corpus"""
        self.step_loss = StepLoss()

    @property
    def data(self) -> TrainingData:
        """The data module of the running trainer."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def bleu_signature(self) -> str | None:
        """How its quality is computed, where a library has words for that."""
        return self.data.codec.signature()

    # Building

    def setup(self, stage: str) -> None:
        """Check that the output can be decoded as it is to be, and prepare its scoring."""
        leave_together()
        check_decoding(self.decode, None, self.data.codec)
        self.scores = self.scores or Scores(self.data.codec)

    def configure_model(self) -> None:
        """Build the network, once the data module knows its vocabularies."""
        if self.network is not None:
            return
        self.network = build_network(self.architecture, self.data, self.seed)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The configured optimiser with the schedule, stepped every optimiser step."""
        optimizer = self.make_optimizer(self.parameters())
        return with_schedule(optimizer, self.schedule, self.warmup_steps, self.trainer)

    # Training

    def on_train_batch_start(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Make this micro-batch's random numbers a function of its place alone."""
        seed_micro_batch(self, self.seed, batch_idx)

    def training_step(self, batch: ParallelBatch, batch_idx: int) -> Tensor:
        """The micro-batch's share of the step's loss."""
        loss, cross_entropy, tokens = self._loss(batch, self.label_smoothing)
        self.log("train/loss", cross_entropy / tokens, prog_bar=True)
        return self.step_loss.share(loss, tokens)

    def _loss(self, batch: ParallelBatch, label_smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
        """Summed loss to minimise, summed cross-entropy, number of target tokens."""
        assert self.network is not None
        hidden = self.network(batch.source, decoder_inputs(batch.target, self.network.bos_id))
        hidden, targets = without_padding(hidden, batch.target)
        loss, cross_entropy = summed_cross_entropy(
            hidden, self.network.output_weight, targets, label_smoothing
        )
        return loss, cross_entropy, batch.target.lengths.sum()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn the accumulated gradients into those of the mean over all tokens of all ranks."""
        self.step_loss.finish(self, optimizer)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    # Measuring

    def validation_step(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Score teacher-forced loss and decoded output."""
        self.validation_outputs |= self._score("val", batch)

    def test_step(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Score teacher-forced loss and decoded output."""
        self._score("test", batch)

    def predict_step(self, batch: ParallelBatch, batch_idx: int) -> dict[int, Any]:
        """Output, such as translations, by the pair's place in the corpus."""
        assert self.network is not None
        return decode_batch(batch, self.data.codec, self.network, self.decode)

    def _score(self, stage: Literal["val", "test"], batch: ParallelBatch) -> dict[int, Any]:
        assert self.scores is not None
        _, cross_entropy, tokens = self._loss(batch, label_smoothing=0.0)
        outputs = self.predict_step(batch, 0)
        self.scores.update(self, stage, cross_entropy, tokens, outputs)
        return outputs

    def on_validation_epoch_start(self) -> None:
        """Forget the outputs of the validation before."""
        self.validation_outputs = {}

    # Keeping

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what makes a finished model of the checkpoint alone: plain data and bytes."""
        assert self.network is not None
        self.step_loss.check(self)
        checkpoint[CHECKPOINT_KEY] = describe(Parts(self.network, self.data.codec))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose tokens are not those of the data."""
        check_codec(checkpoint, self.data)
