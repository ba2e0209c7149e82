"""What frozen and joint training of block heads have in common."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.drafters import DrafterShape, HeadLosses, HeadShape, TrainedDrafter
from lightning_bpd.interfaces import Drafter, InputError, ParallelBatch, Reading, SequenceModel
from lightning_bpd.models import Network, NetworkShape
from lightning_bpd.saved.finished_model import GenerativeModel, fingerprint, read_base
from lightning_bpd.saved.network import LoraShape
from lightning_bpd.training.drift import BaseDrift
from lightning_bpd.training.module import DecoderTraining, Stage
from lightning_bpd.training.optimisation import Schedule, narrow_types
from lightning_bpd.training.scoring import HeadScores, TrainingData

logger = logging.getLogger(__name__)

LossKind = Literal["sampled", "all"]


def named_base(path: str | None) -> str:
    """The path, if there is one; InputError if not."""
    if path is None:
        raise InputError(
            "no base is named: --model.base takes the folder of a finished model, such as runs/multi30k/model, a "
            "checkpoint, or a Hugging Face model as hf:NAME_OR_FOLDER"
        )
    return path


def build_heads(base: GenerativeModel, shape: HeadShape | DrafterShape, seed: int) -> TrainedDrafter:
    """A drafter for a base, on its device: its own where it has one of this shape, else a new one."""
    network = base.network
    check_projection(network)
    network.return_layers(shape.base_layers or ())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        heads = shape.build(network).to(network.output_weight.device)
    if base.heads is not None:
        # Candidates are no part of what is trained.
        same = type(base.heads.shape) is type(heads.shape) and heads.shape == dataclasses.replace(
            base.heads.shape, candidates=shape.candidates
        )
        logger.info(
            "The base has heads: %s", "going on from them" if same else "of another shape, starting anew"
        )
        if same:
            heads.load_state_dict(dict(base.heads.named_parameters()), strict=False)
    return heads


def heads_of_step(
    loss: LossKind, trained: range, weights: Tensor | None, seed: int, epoch: int, batch_index: int
) -> tuple[range, Tensor | None]:
    """The heads that a micro-batch trains, and what each counts: all of them, or one (paper, section 6).

    One is drawn with a probability proportional to its weight, uniformly by default, and the same on every rank: its
    loss is an unbiased estimate of the weighted mean.

    Args:
        loss: Which of the two.
        trained: Numbers of the heads that can be trained.
        weights: Of heads 1..k, [k]; None where all count alike.
        seed: Of the run.
        epoch: With ``batch_index``, the micro-batch's place.
        batch_index: The micro-batch's place in the epoch.
    """
    own = None if weights is None else weights[trained.start - 1 : trained.stop - 1]
    if loss == "all":
        return trained, own
    chances = None if own is None else own.tolist()
    (head,) = random.Random(f"{seed} {epoch} {batch_index}").choices(trained, chances)
    return range(head, head + 1), None


def weights_of_heads(
    head_weights: Sequence[float] | None, shape: HeadShape | DrafterShape, trained: range
) -> Tensor | None:
    """One weight for each head, float32 [k]; None if all count alike.

    Args:
        head_weights: What the user gave; the drafter's own by default.
        shape: The shape of the drafter.
        trained: Numbers of the heads that are trained.

    Raises:
        InputError: There are more or fewer weights than heads, a weight is negative or not finite, or all trained heads
            have weight 0.
    """
    head_weights = shape.loss_weights() if head_weights is None else head_weights
    if head_weights is None:
        return None
    weights = torch.tensor(head_weights, dtype=torch.float32)
    own = weights[trained.start - 1 : trained.stop - 1]
    count = shape.block_size
    if len(weights) != count or not (weights >= 0).all() or not own.any() or weights.sum().isinf():
        raise InputError(
            f"head_weights {list(head_weights)} must be {count} numbers, one for each head, head 1 first: finite, "
            f"at least 0, and not all 0 for the trained heads {trained.start} to {trained.stop - 1}"
        )
    return weights


class HeadTraining(DecoderTraining):
    """Trains block heads on a base, and the base with them where the objective says so.

    Args:
        base: Path of the base, or the shape of a new network.
        heads: The shape of the heads.
        loss: Whether a micro-batch trains one head or all.
        optimizer: Optimiser with its peak learning rate.
        schedule: Learning rate after the warm-up.
        warmup_steps: Optimiser steps of linear warm-up.
        decode: How outputs are searched for when they are scored.
    """

    trained_heads: range
    """numbers of the heads that can be trained"""
    head_weights: Tensor | None
    """of heads 1..k, float32 [k]; None if all count alike"""
    temperature: float | None = None
    """of the base's distribution, if heads learn that; None if they learn the data's tokens"""

    def __init__(
        self,
        base: str | NetworkShape,
        heads: HeadShape | DrafterShape,
        loss: LossKind,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        warmup_steps: int,
        decode: DecodingOptions,
    ) -> None:
        super().__init__(optimizer, schedule, warmup_steps, decode, heads.block_size)
        self.base = base
        self.shape = heads
        self.loss: LossKind = loss
        self.parts: GenerativeModel | None = None
        self.drift: BaseDrift | None = None
        if isinstance(base, str):
            self.parts = read_base(base)
            self.network = self.parts.network
            self.fingerprint = fingerprint(self.network)
            self.heads = build_heads(self.parts, heads, self.seed)
        self.head_scores = HeadScores(heads.block_size)

    def block_decoder(self) -> tuple[SequenceModel[Any], Drafter]:
        """p_1 and the drafter."""
        assert self.network is not None
        model = GenerativeModel(self.network, None, self.heads)
        assert model.drafter is not None
        return model.model, model.drafter

    decoder = block_decoder

    def setup(self, stage: str) -> None:
        """Check that the data fits the base, as well."""
        super().setup(stage)
        check_averaging(self.trainer, frozen_base=self.frozen_base is not None)
        if self.parts is not None:
            check_vocabulary(self.parts, self.data, str(self.base))
            check_lengths(self.parts.network, self.data, str(self.base))
            check_teacher(self.fingerprint, str(self.base), self.data)

    def choose_candidates(self) -> None:
        """Let heads with candidates propose the most frequent target tokens."""
        assert self.network is not None
        assert self.heads is not None
        self.heads.choose_candidates(self.data.target_counts(), self.network.output_bias)

    def summed_loss(self, batch: ParallelBatch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Weighted mean of the heads' losses times the number of target tokens, and this number."""
        heads, weights = heads_of_step(
            self.loss, self.trained_heads, self.head_weights, self.seed, self.current_epoch, batch_idx
        )
        tokens = batch.target.lengths.sum()
        losses = self._losses(batch, self.read(batch), heads, weights, self.temperature, tokens)
        self.log("train/loss", losses.loss.detach(), prog_bar=True)
        counts = losses.counts.clamp(min=1)
        for index, head in enumerate(heads):
            # A head with weight 0 was not trained.
            if weights is None or weights[index] > 0:
                self.log(f"train/head_{head}/loss", losses.sums[index] / counts[index])
                self.log(f"train/head_{head}/accuracy", losses.correct[index] / counts[index])
        return losses.loss * tokens, tokens

    def measure(self, stage: Stage, batch: ParallelBatch) -> dict[int, Any]:
        """Log each head's teacher-forced loss, the quality of outputs, and how far p_1 has moved."""
        reading = self.read(batch)
        losses = self._losses(batch, reading, range(1, self.shape.block_size + 1))
        outputs = self.score(stage, batch, losses.sums[0], losses.counts[0])
        self.head_scores.update(self, stage, losses)
        if self.drift is not None:
            self.drift.update(self, stage, batch, self.block_decoder()[0], reading.hidden)
        return outputs

    def _losses(
        self,
        batch: ParallelBatch,
        reading: Reading,
        heads: range,
        weights: Tensor | None = None,
        temperature: float | None = None,
        divisor: Tensor | None = None,
    ) -> HeadLosses:
        assert self.network is not None
        assert self.heads is not None
        return self.heads.losses(self.network, reading, batch.target, heads, weights, temperature, divisor)


