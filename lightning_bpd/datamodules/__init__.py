"""Data for training and evaluation: text files in, batches of token ids out."""

from lightning_bpd.datamodules.demo.text import DemoText
from lightning_bpd.datamodules.parallel_text import ParallelText

__all__ = ["DemoText", "ParallelText"]
