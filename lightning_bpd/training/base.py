"""Training of the base: the autoregressive model that blocks are later built on."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_bpd.decoding import DecodingOptions, decode
from lightning_bpd.interfaces import InputError, ParallelBatch
from lightning_bpd.metrics import CorpusBleu, Perplexity, TokenLoss, bleu_signature
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.tasks.text import Tokenizer
from lightning_bpd.tasks.translation import CHECKPOINT_KEY, describe
from lightning_bpd.training.losses import decoder_inputs, summed_cross_entropy, without_padding
from lightning_bpd.training.optimisation import (
    cosine,
    fuse_on_cpu,
    inverse_square_root,
    scale_gradients,
)

# Micro-batches are divided by this fixed number of tokens, to keep fp16 gradients in range; before the step the
# gradients are put right by the number of tokens that there really were.
NOMINAL_TOKENS = 4096
# Taken for the token count of a micro-batch whose loss is not finite: no step has as many tokens.
BAD = 2**40
# Optimiser steps between two looks at the losses on an accelerator.
CHECK_EVERY = 50


class TranslationData(Protocol):
    """What training reads of its data module, batches aside."""

    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    max_length: int
    """the most tokens of a row"""

    def references(self, stage: Literal["validation", "test"]) -> list[str]:
        """The raw target lines."""


class Scores(torch.nn.Module):
    """What a pass over a corpus is measured by; a module, so that the metrics follow it from device to device."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = TokenLoss()
        self.perplexity = Perplexity()
        self.bleu = CorpusBleu()


