"""What a configuration says of a drafter that is not built yet."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_bpd.drafters.module import Base, TrainedDrafter


class DrafterShape(ABC):
    """The shape of a drafter; a subclass is a frozen dataclass of plain data, which configurations name by class_path.

    A finished model stores the name of the class and its fields, beside the weights of what ``build`` makes.
    """

    block_size: int
    """k, the most tokens of a block"""
    candidates: int | None
    """the most tokens that are proposed; None for all"""
    base_layers: list[int] | None = None
    """numbers of decoder layers of the base, from 1, whose outputs follow the hidden states that the drafter gets"""

    def loss_weights(self) -> list[float] | None:
        """Return the weight of each head 1..k in the loss if the user gives none; None if all count alike."""
        return None

    @abstractmethod
    def build(self, base: Base) -> TrainedDrafter:
        """Make a drafter for a base, with random weights."""
