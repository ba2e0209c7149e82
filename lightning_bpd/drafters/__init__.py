"""Drafters: block heads, and a small Transformer; their targets, losses and proposals."""

from lightning_bpd.drafters.block_heads import BlockHeads, HeadShape
from lightning_bpd.drafters.head_drafter import FirstHead, HeadDrafter
from lightning_bpd.drafters.losses import HeadLosses, head_losses
from lightning_bpd.drafters.module import Base, TrainedDrafter
from lightning_bpd.drafters.parallel import ParallelDraft, ParallelDrafter
from lightning_bpd.drafters.shape import DrafterShape
from lightning_bpd.drafters.targets import shifted_targets

__all__ = [
    "Base",
    "BlockHeads",
    "DrafterShape",
    "FirstHead",
    "HeadDrafter",
    "HeadLosses",
    "HeadShape",
    "ParallelDraft",
    "ParallelDrafter",
    "TrainedDrafter",
    "head_losses",
    "shifted_targets",
]