class BaseTraining(pl.LightningModule):
    """Trains an encoder-decoder Transformer on sentence pairs.

    The loss of an optimiser step is the mean over all its target tokens, however they were split into
    micro-batches and ranks. Random numbers (dropout) depend only on the seed, the epoch and the place of the
    micro-batch in it, so a resumed run repeats what an uninterrupted one does.

    Args:
        architecture: The network's shape.
        optimizer: Optimiser with its peak learning rate.
        schedule: Learning rate after the warm-up: inverse square root of the step, half a cosine to zero, or constant.
        warmup_steps: Optimiser steps of linear warm-up.
        label_smoothing: Probability spread evenly over the vocabulary.
        decode: How outputs are searched for when they are scored.
    """

    def __init__(
        self,
        architecture: Architecture = Architecture(),  # noqa: B008  # frozen
        optimizer: OptimizerCallable = AdamW,
        schedule: Literal["inverse_square_root", "cosine", "constant"] = "inverse_square_root",
        warmup_steps: int = 4000,
        label_smoothing: float = 0.1,
        decode: DecodingOptions = DecodingOptions(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.label_smoothing = label_smoothing
        self.decode = decode
        self.seed = torch.initial_seed()
        self.network: EncoderDecoder | None = None
        self.bleu_signature = bleu_signature()
        self.scores = Scores()
        self.validation_outputs: dict[int, str] = {}
        """the latest validation's outputs on this rank, by the pair's place in the corpus"""
        self._step_tokens: Tensor | int = 0
        self._least_tokens = torch.tensor(BAD)

    @property
    def data(self) -> TranslationData:
        """The data module of the running trainer."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    # Building

    def configure_model(self) -> None:
        """Build the network, once the data module knows its vocabularies."""
        if self.network is not None:
            return
        data = self.data
        target = data.target_tokenizer
        shape = self.architecture
        if shape.positions == "learned" and data.max_length > shape.max_length:
            raise InputError(
                f"data.max_length is {data.max_length} tokens and the model's learned positions end at "
                f"{shape.max_length}: lower the one or raise model.architecture.max_length"
            )
        # The same weights whatever random numbers the data took before.
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.network = EncoderDecoder(
                self.architecture,
                data.source_tokenizer.vocab_size,
                target.vocab_size,
                target.bos_id,
                target.eos_id,
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The configured optimiser with the schedule, stepped every optimiser step."""
        if self.schedule == "cosine" and self.trainer.max_epochs == -1 and self.trainer.max_steps == -1:
            raise InputError(
                "the cosine schedule must know its end: set trainer.max_epochs or trainer.max_steps, or take another"
            )
        optimizer = self.make_optimizer(self.parameters())
        fuse_on_cpu(optimizer)
        scheduler = LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate(self, steps_done: int) -> float:
        step = steps_done + 1
        if self.schedule == "cosine":
            # Not asked for in advance: that would load the data before a resumed run knows where it is.
            return cosine(step, self.warmup_steps, lambda: int(self.trainer.estimated_stepping_batches))
        if self.schedule == "inverse_square_root":
            return inverse_square_root(step, self.warmup_steps)
        return min(step / max(self.warmup_steps, 1), 1.0)

    # Training

    def on_train_batch_start(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Make this micro-batch's random numbers a function of its place alone."""
        place = batch_idx * self.trainer.world_size + self.trainer.global_rank
        torch.manual_seed((self.seed + 1_000_003 * self.current_epoch + 7_919 * (place + 1)) % 2**63)

    def training_step(self, batch: ParallelBatch, batch_idx: int) -> Tensor:
        """The micro-batch's share of the step's loss."""
        loss, cross_entropy, tokens = self._loss(batch, self.label_smoothing)
        # A count below zero tells all ranks, when they add theirs up, that the loss of one was not finite.
        tokens = torch.where(torch.isfinite(loss), tokens, -BAD)
        self._step_tokens = self._step_tokens + tokens
        self.log("train/loss", cross_entropy / tokens.abs(), prog_bar=True)
        return loss / NOMINAL_TOKENS

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
        tokens = torch.as_tensor(self._step_tokens, device=self.device)
        self._step_tokens = 0
        world_size = self.trainer.world_size
        if world_size > 1:
            tokens = self.trainer.strategy.reduce(tokens, reduce_op="sum")
        self._least_tokens = torch.minimum(self._least_tokens.to(tokens), tokens)
        # Looking makes an accelerator wait, so there it is done now and then only.
        if tokens.device.type == "cpu" or self.global_step % CHECK_EVERY == 0:
            self._check_losses()
        # Lightning divided each micro-batch by their number, and DDP averaged over ranks.
        scale = NOMINAL_TOKENS * self.trainer.accumulate_grad_batches * world_size
        width = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        scale_gradients(self.parameters(), scale / tokens.to(width))
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    def _check_losses(self) -> None:
        if self._least_tokens < 0:
            raise InputError(
                f"a training loss was not finite (NaN or infinite) by step {self.global_step}: lower the learning rate "
                "or lengthen the warm-up"
            )

    # Measuring

    def validation_step(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Score teacher-forced loss and decoded output."""
        self.validation_outputs |= self._score("val", batch, self.data.references("validation"))

    def test_step(self, batch: ParallelBatch, batch_idx: int) -> None:
        """Score teacher-forced loss and decoded output."""
        self._score("test", batch, self.data.references("test"))

    def predict_step(self, batch: ParallelBatch, batch_idx: int) -> dict[int, str]:
        """Translations by the pair's place in the corpus."""
        return self._translate(batch)

    def _score(self, stage: str, batch: ParallelBatch, references: list[str]) -> dict[int, str]:
        _, cross_entropy, tokens = self._loss(batch, label_smoothing=0.0)
        outputs = self._translate(batch)
        scores = self.scores
        scores.loss.update(cross_entropy, tokens)
        scores.perplexity.update(cross_entropy, tokens)
        scores.bleu.update(list(outputs.values()), [references[index] for index in outputs])
        # Lightning computes them over all batches and ranks at the end of the epoch, and resets them.
        self.log(f"{stage}/loss", scores.loss, prog_bar=True)
        self.log(f"{stage}/perplexity", scores.perplexity)
        self.log(f"{stage}/bleu", scores.bleu, prog_bar=True)
        return outputs

    def _translate(self, batch: ParallelBatch) -> dict[int, str]:
        assert self.network is not None
        result = decode(self.network, batch.source, self.decode)
        texts = self.data.target_tokenizer.decode(result.rows())
        return dict(zip(batch.index.tolist(), texts, strict=True))

    def on_validation_epoch_start(self) -> None:
        """Forget the outputs of the validation before."""
        self.validation_outputs = {}

    # Keeping

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what makes a finished model of the checkpoint alone: plain data and bytes."""
        assert self.network is not None
        self._check_losses()
        checkpoint[CHECKPOINT_KEY] = describe(
            self.network, self.data.source_tokenizer, self.data.target_tokenizer
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose tokenizers are not those of the data."""
        data = self.data
        stored = checkpoint.get(CHECKPOINT_KEY, {}).get("fingerprints", {})
        for side, tokenizer in (("source", data.source_tokenizer), ("target", data.target_tokenizer)):
            if side in stored and stored[side] != tokenizer.fingerprint:
                raise InputError(
                    f"the checkpoint was trained with another {side} tokenizer (fingerprint {stored[side]}, the data's "
                    f"is {tokenizer.fingerprint}): give data.tokenizer the model file that it was trained with"
                )
