"""A base and its block heads, trained together."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lightning_bpd.codecs.codec import check_decoding
from lightning_bpd.codecs.hugging_face import HuggingFaceCodec, refuse_own_code
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.drafters import BlockHeads, HeadDrafter, HeadLosses, HeadShape, head_losses
from lightning_bpd.interfaces import InputError, ParallelBatch, SequenceModel
from lightning_bpd.models import Architecture, EncoderDecoder, ImageArchitecture, ImageTransformer
from lightning_bpd.saved.finished_model import CHECKPOINT_KEY, Parts, describe, fingerprint, read_base
from lightning_bpd.saved.network import LoraShape
from lightning_bpd.saved.translation import block_decoder
from lightning_bpd.training.base import build_network
from lightning_bpd.training.blocks import (
    LossKind,
    build_heads,
    check_averaging,
    check_base_type,
    check_lengths,
    check_teacher,
    check_vocabulary,
    compute_layers_again,
    heads_of_step,
    log_training,
    named_base,
    train_low_rank,
    weights_of_heads,
)
from lightning_bpd.training.drift import BaseDrift
from lightning_bpd.training.losses import decoder_inputs
from lightning_bpd.training.optimisation import Schedule, with_schedule
from lightning_bpd.training.scoring import (
    HeadScores,
    Scores,
    TrainingData,
    check_codec,
    decode_batch,
)
from lightning_bpd.training.step_loss import StepLoss, leave_together, seed_micro_batch

if TYPE_CHECKING:
    from lightning_bpd.saved.network import Network


class JointFineTuning(pl.LightningModule):
    """Trains a base together with block heads (Stern et al. 2018, section 6.1): blocks grow longer, p_1 moves.

    Starts from a trained base, whose optimiser and schedule are left behind, as in the paper; then validation logs how
    far p_1 has moved from it (``val/drift``). Or it starts from random weights.

    The loss of an optimiser step is the weighted mean over the heads, p_1 included, of each head's loss, summed over
    all its targets and divided by the number of target tokens of the step (``step_loss``).

    Args:
        base: What to start from: the folder of a finished model, a checkpoint, a Hugging Face model
            (``hf:NAME_OR_FOLDER``), or the shape of a new network for text.
        heads: The shape of the heads. Where the base has heads of this shape, candidates aside, training goes on
            from them.
        loss: One of p_1 and the heads a micro-batch, drawn at random (sampled, as the paper), or the mean over all of
            them (all).
        head_weights: Weight of each head in the loss, p_1 first; equal by default. A head with weight 0 is not trained.
        optimizer: Optimiser with its peak learning rate.
        base_learning_rate: Peak learning rate of the base; that of the optimiser, which the heads have, by default.
        schedule: Learning rate after the warm-up: inverse square root of the step, half a cosine to zero, or constant.
        warmup_steps: Optimiser steps of linear warm-up.
        decode: How outputs are searched for when they are scored.
        images: The shape of a new network for images, in the place of ``base``.
        gradient_checkpointing: Whether a Hugging Face base computes its layers again in the backward pass: less
            memory, more time.
        lora: Low-rank updates to train in the place of a Hugging Face base's weights; the finished model has them
            merged. The whole base is trained if not given.

    Raises:
        InputError: The base cannot be read, or the numbers make no sense.
    """

    def __init__(
        self,
        base: str | Architecture | None = None,
        heads: HeadShape = HeadShape(),  # noqa: B008  # frozen
        loss: LossKind = "all",
        head_weights: list[float] | None = None,
        optimizer: OptimizerCallable = AdamW,
        base_learning_rate: float | None = None,
        schedule: Schedule = "inverse_square_root",
        warmup_steps: int = 4000,
        decode: DecodingOptions = DecodingOptions(),  # noqa: B008  # frozen
        images: ImageArchitecture | None = None,
        gradient_checkpointing: bool = False,
        lora: LoraShape | None = None,
    ) -> None:
        super().__init__()
        if images is not None and base is not None:
            raise InputError(f"base is {base} and images asks for a new network: leave one of them out")
        self.base: str | Architecture | ImageArchitecture
        if images is not None:
            self.base = images
        else:
            self.base = base if isinstance(base, Architecture) else named_base(base)
        self.shape = heads
        self.seed = torch.initial_seed()
        self.network: Network | None = None
        self.heads: BlockHeads | None = None
        self.parts: Parts | None = None
        self.drift: BaseDrift | None = None
        if isinstance(self.base, str):
            self.parts = read_base(self.base)
            self.network = network = self.parts.network
            if isinstance(self.parts.codec, HuggingFaceCodec):
                refuse_own_code(network, self.parts.codec, self.base)  # type: ignore[arg-type]
            self.fingerprint = fingerprint(network)
            self.heads = build_heads(self.parts, heads, self.seed)
            self.drift = BaseDrift(copy.deepcopy(network), self.parts.codec, decode.extra_length)
            # Hugging Face models come in eval mode.
            network.train()
            if not isinstance(network, EncoderDecoder | ImageTransformer):
                network.keep_layers()
        if gradient_checkpointing:
            compute_layers_again(self.network)
        if lora is not None:
            train_low_rank(self.network, lora, self.seed)
        if self.network is not None:
            check_base_type(self.network)
        self.head_weights = weights_of_heads(head_weights, heads.block_size, range(1, heads.block_size + 1))
        self.loss: LossKind = loss
        self.make_optimizer = optimizer
        self.base_learning_rate = base_learning_rate
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.decode = decode
        self.scores: Scores | None = None
        self.head_scores = HeadScores(heads.block_size)
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

    def block_decoder(self) -> tuple[SequenceModel[Any], HeadDrafter]:
        """p_1 and the drafter."""
        assert self.network is not None
        assert self.heads is not None
        return block_decoder(self.network, self.heads)

    # Building

    def setup(self, stage: str) -> None:
        """Check that the data is cut into the base's tokens."""
        leave_together()
        self.scores = self.scores or Scores(self.data.codec)
        check_averaging(self.trainer, frozen_base=False)
        if self.parts is not None:
            check_vocabulary(self.parts, self.data, str(self.base))
            check_lengths(self.parts.network, self.data, str(self.base))
            check_teacher(self.fingerprint, str(self.base), self.data)

    def configure_model(self) -> None:
        """Build a network that starts from random weights, once the data module knows its vocabularies."""
        if self.network is None:
            assert not isinstance(self.base, str)
            self.network = build_network(self.base, self.data, self.seed)
            self.heads = build_heads(Parts(self.network, self.data.codec), self.shape, self.seed)
        assert self.heads is not None
        if self.trainer.state.fn == "fit":
            self.heads.choose_candidates(self.data.target_counts(), self.network.output_bias)
        check_decoding(self.decode, self.shape.block_size, self.data.codec)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The configured optimiser over two groups, heads and base, with the schedule."""
        assert self.network is not None
        assert self.heads is not None
        # Sinusoids are parameters that are never trained, in some families.
        base: dict[str, Any] = {"params": [each for each in self.network.parameters() if each.requires_grad]}
        if self.base_learning_rate is not None:
            base["lr"] = self.base_learning_rate
        heads = {"params": list(self.heads.parameters())}
        optimizer = self.make_optimizer([heads, base] if heads["params"] else [base])
        return with_schedule(optimizer, self.schedule, self.warmup_steps, self.trainer)

    # Training

    def on_train_batch_start(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Make this micro-batch's random numbers a function of its place alone."""
        seed_micro_batch(self, self.seed, batch_idx)

    def training_step(self, batch: ParallelBatch, batch_idx: int) -> Tensor:
        """The micro-batch's share of the step's loss."""
        every = range(1, self.shape.block_size + 1)
        which, weights = heads_of_step(
            self.loss, every, self.head_weights, self.seed, self.current_epoch, batch_idx
        )
        tokens = batch.target.lengths.sum()
        losses = self._losses(batch, self._hidden(batch), which, weights, tokens)
        log_training(self, losses, which, weights)
        return self.step_loss.share(losses.loss * tokens, tokens)

    def _hidden(self, batch: ParallelBatch) -> Tensor:
        assert self.network is not None
        return self.network(batch.source, decoder_inputs(batch.target, self.network.bos_id))

    def _losses(
        self,
        batch: ParallelBatch,
        hidden: Tensor,
        which: range,
        weights: Tensor | None = None,
        divisor: Tensor | None = None,
    ) -> HeadLosses:
        assert self.network is not None
        assert self.heads is not None
        return head_losses(
            self.heads,
            hidden,
            self.network.output_weight,
            batch.target,
            which,
            weights,
            bias=self.network.output_bias,
            divisor=divisor,
        )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn the accumulated gradients into those of the mean over all tokens of all ranks."""
        self.step_loss.finish(self, optimizer)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
        self.log("train/base_learning_rate", optimizer.param_groups[-1]["lr"])

    # Measuring

    def validation_step(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Score each head's teacher-forced loss, decoded output, and how far p_1 has moved."""
        self.validation_outputs |= self._score("val", batch)

    def test_step(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Score each head's teacher-forced loss, decoded output, and how far p_1 has moved."""
        self._score("test", batch)

    def predict_step(self, batch: ParallelBatch, batch_idx: int) -> dict[int, Any]:
        """Output, such as translations, by the pair's place in the corpus."""
        model, drafter = self.block_decoder()
        return decode_batch(batch, self.data.codec, model, self.decode, drafter)

    def _score(self, stage: Literal["val", "test"], batch: ParallelBatch) -> dict[int, Any]:
        assert self.scores is not None
        hidden = self._hidden(batch)
        losses = self._losses(batch, hidden, range(1, self.shape.block_size + 1))
        outputs = self.predict_step(batch, 0)
        self.scores.update(self, stage, losses.sums[0], losses.counts[0], outputs)
        self.head_scores.update(self, stage, losses)
        if self.drift is not None:
            self.drift.update(self, stage, batch, self.block_decoder()[0], hidden)
        return outputs

    def on_validation_epoch_start(self) -> None:
        """Forget the outputs of the validation before."""
        self.validation_outputs = {}

    # Keeping

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what makes a finished model of the checkpoint alone: plain data and bytes."""
        assert self.network is not None
        self.step_loss.check(self)
        checkpoint[CHECKPOINT_KEY] = describe(Parts(self.network, self.data.codec, self.heads))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose tokenizers are not those of the data."""
        check_codec(checkpoint, self.data)
