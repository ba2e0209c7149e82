"""LightningModules."""

from lightning_bpd.training.autoregressive import BaseTraining
from lightning_bpd.training.frozen_heads import FrozenBaseHeadDistillation
from lightning_bpd.training.image_generation import ImageGeneration
from lightning_bpd.training.image_tokenizer import TokenizerTraining
from lightning_bpd.training.joint import JointFineTuning
from lightning_bpd.training.module import DecoderTraining

__all__ = [
    "BaseTraining",
    "DecoderTraining",
    "FrozenBaseHeadDistillation",
    "ImageGeneration",
    "JointFineTuning",
    "TokenizerTraining",
]
