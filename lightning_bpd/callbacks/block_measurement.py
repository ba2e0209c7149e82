"""One pass over a corpus that is decoded both greedily and by blocks."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from lightning_bpd.callbacks.decode_traces import Iteration, one_row, trace
from lightning_bpd.codecs.codec import Codec, check_decoding
from lightning_bpd.decoding import DecodingOptions, blockwise, parse_acceptance, replay, sequential
from lightning_bpd.interfaces import (
    DecodeResult,
    Drafter,
    ParallelBatch,
    ReplayableDrafter,
    SequenceModel,
    TokenRows,
)
from lightning_bpd.metrics import AcceptedSizes, GreedyComparison, mean_accepted_block_size
from lightning_bpd.timing import timed

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


def options_of(rule: BlockRule) -> DecodingOptions:
    """The rule as decoding options. Raises InputError for a rule that is invalid with any heads."""
    return DecodingOptions("blockwise", block_size=rule.block_size, acceptance=rule.acceptance)


class MeasuredData(Protocol):
    """The attributes of the data module that a measurement reads."""

    codec: Codec

    def sources(self, stage: Part) -> Sequence[Any]:
        """The sources in the order of the corpus; for text, raw source lines."""

    def references(self, stage: Part) -> Sequence[Any]:
        """The targets in the order of the corpus."""


class BlockModule(Protocol):
    """The attributes of a module with block heads that a measurement reads."""

    decode: DecodingOptions

    @property
    def data(self) -> MeasuredData:
        """The data module of the running trainer."""

    @property
    def device(self) -> torch.device:
        """The module's device."""

    def block_decoder(self) -> tuple[SequenceModel[Any], Drafter]:
        """p_1 and the drafter, ready to decode with the current weights."""


class MeasuredRule:
    """A rule and the metrics that one pass measures for it.

    Args:
        rule: The rule.
        trained: The largest block size that the heads propose.
        codec: The codec of the tokens.
        device: The device of the metrics.

    Raises:
        InputError: The rule does not fit the heads or the tokens.
    """

    def __init__(self, rule: BlockRule, trained: int, codec: Codec, device: torch.device) -> None:
        check_decoding(options_of(rule), trained, codec)
        self.block_size = trained if rule.block_size is None else rule.block_size
        self.acceptance = parse_acceptance(rule.acceptance)
        self.label = f"k{self.block_size}_{self.acceptance.name}"
        self.quality = {name: metric.to(device) for name, metric in codec.quality().items()}
        self.sizes = AcceptedSizes(self.block_size).to(device)
        self.comparison = GreedyComparison().to(device)


class Measurement:
    """One pass over the rows of a corpus.

    Args:
        stage: val or test.
        rules: Ways to decode.
        trained: The largest block size that the heads propose.
        rows: Indices in the corpus of the rows to measure.
        traced: Indices in the corpus of the rows to trace under the first rule.
        module: The module that is measured.
    """

    def __init__(
        self,
        stage: Stage,
        rules: list[MeasuredRule],
        trained: int,
        rows: Container[int],
        traced: list[int],
        module: BlockModule,
    ) -> None:
        self.stage = stage
        self.rules = rules
        self.trained = trained
        self.rows = rows
        self.traced = traced
        self.module = module
        self.replayed = [AcceptedSizes(size).to(module.device) for size in range(1, trained + 1)]
        self.traces: dict[int, list[Iteration]] = {}
        """traces of this rank, by the row's index in the corpus"""

    @cached_property
    def decoder(self) -> tuple[SequenceModel[Any], Drafter]:
        """p_1 and the drafter. Made at the first batch, because averaged weights are loaded only by then."""
        return self.module.block_decoder()

    def warm_up(self, batch: ParallelBatch) -> None:
        """Decode once without measuring, because the first decoding is slower than all others."""
        self._plain(batch.source, batch.index)
        self._blockwise(self.rules[0], batch.source, batch.index)

    def add(self, batch: ParallelBatch) -> None:
        """Decode a batch greedily and by each rule, and trace the chosen rows."""
        source, index = self._taken(batch)
        if not index:
            return
        data = self.module.data
        references = data.references(PARTS[self.stage])
        device, decode = self.module.device, self.module.decode
        numbers = torch.tensor(index, device=device)
        plain, plain_time = timed(partial(self._plain, source, numbers), device)
        for rule in self.rules:
            result, time_taken = timed(partial(self._blockwise, rule, source, numbers), device)
            assert result.accepted is not None
            outputs = data.codec.decode(result.rows())
            for metric in rule.quality.values():
                metric.update(outputs, [references[place] for place in index])
            rule.sizes.update(result.accepted)
            rule.comparison.update(result, plain, time_taken, plain_time)
        model, drafter = self.decoder
        if isinstance(drafter, ReplayableDrafter):
            accepted = replay(model, drafter, source, plain, self.trained, decode.sampler, numbers)
            for sizes, of_size in zip(self.replayed, accepted, strict=True):
                sizes.update(of_size)
        first = self.rules[0]
        for place, row in enumerate(index):
            if row in self.traced:
                alone, number = one_row(source, place), numbers[place : place + 1]
                size, accept, extra = first.block_size, first.acceptance, decode.extra(alone)
                self.traces[row] = trace(model, drafter, alone, size, accept, extra, decode.sampler, number)

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

    def _plain(self, source: TokenRows, numbers: Tensor) -> DecodeResult:
        decode = self.module.decode
        return sequential(self.decoder[0], source, decode.extra(source), decode.sampler, numbers)

    def _blockwise(self, rule: MeasuredRule, source: TokenRows, numbers: Tensor) -> DecodeResult:
        decode, size = self.module.decode, rule.block_size
        return blockwise(
            *self.decoder, source, size, rule.acceptance, decode.extra(source), decode.sampler, numbers
        )

    def _taken(self, batch: ParallelBatch) -> tuple[TokenRows, list[int]]:
        """The sources of the batch that are measured, and their indices in the corpus."""
        index = batch.index.tolist()
        kept = [place for place, row in enumerate(index) if row in self.rows]
        taken = [index[place] for place in kept]
        if len(kept) in (0, len(index)):
            return batch.source, taken
        lengths = batch.source.lengths[kept]
        return TokenRows(batch.source.tokens[kept, : int(lengths.max())], lengths), taken
