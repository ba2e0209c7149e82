"""One pass over a corpus that is decoded both greedily and by blocks."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lightning_bpd.callbacks.decode_traces import Iteration, some_rows, trace
from lightning_bpd.decoding import DecodingOptions, decode, replay
from lightning_bpd.interfaces import (
    DecodeResult,
    Drafter,
    ParallelBatch,
    ReplayableDrafter,
    SequenceModel,
    TokenRows,
)
from lightning_bpd.measuring.arms import ArmSums, Batch, decode_turn, greedy_options
from lightning_bpd.metrics import AcceptedSizes, mean_accepted_block_size

if TYPE_CHECKING:
    from lightning_bpd.training.blocks import HeadTraining

Stage = Literal["val", "test"]
Part = Literal["validation", "test"]
PARTS: dict[Stage, Part] = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class BlockRule:
    """One way to decode by blocks.

    It is checked at its first use, because jsonargparse would replace our message with its own.

    Args:
        block_size: Tokens of a block; the number of heads if not given.
        acceptance: The rule by which p_1 accepts tokens, such as exact, adaptive, top-2 or minimum-2.
    """

    block_size: int | None = None
    acceptance: str = "exact"

    def options(self, decode: DecodingOptions) -> DecodingOptions:
        """The rule, with the sampler and limits of ``decode``. Raises InputError if it is invalid with any heads."""
        size, acceptance = self.block_size, self.acceptance
        return replace(greedy_options(decode), decoder="blockwise", block_size=size, acceptance=acceptance)


@dataclass(eq=False)
class Measurement:
    """One pass over the rows of a corpus."""

    stage: Stage
    rules: list[ArmSums]
    """ways to decode, after greedy decoding"""
    trained: int
    """the largest block size that the heads propose"""
    rows: Container[int]
    """indices in the corpus of the rows to measure"""
    traced: list[int]
    """indices in the corpus of the rows to trace under the first rule"""
    module: HeadTraining

    def __post_init__(self) -> None:
        options, device = greedy_options(self.module.decode), self.module.device
        self.greedy = ArmSums(options, self.trained, self.module.data.codec, device, scored=False)
        self.replayed = [AcceptedSizes(size).to(device) for size in range(1, self.trained + 1)]
        self.traces: dict[int, list[Iteration]] = {}
        """traces of this rank, by the row's index in the corpus"""

    @cached_property
    def decoder(self) -> tuple[SequenceModel[Any], Drafter]:
        """p_1 and the drafter. Made at the first batch, because averaged weights are loaded only by then."""
        return self.module.block_decoder()

    def warm_up(self, batch: ParallelBatch) -> None:
        """Decode once without measuring, because the first decoding is slower than all others."""
        whole = Batch(batch.source, batch.index, [])
        decode_turn(self._decode, [self.greedy, self.rules[0]], [], self.module.device, [whole])

    def add(self, batch: ParallelBatch) -> None:
        """Decode a batch greedily and by each rule, and trace the chosen rows."""
        kept = [position for position, row in enumerate(batch.index.tolist()) if row in self.rows]
        if not kept:
            return
        source, index = some_rows(batch.source, kept), batch.index[kept].tolist()
        references, device = self.module.data.references(PARTS[self.stage]), self.module.device
        numbers = torch.tensor(index, device=device)
        measured = Batch(source, numbers, [references[row] for row in index])
        (greedy,) = decode_turn(self._decode, [self.greedy, *self.rules], [measured], device)
        (model, drafter), sampler = self.decoder, self.module.decode.sampler
        if isinstance(drafter, ReplayableDrafter):
            accepted = replay(model, drafter, source, greedy, self.trained, sampler, numbers)
            for sizes, of_size in zip(self.replayed, accepted, strict=True):
                sizes.update(of_size)
        for position, row in enumerate(index):
            if row in self.traced:
                alone, number = some_rows(source, [position]), numbers[position : position + 1]
                self.traces[row] = trace(model, drafter, alone, self.rules[0].options, number)

    def values(self) -> dict[str, float]:
        """The values to log, by name; they are equal on all ranks. All ranks must call this."""
        found = {}
        for rule in self.rules:
            mean = mean_accepted_block_size(rule.sizes.compute())
            if rule is self.rules[0]:
                found[f"{self.stage}/mean_accepted_block_size"] = mean
            measured = {"mean_accepted_block_size": mean}
            measured |= {name: float(metric.compute()) for name, metric in rule.quality.items()}
            measured |= rule.comparison.compute()._asdict()
            found |= {f"{self.stage}/{rule.label}/{name}": value for name, value in measured.items()}
        for sizes in self.replayed if isinstance(self.decoder[1], ReplayableDrafter) else ():
            # A resumed validation may have no rows to decode.
            if (counts := sizes.compute()).any():
                name = f"{self.stage}/replay/mean_accepted_block_size_k{sizes.block_size}"
                found[name] = mean_accepted_block_size(counts)
        return found

    def _decode(self, source: TokenRows, options: DecodingOptions, numbers: Tensor) -> DecodeResult:
        model, drafter = self.decoder
        return decode(model, source, options, drafter, numbers)
