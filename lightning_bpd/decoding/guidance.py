"""Classifier-free guidance as a model around another one, for both decoding loops (Ho and Salimans 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_bpd.interfaces import InputError, Memory, TokenRows


class GuidedState:
    """The state of a model with every row twice: with its class, and without."""

    def __init__(self, inner: Any, count: int) -> None:
        self.inner, self._count = inner, count

    @property
    def memory(self) -> Memory:
        """What the model computed of the sources with their classes."""
        return Memory(self.inner.memory.states[: self._count], None)

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tokens in each row's cache."""
        return self.inner.lengths[: self._count]

    def rewind(self, lengths: Tensor) -> None:
        """Forget the tokens of each row past ``lengths[b]`` (int64 [B])."""
        self.inner.rewind(lengths.repeat(2))

    def reorder(self, rows: Tensor) -> None:
        """Replace row i by row ``rows[i]`` (int64 [B'])."""
        self.inner.reorder(torch.cat((rows, rows + self._count)))
        self._count = len(rows)


class Guided:
    """A SequenceModel and CanvasModel whose logits are u + scale (c - u): c with the class of a row, u without.

    Args:
        model: A model whose source is a class, and which was trained with hidden classes.
        scale: 1 is the model itself; more follows the class more closely, and varies less.

    Raises:
        InputError: The scale is negative.
    """

    def __init__(self, model: Any, scale: float) -> None:
        if not 0 <= scale < float("inf"):
            raise InputError(f"guidance is {scale}: it must be 0 or more; 1 is none")
        self.model, self.scale = model, scale
        self.bos_id, self.ends, self.max_length = model.bos_id, model.ends, model.max_length
        self.grid, self.groups = model.grid, model.groups

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> GuidedState:
        """Begin each row twice (SequenceModel.start)."""
        if rows is not None:
            source = TokenRows(source.tokens[rows], source.lengths[rows])
        return GuidedState(self.model.start(self._twice(source), None, max_length), len(source.lengths))

    def step(self, tokens: Tensor, state: GuidedState) -> Tensor:
        """Append tokens (int64 [B, T]); return both hidden states side by side (SequenceModel.step)."""
        return torch.cat(self.model.step(tokens.repeat(2, 1), state.inner).chunk(2), -1)

    def project(self, hidden: Tensor) -> Tensor:
        """Project hidden states [..., 2 D] to guided logits [..., V] (SequenceModel.project)."""
        return self._guided(*map(self.model.project, hidden.chunk(2, -1)))

    def begin(self, source: TokenRows) -> GuidedState:
        """Start two canvases for each source (CanvasModel.begin)."""
        return GuidedState(self.model.begin(self._twice(source)), len(source.lengths))

    def predict(self, canvas: Tensor, positions: Tensor, state: GuidedState) -> Tensor:
        """Predict the cells of one pass (CanvasModel.predict)."""
        logits = self.model.predict(canvas.repeat(2, 1), positions.repeat(2, 1), state.inner)
        return self._guided(*logits.chunk(2))

    def _twice(self, source: TokenRows) -> TokenRows:
        # The label after the last class is no class.
        none = torch.full_like(source.tokens, self.model.vocabularies.source_vocabulary)
        return TokenRows(torch.cat((source.tokens, none)), source.lengths.repeat(2))

    def _guided(self, with_class: Tensor, without: Tensor) -> Tensor:
        return without + self.scale * (with_class - without)


def guided(model: Any, scale: float) -> Any:
    """Return the model with guidance, or itself for a scale of 1. Raises InputError for a negative scale."""
    return model if scale == 1 else Guided(model, scale)
