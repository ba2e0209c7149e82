"""Metrics: pure functions and torchmetrics shells around them."""

from lightning_bpd.metrics.bleu import CorpusBleu, bleu_score, bleu_signature, bleu_statistics
from lightning_bpd.metrics.token_loss import Perplexity, TokenLoss

__all__ = ["CorpusBleu", "Perplexity", "TokenLoss", "bleu_score", "bleu_signature", "bleu_statistics"]
