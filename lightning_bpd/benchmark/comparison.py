"""Greedy and blockwise decoding side by side: quality, calls and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from lightning_bpd.callbacks.block_measurement import timed
from lightning_bpd.decoding import DecodingOptions, decode
from lightning_bpd.interfaces import DecodeResult, InputError, TokenRows
from lightning_bpd.metrics import bleu_score, bleu_statistics, equal_rows
from lightning_bpd.tasks.codec import check_decoding
from lightning_bpd.tasks.translation import Translator

# Batches after which the arms take turns, so that none has the machine's good or bad minutes to itself.
TURN = 16
WARM_UP = 3


class Arm(NamedTuple):
    """One way of decoding, and what came of it."""

    block_size: int
    """1 is greedy decoding"""
    acceptance: str
    bleu: float
    calls: float
    """model calls a sentence"""
    mean_accepted_block_size: float
    seconds: float
    """wall-clock time a sentence"""
    greedy_agreement: float
    """share of sentences whose tokens are those of greedy decoding"""
    outputs: list[str]
    """text, one a sentence"""
    tokens: list[int]
    """of each sentence, end token included"""
    iterations: list[int]
    """of each sentence; greedy decoding's are its tokens"""
    accepted_sizes: list[int]
    """how many iterations accepted 1, 2, ... tokens"""


def compare_decoders(
    translator: Translator,
    sources: Sequence[str],
    references: Sequence[str],
    rules: Sequence[tuple[int, str]],
    batch_size: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Arm]:
    """Decode the same text greedily and by each rule, in turns.

    Args:
        translator: A model, with block heads where there are rules.
        sources: Text to translate.
        references: Its translations.
        rules: Block size and acceptance of each arm after greedy decoding.
        batch_size: Sentences decoded together; they are of like length.
        progress: Called with the number of sentences done.

    Returns:
        Greedy decoding first, then an arm a rule.

    Raises:
        InputError: The model has no heads, or not of this block size, or there is nothing to translate.
    """
    if not sources:
        raise InputError("there are no sentences to compare decoders on")
    trained = None if translator.heads is None else translator.heads.block_size
    options = [DecodingOptions()]
    options += [
        check_decoding(
            DecodingOptions("blockwise", block_size=size, acceptance=acceptance), trained, translator.codec
        )
        for size, acceptance in rules
    ]
    batches = list(translator.batches(sources, batch_size))
    results: list[dict[int, DecodeResult]] = [{} for _ in options]
    seconds = [0.0] * len(options)
    for first in range(0, len(batches), TURN):
        turn = batches[first : first + TURN]
        for arm, each in enumerate(options):
            for _, source in batches[:WARM_UP] if first == 0 else turn[:1]:
                decode(translator.model, source, each, translator.drafter)
            for number, (_, source) in enumerate(turn, start=first):
                decoding = partial(decode, translator.model, source, each, translator.drafter)
                results[arm][number], nanoseconds = timed(decoding, translator.device)
                seconds[arm] += nanoseconds / 1e9
        if progress is not None:
            progress(sum(len(places) for places, _ in turn))
    return [
        _arm(translator, size, acceptance, batches, references, results[arm], results[0], seconds[arm])
        for arm, (size, acceptance) in enumerate([(1, "exact"), *rules])
    ]


def _arm(
    translator: Translator,
    size: int,
    acceptance: str,
    batches: Sequence[tuple[list[int], TokenRows]],
    references: Sequence[str],
    results: Mapping[int, DecodeResult],
    greedy_results: Mapping[int, DecodeResult],
    seconds: float,
) -> Arm:
    """What came of decoding ``batches``, put in the order of the sentences."""
    count = len(references)
    texts = [""] * count
    tokens, iterations, sizes = [0] * count, [0] * count, [0] * size
    calls = same = 0
    for number, (places, _) in enumerate(batches):
        result = results[number]
        accepted = (
            [[1] * length for length in result.lengths.tolist()]
            if result.accepted is None
            else [[size for size in row if size] for row in result.accepted.tolist()]
        )
        rows = zip(
            places,
            translator.target_tokenizer.decode(result.rows()),
            result.lengths.tolist(),
            accepted,
            strict=True,
        )
        for place, text, length, blocks in rows:
            texts[place], tokens[place], iterations[place] = text, length, len(blocks)
            for block in blocks:
                sizes[block - 1] += 1
        same += int(equal_rows(result, greedy_results[number]).sum())
        calls += int(result.calls.sum())
    return Arm(
        size,
        acceptance,
        bleu_score(bleu_statistics(texts, references)),
        calls / count,
        sum(tokens) / sum(iterations),
        seconds / count,
        same / count,
        texts,
        tokens,
        iterations,
        sizes,
    )


def comparison_table(arms: Sequence[Arm], title: str) -> Table:
    """The arms as a table, calls and times by sentence; speed-ups are over the first, greedy decoding."""
    table = Table(title=title, title_justify="left")
    columns = ("", "BLEU", "same as greedy", "calls", "mean accepted block size", "ms", "speed-up")
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=not column)
    for number, arm in enumerate(arms):
        name = f"k = {arm.block_size}, {arm.acceptance}" if number else "greedy"
        table.add_row(
            Text(name),
            f"{arm.bleu:.2f}",
            f"{arm.greedy_agreement:.1%}",
            f"{arm.calls:.2f}",
            f"{arm.mean_accepted_block_size:.2f}",
            f"{arm.seconds * 1000:.1f}",
            f"{arms[0].seconds / arm.seconds:.2f}",
        )
    return table


def draw_comparison(arms: Sequence[Arm], picture: Path) -> None:
    """Mean accepted block size and wall-clock speed-up against block size, as a PNG file. The first arm is greedy."""
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    sizes = [arm.block_size for arm in arms[1:]]
    axes.plot(
        sizes, [arm.mean_accepted_block_size for arm in arms[1:]], "o-", label="mean accepted block size"
    )
    axes.plot(
        sizes,
        [arms[0].seconds / arm.seconds for arm in arms[1:]],
        "s--",
        label="wall-clock speed-up over greedy",
    )
    axes.axhline(1.0, color="gray", lw=0.8)
    axes.set_xlabel("block size k'")
    axes.set_xticks(sizes)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=120)
