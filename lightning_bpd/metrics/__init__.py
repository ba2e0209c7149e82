"""Metrics: pure functions and torchmetrics shells around them."""

from lightning_bpd.metrics.accuracy import Accuracy
from lightning_bpd.metrics.bleu import (
    CorpusBleu,
    CorpusChrf,
    bleu_score,
    bleu_signature,
    bleu_statistics,
    chrf_score,
    chrf_signature,
    chrf_statistics,
)
from lightning_bpd.metrics.block_size import (
    AcceptedSizes,
    Comparison,
    GreedyComparison,
    count_accepted_sizes,
    equal_rows,
    mean_accepted_block_size,
    shares,
    shares_at_least,
)
from lightning_bpd.metrics.token_loss import Perplexity, TokenLoss

__all__ = [
    "AcceptedSizes",
    "Accuracy",
    "Comparison",
    "CorpusBleu",
    "CorpusChrf",
    "GreedyComparison",
    "Perplexity",
    "TokenLoss",
    "bleu_score",
    "bleu_signature",
    "bleu_statistics",
    "chrf_score",
    "chrf_signature",
    "chrf_statistics",
    "count_accepted_sizes",
    "equal_rows",
    "mean_accepted_block_size",
    "shares",
    "shares_at_least",
]
