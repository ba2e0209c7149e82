"""What validation and test measure, the same for every module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import pytorch_lightning as pl
from torch import Tensor, nn

from lightning_bpd.codecs.codec import Codec
from lightning_bpd.decoding import DecodingOptions, decode
from lightning_bpd.drafters import HeadLosses
from lightning_bpd.interfaces import Drafter, InputError, ParallelBatch, SequenceModel
from lightning_bpd.metrics import Accuracy, TokenLoss
from lightning_bpd.saved.finished_model import CHECKPOINT_KEY


class TrainingData(Protocol):
    """What training reads of its data module, batches aside."""

    codec: Codec
    mix: str
    """what is trained on: gold, distilled or both"""
    max_length: int
    """the most tokens of a row"""
    distilled_by: str | None
    """fingerprint of the teacher's network, where its translations are trained on"""
    self_distillation: bool
    """whether that may be the base's own"""

    def sources(self, stage: Literal["validation", "test"]) -> Sequence[Any]:
        """The sources in the order of the corpus: raw source lines, of text."""

    def references(self, stage: Literal["validation", "test"]) -> Sequence[Any]:
        """What the targets stand for, in the order of the corpus: raw target lines, of text."""

    def target_counts(self) -> Tensor:
        """How often each target token is in the training data, int64 [V]."""


class Scores(nn.Module):
    """What a pass over a corpus is measured by; a module, so that the metrics follow it from device to device."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.loss = TokenLoss()
        self.likelihood = nn.ModuleDict(codec.likelihood())
        self.quality = nn.ModuleDict(codec.quality())

    def update(
        self,
        module: pl.LightningModule,
        stage: Literal["val", "test"],
        cross_entropy: Tensor,
        tokens: Tensor,
        outputs: dict[int, Any],
    ) -> None:
        """Add a batch and let the module log the metrics over all batches and ranks at the end of the epoch.

        Args:
            module: The module that measures.
            stage: What the logged names begin with.
            cross_entropy: p_1's, summed over the batch's target tokens, in nats.
            tokens: How many these are.
            outputs: What was decoded, by the pair's place in the corpus.
        """
        data: TrainingData = module.trainer.datamodule  # type: ignore[attr-defined]
        references = data.references("validation" if stage == "val" else "test")
        self.loss.update(cross_entropy, tokens)
        module.log(f"{stage}/loss", self.loss, prog_bar=True)
        for name, metric in self.likelihood.items():
            metric.update(cross_entropy, tokens)  # type: ignore[operator]
            module.log(f"{stage}/{name}", metric)  # type: ignore[arg-type]
        for name, metric in self.quality.items():
            metric.update(list(outputs.values()), [references[index] for index in outputs])  # type: ignore[operator]
            # chrF has no room beside BLEU.
            module.log(f"{stage}/{name}", metric, prog_bar=name != "chrf")  # type: ignore[arg-type]


class HeadScores(nn.Module):
    """Loss and accuracy of each head over its own targets."""

    def __init__(self, block_size: int) -> None:
        super().__init__()
        # Typed by what they hold: a ModuleList does not tell.
        self.losses: Iterable[TokenLoss] = nn.ModuleList(TokenLoss() for _ in range(block_size))  # type: ignore[assignment]
        self.accuracies: Iterable[Accuracy] = nn.ModuleList(Accuracy() for _ in range(block_size))  # type: ignore[assignment]

    def update(self, module: pl.LightningModule, stage: Literal["val", "test"], batch: HeadLosses) -> None:
        """Add a batch of all heads and let the module log them at the end of the epoch."""
        correct, counts = batch.correct.tolist(), batch.counts.tolist()
        for place, (loss, accuracy) in enumerate(zip(self.losses, self.accuracies, strict=True)):
            loss.update(batch.sums[place], counts[place])
            accuracy.update(correct[place], counts[place])
            module.log(f"{stage}/head_{place + 1}/loss", loss)
            module.log(f"{stage}/head_{place + 1}/accuracy", accuracy)


def decode_batch(
    batch: ParallelBatch,
    codec: Codec,
    model: SequenceModel[Any],
    options: DecodingOptions,
    drafter: Drafter | None = None,
) -> dict[int, Any]:
    """What is decoded of a batch, such as its text, by the pair's place in the corpus."""
    outputs = codec.decode(decode(model, batch.source, options, drafter).rows())
    return dict(zip(batch.index.tolist(), outputs, strict=True))


def check_codec(checkpoint: dict[str, Any], data: TrainingData) -> None:
    """Refuse a checkpoint whose tokens do not mean what those of the data mean, by InputError."""
    given = data.codec.parts()
    for name, own in checkpoint.get(CHECKPOINT_KEY, {}).get("fingerprints", {}).items():
        if given.get(name) != own:
            raise InputError(
                f"the checkpoint was trained with another {name} ({own}; the data's has {given.get(name, 'none')}): "
                f"{data.codec.remedy}"
            )
