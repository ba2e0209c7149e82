"""Block heads on a base that stays as it is."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lightning_bpd.codecs.codec import check_decoding
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.drafters import HeadDrafter, HeadShape, head_losses
from lightning_bpd.interfaces import InputError, ParallelBatch, SequenceModel
from lightning_bpd.saved.finished_model import (
    CHECKPOINT_KEY,
    Parts,
    check_base,
    describe,
    fingerprint,
    read_base,
)
from lightning_bpd.saved.translation import block_decoder
from lightning_bpd.training.blocks import (
    LossKind,
    build_heads,
    check_averaging,
    check_lengths,
    check_teacher,
    check_vocabulary,
    heads_of_step,
    log_training,
    named_base,
    weights_of_heads,
)
from lightning_bpd.training.losses import decoder_inputs
from lightning_bpd.training.optimisation import Schedule, check_precision, narrow_types, with_schedule
from lightning_bpd.training.scoring import (
    HeadScores,
    Scores,
    TrainingData,
    check_codec,
    decode_batch,
)
from lightning_bpd.training.step_loss import StepLoss, leave_together, seed_micro_batch


class FrozenBaseHeadDistillation(pl.LightningModule):
    """Trains block heads on a frozen base (Stern et al. 2018, section 6): its output stays what it was.

    The base is in eval mode and takes no gradient; the optimiser holds the heads only, and so do checkpoints, with the
    fingerprint of the base. Optimiser and schedule start anew, as in the paper.

    The loss of an optimiser step is the weighted mean over the heads of each head's loss, summed over all its targets
    and divided by the number of target tokens of the step (``step_loss``).

    Args:
        base: The model to put heads on: the folder of a finished model, a checkpoint, or a Hugging Face model,
            ``hf:NAME_OR_FOLDER`` (with ``,dtype=bfloat16`` and other options of adapters.Reference).
        heads: The shape of the heads. Where the base has heads of this shape, candidates aside, training goes on
            from them.
        loss: One head a micro-batch, drawn at random (sampled, as the paper), or the mean over all heads (all).
        targets: What heads learn: the data's tokens (data), or the base's own distribution of them (distill).
        temperature: Softens both distributions when ``targets`` is distill.
        head_weights: Weight of each head in the loss, head 1 first; equal by default. A head with weight 0 is not
            trained.
        optimizer: Optimiser with its peak learning rate.
        schedule: Learning rate after the warm-up: inverse square root of the step, half a cosine to zero, or constant.
        warmup_steps: Optimiser steps of linear warm-up.
        decode: How outputs are searched for when they are scored.

    Raises:
        InputError: The base cannot be read, or the numbers make no sense.
    """

    def __init__(
        self,
        base: str | None = None,
        heads: HeadShape = HeadShape(),  # noqa: B008  # frozen
        loss: LossKind = "all",
        targets: Literal["data", "distill"] = "data",
        temperature: float = 1.0,
        head_weights: list[float] | None = None,
        optimizer: OptimizerCallable = AdamW,
        schedule: Schedule = "inverse_square_root",
        warmup_steps: int = 4000,
        decode: DecodingOptions = DecodingOptions(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"temperature must be greater than 0, not {temperature}")
        self.base = named_base(base)
        self.parts = read_base(self.base)
        self.network = self.parts.network.requires_grad_(False).eval()
        self.base_types = narrow_types(self.network.parameters())
        self.fingerprint = fingerprint(self.network)
        self.seed = torch.initial_seed()
        self.heads = build_heads(self.parts, heads, self.seed)
        self.trained_heads = range(self.heads.first, self.heads.block_size + 1)
        if not self.trained_heads:
            raise InputError(
                "block_size 1 with an identity as first head has nothing to train: raise block_size"
            )
        self.head_weights = weights_of_heads(head_weights, self.heads.block_size, self.trained_heads)
        self.loss: LossKind = loss
        self.temperature = temperature if targets == "distill" else None
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.decode = check_decoding(decode, self.heads.block_size, self.parts.codec)
        self.scores: Scores | None = None
        self.head_scores = HeadScores(self.heads.block_size)
        self.validation_outputs: dict[int, Any] = {}
        """the latest validation's outputs on this rank, by the pair's place in the corpus"""
        self.step_loss = StepLoss()
        # The base is in no checkpoint, so a checkpoint lacks most of this module's weights.
        self.strict_loading = False

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
        return block_decoder(self.network, self.heads)

    def setup(self, stage: str) -> None:
        """Check that the data is cut into the base's tokens, and find its most frequent ones."""
        leave_together()
        self.scores = self.scores or Scores(self.parts.codec)
        check_averaging(self.trainer, frozen_base=True)
        check_vocabulary(self.parts, self.data, self.base)
        check_lengths(self.network, self.data, self.base)
        check_teacher(self.fingerprint, self.base, self.data)
        if stage == "fit":
            self.heads.choose_candidates(self.data.target_counts(), self.network.output_bias)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The configured optimiser over the heads, with the schedule."""
        check_precision(self.network.parameters(), self.trainer, self.base_types)
        optimizer = self.make_optimizer(self.heads.parameters())
        return with_schedule(optimizer, self.schedule, self.warmup_steps, self.trainer)

    # Training

    def on_train_batch_start(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Make this micro-batch's random numbers a function of its place alone."""
        seed_micro_batch(self, self.seed, batch_idx)

    def training_step(self, batch: ParallelBatch, batch_idx: int) -> Tensor:
        """The micro-batch's share of the step's loss."""
        which, weights = heads_of_step(
            self.loss, self.trained_heads, self.head_weights, self.seed, self.current_epoch, batch_idx
        )
        tokens = batch.target.lengths.sum()
        losses = head_losses(
            self.heads,
            self._hidden(batch),
            self.network.output_weight,
            batch.target,
            which,
            weights,
            self.temperature,
            bias=self.network.output_bias,
            divisor=tokens,
        )
        log_training(self, losses, which, weights)
        return self.step_loss.share(losses.loss * tokens, tokens)

    @torch.no_grad()
    def _hidden(self, batch: ParallelBatch) -> Tensor:
        return self.network(batch.source, decoder_inputs(batch.target, self.network.bos_id))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn the accumulated gradients into those of the mean over all tokens of all ranks."""
        self.step_loss.finish(self, optimizer)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    # Measuring

    def validation_step(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Score each head's teacher-forced loss, and decoded output."""
        self.validation_outputs |= self._score("val", batch)

    def test_step(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Score each head's teacher-forced loss, and decoded output."""
        self._score("test", batch)

    def predict_step(self, batch: ParallelBatch, batch_idx: int) -> dict[int, Any]:
        """Output, such as translations, by the pair's place in the corpus."""
        model, drafter = self.block_decoder()
        return decode_batch(batch, self.data.codec, model, self.decode, drafter)

    def _score(self, stage: Literal["val", "test"], batch: ParallelBatch) -> dict[int, Any]:
        assert self.scores is not None
        every = range(1, self.heads.block_size + 1)
        losses = head_losses(
            self.heads,
            self._hidden(batch),
            self.network.output_weight,
            batch.target,
            every,
            bias=self.network.output_bias,
        )
        outputs = self.predict_step(batch, 0)
        self.scores.update(self, stage, losses.sums[0], losses.counts[0], outputs)
        self.head_scores.update(self, stage, losses)
        return outputs

    def on_validation_epoch_start(self) -> None:
        """Forget the outputs of the validation before."""
        self.validation_outputs = {}

    # Keeping

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the heads alone, and what says which base they belong to."""
        self.step_loss.check(self)
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith("heads.")
        }
        checkpoint[CHECKPOINT_KEY] = describe(
            Parts(self.network, self.data.codec, self.heads),
            (self.base, self.fingerprint),
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other heads, or of heads for another base or other tokens."""
        check_codec(checkpoint, self.data)
        stored = checkpoint.get(CHECKPOINT_KEY, {}).get("heads", {})
        if "base" not in stored:
            raise InputError(
                "the checkpoint is not one of heads on a frozen base: to put heads on the model in it, name it with "
                "model.base"
            )
        remedy = f"name the base that they were trained on ({stored['path']}) with --model.base"
        check_base(stored["base"], self.fingerprint, self.base, remedy)
        if HeadShape(**stored["shape"]) != self.heads.shape:
            raise InputError(
                f"the checkpoint holds heads of the shape {stored['shape']}, and model.heads asks for others: "
                "let model.heads say the same"
            )
