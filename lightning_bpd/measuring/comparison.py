"""Greedy and blockwise decoding side by side: quality, calls and time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text
from torchmetrics import Metric

from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.files import whole_file
from lightning_bpd.interfaces import InputError, check_range
from lightning_bpd.measuring.arms import ArmSums, Batch, Timed, accepted_sizes, decode_turn, greedy_options
from lightning_bpd.measuring.record import Arm
from lightning_bpd.measuring.words import KINDS, QUALITIES, Quality
from lightning_bpd.metrics import mean_accepted_block_size
from lightning_bpd.saved.finished_model import GenerativeModel

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
        InputError: There is nothing to decode, or a rule does not fit the heads or the tokens.
    """
    if not len(references):
        raise InputError(f"there are no {KINDS[model.codec.kind].rows} to compare decoders on")
    check_range(1, batch_size=batch_size)
    options = [greedy_options(decode)]
    options += [
        replace(options[0], decoder="blockwise", block_size=size, acceptance=rule) for size, rule in rules
    ]
    arms = [_Rows(each, model.block_size, model.codec, model.device) for each in options]
    batches = [
        Batch(source, torch.tensor(rows, device=model.device), [references[row] for row in rows])
        for rows, source in model.batches(sources, batch_size)
    ]
    for first in range(0, len(batches), TURN):
        turn = batches[first : first + TURN]
        warm_up = batches[:WARM_UP] if first == 0 else turn[:1]
        decode_turn(model.decode, arms, turn, model.device, warm_up if timing else ())
        if progress is not None:
            progress(sum(len(batch.numbers) for batch in turn))
    seconds = [arm.comparison.nanoseconds / 1e9 / len(references) if timing else None for arm in arms]
    return with_times([arm.record() for arm in arms], seconds)


def with_times(arms: Sequence[Arm], seconds: Sequence[float | None]) -> list[Arm]:
    """The arms with wall-clock seconds a row, and speed-ups over the first, greedy decoding."""
    greedy = seconds[0]
    return [
        replace(arm, seconds=each, speed_up=None if each is None or greedy is None else greedy / each)
        for arm, each in zip(arms, seconds, strict=True)
    ]


class _Rows(ArmSums):
    """The sums of this process alone, and the results of each row."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.to_greedy = self.codec.quality() if self.codec.ordinal else {}
        self.rows: defaultdict[str, dict[int, Any]] = defaultdict(dict)
        for metric in (*self.quality.values(), *self.to_greedy.values(), self.sizes, self.comparison):
            # These rows are decoded by this process alone: other ranks have nothing to add, and would be waited for.
            metric.distributed_available_fn = lambda: False

    def add(self, batch: Batch, found: Timed, greedy: Timed) -> Sequence[Any]:
        """Add a batch, row by row."""
        outputs, (result, _) = super().add(batch, found, greedy), found
        for metric in self.to_greedy.values():
            metric.update(outputs, self.codec.decode(greedy[0].rows()))
        iterations = (accepted_sizes(result) > 0).sum(1)
        rows: dict[str, Sequence[Any]] = {
            "tokens": result.lengths.tolist(),
            "iterations": iterations.tolist(),
        }
        if self.codec.kind == "text":
            rows["outputs"] = outputs
        else:
            # Not above: text would wait for what metrics of images import.
            from lightning_bpd.metrics.images import squared_error, ssim

            pairs = zip(outputs, batch.references, strict=True)
            rows["squared_errors"] = [squared_error([output], [reference]) for output, reference in pairs]
            if "ssim" in self.quality:
                rows["ssims"] = ssim(outputs, batch.references)
        for name, values in rows.items():
            self.rows[name].update(zip(batch.numbers.tolist(), values, strict=True))
        return outputs

    def record(self) -> Arm:
        """What all batches come to, without times."""
        counts, comparison = self.sizes.compute(), self.comparison.compute()
        return Arm(
            decoder="greedy" if self.options.decoder == "greedy" else "blockwise",
            block_size=self.block_size,
            acceptance=self.options.acceptance,
            quality=_values(self.quality),
            to_greedy=_values(self.to_greedy) if self.to_greedy else None,
            calls=comparison.model_calls,
            mean_accepted_block_size=mean_accepted_block_size(counts),
            greedy_agreement=comparison.greedy_agreement,
            seconds=None,
            speed_up=None,
            accepted_sizes=counts[1:].tolist(),
            **{name: [value for _, value in sorted(rows.items())] for name, rows in self.rows.items()},
        )


def _values(metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    """The values of the metrics; None for the infinite PSNR of equal images, which JSON cannot hold."""
    values = {name: float(metric.compute()) for name, metric in metrics.items()}
    return {name: None if math.isinf(value) else value for name, value in values.items()}


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
    means = [arm.mean_accepted_block_size for arm in arms[1:]]
    speed_ups = [arm.speed_up or math.nan for arm in arms[1:]]
    axes.plot(sizes, means, "o-", label="mean accepted block size")
    axes.plot(sizes, speed_ups, "s--", label="wall-clock speed-up over greedy")
    axes.axhline(1.0, color="gray", lw=0.8)
    axes.set_xlabel("block size k'")
    axes.set_xticks(sizes)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with whole_file(picture, durable=False) as file:
        figure.savefig(file, dpi=120, format="png")
