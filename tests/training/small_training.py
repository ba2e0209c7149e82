"""What the tests of training share: a small corpus, a small network, a quiet trainer."""

import itertools
from pathlib import Path

import pytorch_lightning as pl
import torch

from lightning_bpd.datamodules import ParallelText
from lightning_bpd.interfaces import ParallelBatch
from lightning_bpd.saved.translation import pad
from tools.demo_corpus.sentences import sentence_pairs

SMALL = {"d_model": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 64}


def write_text(folder: Path) -> Path:
    """400 pairs to train on and 51 to validate on: an odd number, which a padding sampler would get wrong."""
    pairs = itertools.islice(sentence_pairs(seed=3), 451)
    for name, count in (("train", 400), ("val", 51)):
        part = list(itertools.islice(pairs, count))
        for language, side in (("en", 0), ("de", 1)):
            (folder / f"{name}.{language}").write_text("".join(pair[side] + "\n" for pair in part))
    return folder


def data(text: Path, batch_tokens: int = 256, **options) -> ParallelText:
    return ParallelText(str(text), **{"vocab_size": 600, "batch_tokens": batch_tokens, **options})


def trainer(**options) -> pl.Trainer:
    defaults = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False,
        "num_sanity_val_steps": 0, "max_epochs": 1, "gradient_clip_val": 1.0,
    }  # fmt: skip
    return pl.Trainer(**{**defaults, **options})


def join(batches):
    """Several batches as one, padded to the longest."""

    def rows(side):
        return [
            row[:length]
            for batch in batches
            for row, length in zip(
                getattr(batch, side).tokens.tolist(), getattr(batch, side).lengths.tolist(), strict=True
            )
        ]

    return ParallelBatch(pad(rows("source")), pad(rows("target")), torch.cat([b.index for b in batches]))
