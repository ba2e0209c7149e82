"""The contract of a network that can be trained and stored (floor 0)."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_bpd.interfaces import InputError, Reading, TokenRows, Vocabularies


class NetworkShape(ABC):
    """The shape of a network; a subclass is a frozen dataclass of plain data, which configurations name by class_path.

    A finished model stores the name of the class and its fields, beside the weights of what ``build`` makes.
    """

    kind: ClassVar[str] = "text"
    """the kind of data that the network is for, by the name that codecs give it"""
    d_model: int
    """width of the hidden states"""
    feed_forward: int
    """hidden units of the feed-forward layers, from which the size of block heads follows"""

    @property
    def layers(self) -> int:
        """The least number of tensors among the weights; a damaged file may ask for more layers than memory holds."""
        return 0

    @abstractmethod
    def build(self, vocabularies: Vocabularies) -> Network:
        """Make a network for these vocabularies, with random weights."""


class Network(nn.Module, ABC):
    """A SequenceModel with parameters.

    Attributes:
        architecture: The NetworkShape that it was built from; of a Hugging Face model its widths.
        bos_id: The token that is fed as the first token of every row.
        ends: Vocabularies that end a row.
        vocabularies: What it was built for; None for a Hugging Face model, whose tokenizer may have fewer tokens.
        output_bias: The bias of the logits, [V], or None.
        returned_layers: Numbers of the decoder layers, from 1, whose outputs follow each hidden state in the last
            dimension, for a drafter that reads them; ``project`` uses the first D elements only.
    """

    of_hugging_face: ClassVar[bool] = False
    """whether it is a Hugging Face model behind an adapter"""
    architecture: Any
    bos_id: int
    ends: frozenset[int]
    vocabularies: Vocabularies | None = None
    output_bias: Tensor | None
    compiles: ClassVar[bool] = False
    """whether its state is a StaticState, and its calls can be compiled"""
    returned_layers: tuple[int, ...] = ()
    returnable_layers: int = 0
    """how many decoder layers, from the first on, can be returned"""

    @property
    @abstractmethod
    def output_weight(self) -> Tensor:
        """The vocabulary projection, [V, D]."""

    @property
    def logit_cap(self) -> float | None:
        """The value that logits approach and never exceed; None if ``project`` is a product and a bias alone."""
        return None

    @property
    @abstractmethod
    def max_length(self) -> int | None:
        """The longest target row, in tokens; None for no limit."""

    @property
    def longest_source(self) -> int | None:
        """The longest source row, in tokens; None for no limit."""
        return self.max_length

    def return_layers(self, layers: Sequence[int]) -> None:
        """Set ``returned_layers``.

        Raises:
            InputError: The network has no such layers, or cannot return them.
        """
        if wrong := [layer for layer in layers if not 1 <= layer <= self.returnable_layers]:
            may = f"choose from 1 to {self.returnable_layers}" if self.returnable_layers else "leave them out"
            raise InputError(
                f"base_layers {wrong}: this base cannot return the outputs of these layers; {may}"
            )
        self.returned_layers = tuple(layers)

    def with_layers(self, hidden: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Append to hidden states [B, T, D] what ``returned_layers`` names of the outputs of layers 1, 2, ..."""
        if not self.returned_layers:
            return hidden
        return torch.cat((hidden, *(outputs[layer - 1] for layer in self.returned_layers)), -1)

    def forward(self, source: TokenRows, target: Tensor) -> Tensor:
        """Return hidden states [B, T, D] for whole decoder inputs (int64 [B, T], starting with the start token)."""
        return self.read(source, target).hidden

    @abstractmethod
    def read(self, source: TokenRows, target: Tensor) -> Reading:
        """Compute what ``forward`` returns, and the encoded source."""

    @abstractmethod
    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> Any:
        """Encode each source once and preallocate the cache (SequenceModel.start)."""

    @abstractmethod
    def step(self, tokens: Tensor, state: Any) -> Tensor:
        """Append tokens (int64 [B, T]) to each row; return hidden states [B, T, D] (SequenceModel.step)."""

    @abstractmethod
    def project(self, hidden: Tensor) -> Tensor:
        """Project hidden states [..., D] to logits [..., V] (SequenceModel.project)."""


def fingerprint(network: nn.Module, types: Mapping[torch.dtype, torch.dtype] | None = None) -> str:
    """Twelve hexadecimal digits that tell networks apart: of the names, shapes and values of all weights.

    Weights of a type in ``types`` count as if they were of the type that it names.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        tensor = tensor.to((types or {}).get(tensor.dtype, tensor.dtype))
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