def check_averaging(trainer: pl.Trainer, frozen_base: bool) -> None:
    """Raise InputError, saying what to do, if weights are averaged that must not be.

    An average of a frozen base with itself is off by rounding, and one of candidates is no list of words.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, WeightAveraging):
            continue
        name = type(callback).__name__
        if frozen_base:
            raise InputError(f"{name} would average the frozen base too: leave it out of trainer.callbacks")
        if callback._use_buffers:
            raise InputError(
                f"{name} would average the list of candidates: give it use_buffers: false in trainer.callbacks"
            )


def check_base_type(network: nn.Module) -> None:
    """Raise InputError, saying what to do, if what is trained is of a type too narrow to add up small steps."""
    if narrow := narrow_types(each for each in network.parameters() if each.requires_grad):
        kind = str(narrow.pop()).removeprefix("torch.")
        raise InputError(
            f"a base in {kind} cannot be trained: most steps would be rounded away. Leave its dtype out and compute in "
            "bfloat16 by --trainer.precision bf16-mixed, or train low-rank updates of it: --model.lora.rank 16"
        )


def check_vocabulary(base: GenerativeModel, data: TrainingData, path: str) -> None:
    """Raise InputError, saying what to do, unless the data is cut into the base's own tokens."""
    given = data.codec.parts()
    for name, own in base.codec.parts().items():
        if own != given.get(name):
            raise InputError(
                f"the data's {name} ({given.get(name, 'none')}) is not that of the base {path} ({own}): "
                f"{base.codec.remedy}"
            )


