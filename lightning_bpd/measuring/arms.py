"""The engine of every measurement: each batch is decoded by several arms in turn, and each arm sums up its results.

An arm is one way of decoding. The first arm is greedy decoding, with which the others are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_bpd.codecs.codec import Codec, check_decoding
from lightning_bpd.decoding import DecodingOptions, parse_acceptance
from lightning_bpd.interfaces import DecodeResult, TokenRows
from lightning_bpd.metrics import AcceptedSizes, GreedyComparison
from lightning_bpd.timing import timed

Decode = Callable[[TokenRows, DecodingOptions, Tensor], DecodeResult]
"""decodes sources by options; the tensor, int64 [B], numbers the rows in their corpus, which selects their noise"""
Timed = tuple[DecodeResult, int]
"""a result and its wall-clock nanoseconds"""


class Batch(NamedTuple):
    """Rows that are decoded together."""

    source: TokenRows
    numbers: Tensor
    """int64 [B], the position of each row in its corpus"""
    references: Sequence[Any]
    """what the outputs should be: text or images"""


def greedy_options(decode: DecodingOptions) -> DecodingOptions:
    """Greedy decoding with the sampler and the limits of length of other options."""
    return replace(decode.limits(), sampler=decode.sampler)


class ArmSums:
    """An arm and the sums over its batches. All sums are integers, so batches and ranks do not change a digit.

    Args:
        options: How the arm decodes.
        trained: The largest block size that the drafter proposes; None without a drafter.
        codec: The codec of the tokens.
        device: The device of the metrics.
        scored: Whether the quality of the outputs is measured.

    Raises:
        InputError: The options do not fit the drafter or the tokens.
    """

    def __init__(
        self,
        options: DecodingOptions,
        trained: int | None,
        codec: Codec,
        device: torch.device,
        scored: bool = True,
    ) -> None:
        check_decoding(options, trained, codec)
        self.block_size = 1 if options.decoder == "greedy" else options.block_size or trained or 1
        self.options = replace(options, block_size=self.block_size)
        self.acceptance = parse_acceptance(options.acceptance)
        self.label = f"k{self.block_size}_{self.acceptance.name}"
        self.codec = codec
        self.quality = {name: metric.to(device) for name, metric in codec.quality().items() if scored}
        self.sizes = AcceptedSizes(self.block_size).to(device)
        self.comparison = GreedyComparison().to(device)

    def add(self, batch: Batch, found: Timed, greedy: Timed) -> Sequence[Any]:
        """Add a batch: the result of this arm, and that of greedy decoding. Returns the outputs that were scored."""
        outputs = self.codec.decode(found[0].rows()) if self.quality else []
        for metric in self.quality.values():
            metric.update(outputs, batch.references)
        self.sizes.update(accepted_sizes(found[0]))
        self.comparison.update(found[0], greedy[0], found[1], greedy[1])
        return outputs


def decode_turn(
    decode: Decode,
    arms: Sequence[ArmSums],
    batches: Sequence[Batch],
    device: torch.device,
    warm_up: Sequence[Batch] = (),
) -> list[DecodeResult]:
    """Decode batches by every arm in turn, and add the results to the sums.

    Args:
        decode: Decodes with p_1 and its drafter.
        arms: Ways of decoding, greedy decoding first.
        batches: The rows to measure.
        device: The device that decodes.
        warm_up: Batches that each arm decodes before its turn, without measuring.

    Returns:
        The greedy result of each batch.
    """
    greedy: list[Timed] = []
    for arm in arms:
        for batch in warm_up:
            decode(batch.source, arm.options, batch.numbers)
        for place, batch in enumerate(batches):
            found = timed(partial(decode, batch.source, arm.options, batch.numbers), device)
            if arm is arms[0]:
                greedy.append(found)
            arm.add(batch, found, greedy[place])
    return [result for result, _ in greedy]


def accepted_sizes(result: DecodeResult) -> Tensor:
    """The accepted block size of each iteration, int64 [B, I], 0 after a row's last one; greedy decoding accepts 1."""
    if result.accepted is not None:
        return result.accepted
    positions = torch.arange(result.tokens.size(1), device=result.lengths.device)
    return (positions < result.lengths[:, None]).long()


def spread(items: list[int], count: int) -> list[int]:
    """At most ``count`` of ``items``, in order and evenly spaced."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
