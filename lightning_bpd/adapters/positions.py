"""Positions of each row, in decoders that count positions from the length of their cache.

Encoder-decoder families take no positions as arguments. One module of each family handles positions. Hooks on this
module replace the cache's length by each row's own positions, for one call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_bpd.rows import Slots

Register = Callable[[Any, Tensor, Slots], list[RemovableHandle]]


class RowPositions:
    """The modules of a decoder that handle positions.

    Args:
        decoder: The decoder's stack of layers.

    Attributes:
        limit: Number of positions; None for no limit.
        known: Whether the decoder has such modules, of a known kind.
    """

    def __init__(self, decoder: nn.Module) -> None:
        # Stored by name, so that a copy of the model puts hooks on its own modules.
        self._modules: list[tuple[str, Register]] = []
        self.limit = position_limit(decoder)
        table = getattr(decoder, "embed_positions", None)
        if isinstance(table, nn.Module):
            if "position_ids" in inspect.signature(table.forward).parameters:
                self._modules.append(("embed_positions", _told))
            elif hasattr(table, "create_position_ids_from_input_ids") and hasattr(table, "weights"):
                self._modules.append(("embed_positions", _counted))
        for name, module in decoder.named_modules():
            if getattr(module, "has_relative_attention_bias", False) and hasattr(module, "compute_bias"):
                self._modules.append((name, _relative))
        self.known = bool(self._modules)

    @contextmanager
    def of(self, decoder: nn.Module, tokens: Tensor, call: Slots) -> Iterator[None]:
        """Put ``tokens`` (int64 [B, T]) at ``call.positions`` in the decoder's next call."""
        handles: list[RemovableHandle] = []
        try:
            for name, register in self._modules:
                handles += register(decoder.get_submodule(name), tokens, call)
            yield
        finally:
            for handle in handles:
                handle.remove()


def position_limit(stack: nn.Module) -> int | None:
    """Return the size of an encoder's or decoder's table of positions; None if it has no table or a growing one."""
    table = getattr(stack, "embed_positions", None)
    if not isinstance(table, nn.Embedding):
        return None
    return table.num_embeddings - getattr(table, "offset", 0)


def _told(table: Any, tokens: Tensor, call: Slots) -> list[RemovableHandle]:
    """Hook a table that takes ``position_ids``: Marian, BART, mBART, Pegasus and similar families."""
    # A block may extend past the last position. Decoding drops these tokens, so they may have any position.
    positions = call.positions.clamp(max=table.num_embeddings - getattr(table, "offset", 0) - 1)

    def ask(module: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, {**named, "position_ids": positions}

    def shape(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        # BART's table adds a dimension, because it expects positions of shape [T].
        return output.reshape(*positions.shape, -1)

    return [table.register_forward_pre_hook(ask, with_kwargs=True), table.register_forward_hook(shape)]


def _counted(table: Any, tokens: Tensor, call: Slots) -> list[RemovableHandle]:
    """Hook sinusoids whose positions do not count padding tokens: M2M100 and NLLB.

    In a call over several tokens the family does not count padding tokens, in calls over one token it does. The hook
    treats each token as if it were fed alone, as by ``generate``.
    """

    def alone(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        before = call.positions.expand_as(tokens).reshape(-1, 1)
        positions = table.create_position_ids_from_input_ids(tokens.reshape(-1, 1), table.padding_idx, before)
        return table.weights[positions.view_as(tokens)]

    return [table.register_forward_hook(alone)]


def _relative(attention: Any, tokens: Tensor, call: Slots) -> list[RemovableHandle]:
    """Hook a bias of attention scores that depends on the distance between two tokens: T5 and similar families."""
    if call.start is not None:  # the family's own count is right
        return []

    def ask(module: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        last = call.extent - 1
        # The bias of one token at the last position: entry last - d belongs to distance d.
        by_distance = attention.compute_bias(1, call.extent, past_seen_tokens=last)[0, :, 0]
        keys = torch.arange(call.extent, device=call.positions.device)
        distance = (call.positions[:, :, None] - keys).clamp(min=0)
        return arguments, {**named, "position_bias": by_distance[:, last - distance].transpose(0, 1)}

    return [attention.register_forward_pre_hook(ask, with_kwargs=True)]
