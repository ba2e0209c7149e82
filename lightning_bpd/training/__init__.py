"""LightningModules."""

from lightning_bpd.training.base import BaseTraining

__all__ = ["BaseTraining"]
