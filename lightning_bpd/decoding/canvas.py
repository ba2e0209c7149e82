"""The canvas loop: fill grids of tokens pass by pass, several tokens in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_bpd.decoding.samplers import Greedy
from lightning_bpd.interfaces import (
    CanvasModel,
    DecodeResult,
    InputError,
    Plan,
    Sampler,
    TokenRows,
)
from lightning_bpd.orders import Groups, check_groups


@dataclass(frozen=True)
class FixedPlan:
    """Groups of cells, each predicted in one pass, all predictions kept: a Plan."""

    groups: Groups

    def positions(self, known: Tensor, number: int) -> Tensor | None:
        """Return the cells of group ``number`` for each row, int64 [B, Q] (Plan.positions)."""
        if number >= len(self.groups):
            return None
        return torch.tensor(self.groups[number], device=known.device).expand(len(known), -1)

    def keep(self, tokens: Tensor, logits: Tensor, number: int) -> Tensor:
        """Keep all (Plan.keep)."""
        return torch.ones_like(tokens, dtype=torch.bool)


def fixed_plan(groups: Groups, model: CanvasModel) -> FixedPlan:
    """Return a plan for a model's canvas. Raises InputError if the groups leave out or repeat a cell."""
    cells = 1
    for side in model.grid:
        cells *= side
    return FixedPlan(check_groups(groups, cells))


@torch.inference_mode()
def fill(
    model: CanvasModel,
    plan: Plan,
    source: TokenRows,
    sampler: Sampler = Greedy(),  # noqa: B008  # frozen
    rows: Tensor | None = None,
    report: Callable[[int], Any] = lambda passes: None,
) -> DecodeResult:
    """Fill one canvas for each source.

    A token is chosen with the noise of its own cell, its position in raster order. So a plan of one cell a pass in
    raster order gives what decoding one token per call gives, and the same seed gives related samples by all plans.

    Args:
        model: Predicts the cells of a pass; in eval mode.
        plan: Tells which cells each pass predicts, and which predictions stay.
        source: What to generate, such as labels, int64 [B, S] and [B].
        sampler: Chooses each token; the most probable one by default.
        rows: int64 [B], the number of each row, which selects its noise; 0..B-1 by default.
        report: Is told of each pass that is done.

    Raises:
        InputError: The plan leaves out or repeats a cell, or the model was not trained for it, or for plans that keep
            only some of their predictions.
    """
    device = source.tokens.device
    count, cells = len(source.tokens), 1
    for side in model.grid:
        cells *= side
    canvas = torch.full((count, cells), -1, dtype=torch.long, device=device)
    fixed = canvas.clone()
    numbers = torch.arange(count, device=device) if rows is None else rows
    state = model.begin(source)
    number = 0
    while (positions := plan.positions(fixed >= 0, number)) is not None:
        logits = model.predict(canvas, positions, state)
        queries = positions.size(1)
        # A sampler takes consecutive positions of a row, so each cell is a row of its own.
        tokens = sampler.choose(
            logits.flatten(0, 1)[:, None], positions.flatten(), numbers.repeat_interleave(queries)
        ).view(count, queries)
        kept = plan.keep(tokens, logits, number)
        if bool((fixed.gather(1, positions)[kept] >= 0).any()):
            raise InputError(f"pass {number} of the plan repeats cells that were filled: give each cell once")
        canvas.scatter_(1, positions, torch.where(kept, tokens, canvas.gather(1, positions)))
        fixed.scatter_(1, positions, torch.where(kept, number, fixed.gather(1, positions)))
        number += 1
        report(1)
    if bool((fixed < 0).any()):
        raise InputError(
            f"the plan leaves out {int((fixed[0] < 0).sum())} of {cells} cells: give each cell once"
        )
    lengths = torch.full((count,), cells, device=device)
    return DecodeResult(canvas, lengths, None, torch.full_like(lengths, number), passes=fixed)
