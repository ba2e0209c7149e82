"""Block heads: the layer, its targets, its losses, and its proposals."""

from lightning_bpd.drafters.block_heads import BlockHeads, HeadShape
from lightning_bpd.drafters.head_drafter import FirstHead, HeadDrafter
from lightning_bpd.drafters.losses import HeadLosses, head_losses
from lightning_bpd.drafters.targets import shifted_targets

__all__ = [
    "BlockHeads",
    "FirstHead",
    "HeadDrafter",
    "HeadLosses",
    "HeadShape",
    "head_losses",
    "shifted_targets",
]
