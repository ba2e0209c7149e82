"""Greedy and blockwise decoding side by side: quality, calls and time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text
from torchmetrics import Metric

from lightning_bpd.codecs.codec import Codec
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.files import whole_file
from lightning_bpd.interfaces import DecodeResult, InputError
from lightning_bpd.measuring.record import Arm
from lightning_bpd.measuring.words import KINDS, QUALITIES, Quality
from lightning_bpd.metrics import equal_rows
from lightning_bpd.saved.finished_model import GenerativeModel
from lightning_bpd.timing import timed

# Batches after which the arms take turns, so that none has the machine's good or bad minutes to itself.
TURN = 16
WARM_UP = 3


def compare_decoders(
    model: GenerativeModel,
    sources: Sequence[Any],
    references: Sequence[Any],
    rules: Sequence[tuple[int, str]],
    batch_size: int = 1,
    progress: Callable[[int], None] | None = None,
    timing: bool = True,
    decode: DecodingOptions = DecodingOptions(),  # noqa: B008  # frozen
) -> list[Arm]:
    """Decode the same rows greedily and by each rule, in turns.

    Args:
        model: A ``Translator`` or an ``Upscaler``, with block heads where there are rules.
        sources: Text, or small images uint8 [N, h, w, C].
        references: What they should become: text, or images uint8 [N, H, W, C].
        rules: Block size and acceptance of each arm after greedy decoding.
        batch_size: Rows decoded together.
        progress: Called with the number of rows done.
        timing: Whether the time is taken, for which some batches are decoded twice, to warm up.
        decode: The limits of length, and the sampler.

    Returns:
        Greedy decoding first, then an arm a rule.

    Raises:
        InputError: The model has no heads, or not of this block size, or there is nothing to decode.
    """
    if not len(references):
        raise InputError(f"there are no {KINDS[model.codec.kind].rows} to compare decoders on")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    options = [replace(decode, decoder="greedy")]
    options += [
        model.check(replace(decode, decoder="blockwise", block_size=size, acceptance=acceptance))
        for size, acceptance in rules
    ]
    batches = list(model.batches(sources, batch_size))
    arms_so_far = partial(_Sums, model.codec, references)
    sums = [arms_so_far(1, "exact", greedy=True), *(arms_so_far(*rule) for rule in rules)]
    for first in range(0, len(batches), TURN):
        turn = batches[first : first + TURN]
        plain: list[DecodeResult] = []
        for of_arm, each in zip(sums, options, strict=True):
            if timing:
                for _, source in batches[:WARM_UP] if first == 0 else turn[:1]:
                    model.decode(source, each)
            for number, (places, source) in enumerate(turn):
                result, nanoseconds = timed(partial(model.decode, source, each), model.device)
                if of_arm is sums[0]:
                    plain.append(result)
                of_arm.add(places, result, plain[number], nanoseconds)
        if progress is not None:
            progress(sum(len(places) for places, _ in turn))
    arms = [of_arm.arm() for of_arm in sums]
    return (
        with_times(arms, [of_arm.nanoseconds / 1e9 / len(references) for of_arm in sums]) if timing else arms
    )


def with_times(arms: Sequence[Arm], seconds: Sequence[float | None]) -> list[Arm]:
    """The arms with wall-clock seconds a row, and speed-ups over the first, greedy decoding."""
    greedy = seconds[0]
    return [
        replace(arm, seconds=each, speed_up=None if each is None or greedy is None else greedy / each)
        for arm, each in zip(arms, seconds, strict=True)
    ]


class _Sums:
    """What came of the batches of one arm so far, in the order of the rows."""

    def __init__(
        self, codec: Codec, references: Sequence[Any], size: int, acceptance: str, greedy: bool = False
    ) -> None:
        count = len(references)
        self.codec, self.references = codec, references
        self.size, self.acceptance, self.greedy = size, acceptance, greedy
        self.quality, self.to_greedy = self.codec.quality(), self.codec.quality()
        for metric in (*self.quality.values(), *self.to_greedy.values()):
            # These rows are decoded by this process alone: other ranks have nothing to add, and would be waited for.
            metric.distributed_available_fn = lambda: False
        self.rows: dict[str, list[Any]] = {}
        self.tokens, self.iterations, self.sizes = [0] * count, [0] * count, [0] * size
        self.calls = self.same = self.nanoseconds = 0

    def add(self, places: Sequence[int], result: DecodeResult, plain: DecodeResult, nanoseconds: int) -> None:
        """Add a batch that greedy decoding made ``plain`` of."""
        outputs = self.codec.decode(result.rows())
        references = [self.references[place] for place in places]
        for metric in self.quality.values():
            metric.update(outputs, references)
        if self.codec.ordinal:
            greedy_outputs = self.codec.decode(plain.rows())
            for metric in self.to_greedy.values():
                metric.update(outputs, greedy_outputs)
        for name, values in _of_rows(self.codec, outputs, references).items():
            of_all = self.rows.setdefault(name, [None] * len(self.references))
            for place, value in zip(places, values, strict=True):
                of_all[place] = value
        accepted = (
            [[1] * length for length in result.lengths.tolist()]
            if result.accepted is None
            else [[size for size in row if size] for row in result.accepted.tolist()]
        )
        for place, length, blocks in zip(places, result.lengths.tolist(), accepted, strict=True):
            self.tokens[place], self.iterations[place] = length, len(blocks)
            for block in blocks:
                self.sizes[block - 1] += 1
        self.same += int(equal_rows(result, plain).sum())
        self.calls += int(result.calls.sum())
        self.nanoseconds += nanoseconds

    def arm(self) -> Arm:
        """What all batches come to, without times."""
        count = len(self.references)
        return Arm(
            decoder="greedy" if self.greedy else "blockwise",
            block_size=self.size,
            acceptance=self.acceptance,
            quality=_values(self.quality),
            to_greedy=_values(self.to_greedy) if self.codec.ordinal else None,
            calls=self.calls / count,
            mean_accepted_block_size=sum(self.tokens) / sum(self.iterations),
            greedy_agreement=self.same / count,
            seconds=None,
            speed_up=None,
            tokens=self.tokens,
            iterations=self.iterations,
            accepted_sizes=self.sizes,
            **self.rows,
        )


def _values(metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    """The values of the metrics; None for the infinite PSNR of equal images, which JSON cannot hold."""
    values = {name: float(metric.compute()) for name, metric in metrics.items()}
    return {name: None if math.isinf(value) else value for name, value in values.items()}


def _of_rows(codec: Codec, outputs: Sequence[Any], references: Sequence[Any]) -> dict[str, list[Any]]:
    """What the quality of any of these rows can be computed from again, one a row, by name."""
    if codec.kind == "text":
        return {"outputs": list(outputs)}
    # Not above: text would wait for what metrics of images import.
    from lightning_bpd.metrics.images import squared_error, ssim

    pairs = zip(outputs, references, strict=True)
    rows: dict[str, list[Any]] = {
        "squared_errors": [squared_error([output], [reference]) for output, reference in pairs]
    }
    if "ssim" in codec.quality():
        rows["ssims"] = ssim(outputs, references)
    return rows


def comparison_table(arms: Sequence[Arm], title: str) -> Table:
    """The arms as a table, calls and times by row; speed-ups are over the first, greedy decoding."""
    qualities = [(name, QUALITIES[name]) for name in arms[0].quality]
    _, principal_quality = qualities[0]
    nearness = arms[0].to_greedy is not None
    columns = (
        "",
        *(quality.title for _, quality in qualities),
        f"{principal_quality.label} to greedy" if nearness else "same as greedy",
        *("calls", "mean accepted block size", "ms", "speed-up"),
    )
    # Of 80 characters that a terminal has, more columns leave none for space on both sides.
    table = Table(title=title, title_justify="left", collapse_padding=nearness)
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=not column)
    for number, arm in enumerate(arms):
        table.add_row(
            Text(f"k = {arm.block_size}, {arm.acceptance}" if number else "greedy"),
            *(_shown(arm.quality[name], quality) for name, quality in qualities),
            _shown(arm.to_greedy[qualities[0][0]], qualities[0][1])
            if arm.to_greedy is not None
            else f"{arm.greedy_agreement:.1%}",
            f"{arm.calls:.2f}",
            f"{arm.mean_accepted_block_size:.2f}",
            "" if arm.seconds is None else f"{arm.seconds * 1000:.1f}",
            "" if arm.speed_up is None else f"{arm.speed_up:.2f}",
        )
    return table


def _shown(value: float | None, quality: Quality) -> str:
    return "equal" if value is None else f"{value:.{quality.digits}f}"


def draw_comparison(arms: Sequence[Arm], picture: Path) -> None:
    """Mean accepted block size and wall-clock speed-up against block size, as a PNG file.

    The first arm is greedy, and all are timed.
    """
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    sizes = [arm.block_size for arm in arms[1:]]
    axes.plot(
        sizes, [arm.mean_accepted_block_size for arm in arms[1:]], "o-", label="mean accepted block size"
    )
    axes.plot(
        sizes,
        [arm.speed_up or math.nan for arm in arms[1:]],
        "s--",
        label="wall-clock speed-up over greedy",
    )
    axes.axhline(1.0, color="gray", lw=0.8)
    axes.set_xlabel("block size k'")
    axes.set_xticks(sizes)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with whole_file(picture, durable=False) as file:
        figure.savefig(file, dpi=120, format="png")
