"""Data for training and evaluation: text files or images in, batches of token ids out."""

from lightning_bpd.datamodules.demo import DemoText
from lightning_bpd.datamodules.images import Digits, Images
from lightning_bpd.datamodules.labelled_images import LabelledDigits, LabelledImages
from lightning_bpd.datamodules.parallel_text import ParallelText
from lightning_bpd.datamodules.prompts import Prompts

__all__ = ["DemoText", "Digits", "Images", "LabelledDigits", "LabelledImages", "ParallelText", "Prompts"]
