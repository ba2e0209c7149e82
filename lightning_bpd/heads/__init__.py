"""Block heads: the layer, what it is trained to predict, its losses, and its proposals."""

from lightning_bpd.heads.block_heads import BlockHeads, HeadShape
from lightning_bpd.heads.drafter import FirstHead, HeadDrafter
from lightning_bpd.heads.losses import HeadLosses, head_losses
from lightning_bpd.heads.targets import shifted_targets

__all__ = [
    "BlockHeads",
    "FirstHead",
    "HeadDrafter",
    "HeadLosses",
    "HeadShape",
    "head_losses",
    "shifted_targets",
]