def check_lengths(network: Network, data: TrainingData, path: str) -> None:
    """Raise InputError, saying what to do, if rows of the data may be longer than the base's positions reach."""
    for what, limit in (("sources", network.longest_source), ("targets", network.max_length)):
        if limit is not None and data.max_length > limit:
            raise InputError(
                f"data.max_length is {data.max_length} tokens and the base {path} has positions for {what} of "
                f"{limit}: lower data.max_length"
            )


def check_projection(network: Network) -> None:
    """Raise InputError if the base's logits are not a product and a bias alone, which is all that losses know."""
    if network.logit_cap is not None:
        raise InputError(
            f"the base caps its logits (final_logit_softcapping {network.logit_cap}), which the losses of block heads "
            "do not know: it can be decoded, and no heads can be trained on it yet"
        )


def compute_layers_again(network: Network | None) -> None:
    """Let a Hugging Face base keep no activations of its layers. Raises InputError for any other network."""
    _of_hugging_face(network, "gradient_checkpointing").model.activation_checkpointing_enable(
        {"use_reentrant": False}
    )


def train_low_rank(network: Network | None, lora: LoraShape, seed: int) -> None:
    """Let low-rank updates be all that is trained of a Hugging Face base. Raises InputError for any other network."""
    adapter = _of_hugging_face(network, "lora")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapter.train_low_rank(lora.rank, lora.alpha)


def _of_hugging_face(network: Network | None, setting: str) -> Any:
    if network is None or not network.of_hugging_face:
        raise InputError(f"{setting} is for Hugging Face bases, hf:NAME_OR_FOLDER: leave it out")
    return network


def check_teacher(base: str, path: str, data: TrainingData) -> None:
    """Warn if the distilled data that is trained on is the base's own, unless that is meant.

    A base's own output teaches it nothing new; the paper's teacher differs in its seed (section 6.2).

    Args:
        base: Fingerprint of the base's network.
        path: Where the base is.
        data: The data module.
    """
    if data.distilled_by == base and not data.self_distillation:
        logger.warning(
            "The distilled data was made by the base itself (%s, %s): distil it with a teacher of another seed, or "
            "say --data.self_distillation true",
            path,
            base,
        )
