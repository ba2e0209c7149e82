"""What validation and test measure, the same for every module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol

import pytorch_lightning as pl
from torch import Tensor, nn

from lightning_bpd.decoding import DecodingOptions, decode
from lightning_bpd.heads import HeadLosses
from lightning_bpd.interfaces import Drafter, InputError, ParallelBatch, SequenceModel
from lightning_bpd.metrics import Accuracy, CorpusBleu, Perplexity, TokenLoss
from lightning_bpd.tasks.finished_model import CHECKPOINT_KEY
from lightning_bpd.tasks.text import Tokenizer


class TranslationData(Protocol):
    """What training reads of its data module, batches aside."""

    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    max_length: int
    """the most tokens of a row"""
    distilled_by: str | None
    """fingerprint of the teacher's network, where its translations are trained on"""
    self_distillation: bool
    """whether that may be the base's own"""

    def references(self, stage: Literal["validation", "test"]) -> list[str]:
        """The raw target lines."""

    def target_counts(self) -> Tensor:
        """How often each target token is in the training data, int64 [V]."""


class Scores(nn.Module):
    """What a pass over a corpus is measured by; a module, so that the metrics follow it from device to device."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = TokenLoss()
        self.perplexity = Perplexity()
        self.bleu = CorpusBleu()

    def update(
        self,
        module: pl.LightningModule,
        stage: Literal["val", "test"],
        cross_entropy: Tensor,
        tokens: Tensor,
        outputs: dict[int, str],
    ) -> None:
        """Add a batch and let the module log the metrics over all batches and ranks at the end of the epoch.

        Args:
            module: The module that measures.
            stage: What the logged names begin with.
            cross_entropy: p_1's, summed over the batch's target tokens, in nats.
            tokens: How many these are.
            outputs: Decoded text by the pair's place in the corpus.
        """
        data: TranslationData = module.trainer.datamodule  # type: ignore[attr-defined]
        references = data.references("validation" if stage == "val" else "test")
        self.loss.update(cross_entropy, tokens)
        self.perplexity.update(cross_entropy, tokens)
        self.bleu.update(list(outputs.values()), [references[index] for index in outputs])
        module.log(f"{stage}/loss", self.loss, prog_bar=True)
        module.log(f"{stage}/perplexity", self.perplexity)
        module.log(f"{stage}/bleu", self.bleu, prog_bar=True)


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


def translate_batch(
    batch: ParallelBatch,
    tokenizer: Tokenizer,
    model: SequenceModel[Any],
    options: DecodingOptions,
    drafter: Drafter | None = None,
) -> dict[int, str]:
    """Decoded text of a batch by the pair's place in the corpus."""
    texts = tokenizer.decode(decode(model, batch.source, options, drafter).rows())
    return dict(zip(batch.index.tolist(), texts, strict=True))


def check_tokenizers(checkpoint: dict[str, Any], data: TranslationData) -> None:
    """Refuse a checkpoint whose tokenizers are not those of the data, by InputError."""
    stored = checkpoint.get(CHECKPOINT_KEY, {}).get("fingerprints", {})
    for side, tokenizer in (("source", data.source_tokenizer), ("target", data.target_tokenizer)):
        if side in stored and stored[side] != tokenizer.fingerprint:
            raise InputError(
                f"the checkpoint was trained with another {side} tokenizer (fingerprint {stored[side]}, the data's "
                f"is {tokenizer.fingerprint}): give data.tokenizer the model file that it was trained with"
            )
