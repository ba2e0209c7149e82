"""The skeleton of every training: an objective adds what it trains, and by which loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor

from lightning_bpd.codecs.codec import check_decoding
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.drafters import TrainedDrafter
from lightning_bpd.interfaces import Drafter, ParallelBatch, Reading, SequenceModel
from lightning_bpd.network import Network
from lightning_bpd.saved.finished_model import CHECKPOINT_KEY, GenerativeModel, describe
from lightning_bpd.training.losses import decoder_inputs
from lightning_bpd.training.optimisation import Schedule
from lightning_bpd.training.scoring import Scores, TrainingData, check_codec, decode_batch
from lightning_bpd.training.skeleton import Training
from lightning_bpd.training.step_loss import leave_together

Stage = Literal["val", "test"]


class DecoderTraining(Training, ABC):
    """Trains and measures a model that decodes; a subclass is an objective.

    Args:
        optimizer: Optimiser with its peak learning rate.
        schedule: Learning rate after the warm-up.
        warmup_steps: Optimiser steps of linear warm-up.
        decode: How outputs are searched for when they are scored.
        block_size: The largest block that the model's heads propose; None for a model without heads.
    """

    network: Network | None
    """None until the data module knows its vocabularies, if training starts from random weights"""
    heads: TrainedDrafter | None

    def __init__(
        self,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        warmup_steps: int,
        decode: DecodingOptions,
        block_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, warmup_steps)
        self.decode = decode
        self.block_size = block_size
        self.network = None
        self.heads = None
        self.frozen_base: tuple[str, str] | None = None
        """path and fingerprint of a base that checkpoints do not hold"""
        self.scores: Scores | None = None
        self.validation_outputs: dict[int, Any] = {}
        """outputs of the latest validation on this rank, by the pair's position in the corpus"""

    @property
    def data(self) -> TrainingData:
        """The data module of the running trainer."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def bleu_signature(self) -> str | None:
        """How the quality of outputs is computed, if a library has words for it."""
        return self.data.codec.signature()

    # An objective

    @abstractmethod
    def measure(self, stage: Stage, batch: ParallelBatch) -> dict[int, Any]:
        """Log a batch's metrics, beginning with those of ``score``; returns the outputs that ``score`` returned."""

    def decoder(self) -> tuple[SequenceModel[Any], Drafter | None]:
        """The model that outputs are decoded with, and its drafter."""
        assert self.network is not None
        return self.network, None

    def read(self, batch: ParallelBatch) -> Reading:
        """The network's hidden states before each target token, and its memory of the source."""
        assert self.network is not None
        return self.network.read(batch.source, decoder_inputs(batch.target, self.network.bos_id))

    # Building

    def setup(self, stage: str) -> None:
        """Check that outputs can be decoded as asked for, and prepare their scoring."""
        leave_together()
        check_decoding(self.decode, self.block_size, self.data.codec)
        self.scores = self.scores or Scores(self.data.codec)

    # Measuring

    def validation_step(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Score teacher-forced losses and decoded output."""
        self.validation_outputs |= self.measure("val", batch)

    def test_step(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Score teacher-forced losses and decoded output."""
        self.measure("test", batch)

    def score(
        self, stage: Stage, batch: ParallelBatch, cross_entropy: Tensor, tokens: Tensor
    ) -> dict[int, Any]:
        """Decode a batch and log p_1's loss, summed over ``tokens`` targets, and the quality of the outputs."""
        assert self.scores is not None
        outputs = self.predict_step(batch, 0)
        self.scores.update(self, stage, cross_entropy, tokens, outputs)
        return outputs

    def predict_step(self, batch: ParallelBatch, batch_idx: int) -> dict[int, Any]:
        """Outputs, such as translations, by the pair's position in the corpus."""
        model, drafter = self.decoder()
        return decode_batch(batch, self.data.codec, model, self.decode, drafter)

    def on_validation_epoch_start(self) -> None:
        """Forget the outputs of the validation before."""
        self.validation_outputs = {}

    # Keeping

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what makes a finished model of the checkpoint alone: plain data and bytes."""
        assert self.network is not None
        self.step_loss.check(self)
        model = GenerativeModel(self.network, self.data.codec, self.heads)
        checkpoint[CHECKPOINT_KEY] = describe(model, self.frozen_base)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose tokens do not mean what those of the data mean."""
        check_codec(checkpoint, self.data)
