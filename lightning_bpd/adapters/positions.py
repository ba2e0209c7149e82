"""Positions for each row by itself, in decoders that count them from the length of their cache.

Encoder-decoder families take no positions. What they do with a position happens in a module of its own, and there
the row's own position is put in the place of the cache's length, by hooks that stand for the time of one call.
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
    """The modules of a decoder that know positions.

    Args:
        decoder: The decoder's stack of layers.

    Attributes:
        limit: Positions that there are; None where there is no limit.
        known: Whether there are such modules, of a kind that can be told.
    """

    def __init__(self, decoder: nn.Module) -> None:
        # By name, so that a copy of the model has hooks on its own modules.
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
        """The decoder's next call has ``tokens`` (int64 [B, T]) at ``call.positions``."""
        handles: list[RemovableHandle] = []
        try:
            for name, register in self._modules:
                handles += register(decoder.get_submodule(name), tokens, call)
            yield
        finally:
            for handle in handles:
                handle.remove()


def position_limit(stack: nn.Module) -> int | None:
    """How many positions the table of an encoder or decoder has; None where it has none or one that grows."""
    table = getattr(stack, "embed_positions", None)
    if not isinstance(table, nn.Embedding):
        return None
    return table.num_embeddings - getattr(table, "offset", 0)


def _told(table: Any, tokens: Tensor, call: Slots) -> list[RemovableHandle]:
    """A table that can be asked for any positions: Marian, BART, mBART, Pegasus and their kin."""
    # A block may stick out over the last position. What does is dropped by decoding, and may have any.
    positions = call.positions.clamp(max=table.num_embeddings - getattr(table, "offset", 0) - 1)

    def ask(module: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, {**named, "position_ids": positions}

    def shape(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        # BART's puts a dimension before positions that it takes to be [T].
        return output.reshape(*positions.shape, -1)

    return [table.register_forward_pre_hook(ask, with_kwargs=True), table.register_forward_hook(shape)]


def _counted(table: Any, tokens: Tensor, call: Slots) -> list[RemovableHandle]:
    """Sinusoids at positions counted among tokens that are not padding: M2M100 and NLLB.

    In a call over several tokens the family would not count padding among them, one token a call it does. Each is
    treated here as if it came alone, as when ``generate`` feeds it.
    """

    def alone(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        before = call.positions.expand_as(tokens).reshape(-1, 1)
        places = table.create_position_ids_from_input_ids(tokens.reshape(-1, 1), table.padding_idx, before)
        return table.weights[places.view_as(tokens)]

    return [table.register_forward_hook(alone)]


def _relative(attention: Any, tokens: Tensor, call: Slots) -> list[RemovableHandle]:
    """A bias of attention scores by the distance between two tokens: T5 and its kin."""
    if call.start is not None:  # then the family's own count is right
        return []

    def ask(module: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        last = call.extent - 1
        # The bias of one token at the last position: entry last - d is that of distance d.
        by_distance = attention.compute_bias(1, call.extent, past_seen_tokens=last)[0, :, 0]
        keys = torch.arange(call.extent, device=call.positions.device)
        distance = (call.positions[:, :, None] - keys).clamp(min=0)
        return arguments, {**named, "position_bias": by_distance[:, last - distance].transpose(0, 1)}

    return [attention.register_forward_pre_hook(ask, with_kwargs=True)]
