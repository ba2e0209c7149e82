"""LightningModules."""

from lightning_bpd.training.base import BaseTraining
from lightning_bpd.training.frozen import FrozenBaseHeadDistillation
from lightning_bpd.training.joint import JointFineTuning

__all__ = ["BaseTraining", "FrozenBaseHeadDistillation", "JointFineTuning"]
