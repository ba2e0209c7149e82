"""Training of a tokenizer of images: what it reconstructs should look like its input."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from lightning_bpd.codecs.image_tokenizers import TrainedTokenizer
from lightning_bpd.interfaces import InputError, LabelledTokens
from lightning_bpd.metrics.codebook import CodebookCounts, codebook_perplexity, codebook_use, collapse
from lightning_bpd.metrics.images import PeakSignalToNoise
from lightning_bpd.metrics.token_loss import TokenLoss
from lightning_bpd.models.image_tokenizer import (
    ImageTokenizer,
    TokenizerShape,
    reconstruction_loss,
    to_intensities,
    to_signal,
)
from lightning_bpd.saved.finished_model import CHECKPOINT_KEY
from lightning_bpd.training.optimisation import Schedule
from lightning_bpd.training.scoring import check_codec
from lightning_bpd.training.skeleton import Training

logger = logging.getLogger(__name__)

REMEDIES = (
    'use quantiser "fsq", which has no codebook to learn, or lower codebook_size, or raise batch_size, or lower the'
    " learning rate"
)


class TokenizerTraining(Training):
    """Trains an ImageTokenizer by the squared error of its reconstructions, plus the commitment to its codes.

    It reads the levels of images as the data gives them, so the data has no tokenizer itself. There is no perceptual
    and no adversarial loss: reconstructions have a good PSNR and are smooth.

    Args:
        tokenizer: The shape of the tokenizer.
        optimizer: Optimiser with its peak learning rate.
        schedule: Learning rate after the warm-up.
        warmup_steps: Optimiser steps of linear warm-up.
    """

    regime = "tokenizer"
    validation_metrics = ("val/loss", "val/psnr", "val/codebook_use", "val/codebook_perplexity")
    """the names of the metrics that validation logs"""

    def __init__(
        self,
        tokenizer: TokenizerShape = TokenizerShape(),  # noqa: B008  # frozen
        optimizer: OptimizerCallable = AdamW,
        schedule: Schedule = "cosine",
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(optimizer, schedule, warmup_steps)
        self.shape = tokenizer
        self.network: ImageTokenizer | None = None
        self.error = TokenLoss()
        self.psnr = PeakSignalToNoise()
        self.counts = CodebookCounts(tokenizer.depth, tokenizer.vocabulary)
        self.collapsed: str | None = None
        """a sentence about the codebook, if it had collapsed at the latest validation"""

    def configure_model(self) -> None:
        """Build the network, once the data module knows the size of the images.

        Raises InputError if the images cannot be halved as often, or the data is no plain images.
        """
        codec = self.data.codec
        if not hasattr(codec, "levels") or not hasattr(codec, "classes"):
            raise InputError(
                f"a tokenizer is trained on the intensities of images, and the data is {codec.kind}: use LabelledImages"
                " or LabelledDigits, without a tokenizer"
            )
        self.shape.grid(codec.height, codec.width)
        if self.network is None:
            # The same weights whatever random numbers the data took before.
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                self.network = ImageTokenizer(self.shape, codec.channels)

    def trained_parameters(self) -> Iterable[Tensor]:
        """All parameters."""
        return self.parameters()

    def images(self, batch: LabelledTokens) -> Tensor:
        """The images of a batch, uint8 [B, H, W, C]."""
        codec = self.data.codec
        levels = batch.tokens.view(-1, *codec.shape)
        # As codecs.images.dequantise.
        return ((levels * 510 + codec.levels - 1) // (2 * (codec.levels - 1))).to(torch.uint8)

    def summed_loss(self, batch: LabelledTokens, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Squared error and commitment, summed over the intensities, and the number of intensities."""
        assert self.network is not None
        signal = to_signal(self.images(batch))
        output = self.network(signal)
        error, number = reconstruction_loss(output.images, signal), batch.target_tokens
        self.log("train/loss", error / number, prog_bar=True)
        if self.shape.quantiser != "fsq":
            self.log("train/commitment", output.commitment)
        return error + output.commitment * number, number

    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode and decode images, uint8 [B, H, W, C], and return images of the same size."""
        assert self.network is not None
        return to_intensities(self.network(to_signal(images)).images)

    def validation_step(self, batch: LabelledTokens, batch_idx: int) -> None:
        """Compare reconstructions with their images, and count the codes."""
        self._measure("val", batch)

    def test_step(self, batch: LabelledTokens, batch_idx: int) -> None:
        """Compare reconstructions with their images, and count the codes."""
        self._measure("test", batch)

    def predict_step(self, batch: LabelledTokens, batch_idx: int) -> dict[int, Any]:
        """Reconstructions, by the image's position in its part of the data."""
        images = self.reconstruct(self.images(batch)).cpu().numpy()
        return dict(zip(batch.index.tolist(), images, strict=True))

    def on_validation_epoch_end(self) -> None:
        """Log how much of the codebook is used; warn if it has collapsed."""
        self._log_codebook("val")

    def on_test_epoch_end(self) -> None:
        """Log how much of the codebook is used; warn if it has collapsed."""
        self._log_codebook("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what makes a finished tokenizer of the checkpoint alone: plain data."""
        self.step_loss.check(self)
        description = self.finished().describe()
        del description["weights"]  # they are in the state
        checkpoint[CHECKPOINT_KEY] = {
            "image_tokenizer": description,
            "fingerprints": dict(self.data.codec.parts()),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained on images of another size, or other levels or classes."""
        check_codec(checkpoint, self.data)

    def finished(self) -> TrainedTokenizer:
        """The tokenizer as it is now. It shares the network, which stays in its mode."""
        assert self.network is not None
        training = self.network.training
        tokenizer = TrainedTokenizer(self.network, self.data.codec.height, self.data.codec.width)
        self.network.train(training)
        return tokenizer

    def _measure(self, stage: Literal["val", "test"], batch: LabelledTokens) -> None:
        assert self.network is not None
        images = self.images(batch)
        signal = to_signal(images)
        output = self.network(signal)
        self.error.update(reconstruction_loss(output.images, signal), int(batch.target_tokens))
        self.psnr.update(to_intensities(output.images), images)
        self.counts.update(output.codes)
        self.log(f"{stage}/loss", self.error)
        self.log(f"{stage}/psnr", self.psnr, prog_bar=True)

    def _log_codebook(self, stage: Literal["val", "test"]) -> None:
        counts = self.counts.compute()  # over all ranks
        self.counts.reset()
        for name, value in (("use", codebook_use(counts)), ("perplexity", codebook_perplexity(counts))):
            # All ranks have equal values. Their maximum is exact to the last digit; their mean may not be.
            number = torch.tensor(value, dtype=torch.float32, device=self.device)
            self.log(f"{stage}/codebook_{name}", number, prog_bar=True, sync_dist=True, reduce_fx="max")
        # Early in training most codes are unused, because the encoder's outputs are still alike.
        self.collapsed = collapse(counts)
        early = self.trainer.state.fn == "fit" and self.global_step < self.warmup_steps
        if self.collapsed is not None and not early and self.trainer.is_global_zero:
            logger.warning("After %d steps %s: %s", self.global_step, self.collapsed, REMEDIES)
