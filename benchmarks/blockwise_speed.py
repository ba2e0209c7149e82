"""Blockwise decoding against our own greedy decoding: wall clock, the limit that the machine sets, time by part.

python benchmarks/blockwise_speed.py --model runs/multi30k/joint/model --source data/multi30k/test_2016_flickr.en.gz
python benchmarks/blockwise_speed.py --agreement 0.8

Without ``--model`` the network is of base size with random weights, on random source rows. Its heads never agree with
it. With ``--agreement`` a drafter of this benchmark lets the heads do all their work, drops what they propose, and puts
greedy's own tokens in its place, each with that probability, else a wrong one: the times are those of real decoding
with heads as good as that. All arms take turns, and ratios are taken within a turn.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from jsonargparse import auto_cli
from timing import interleaved_seconds, machine, markdown, wait, write_json
from torch import Tensor

import lightning_bpd
from lightning_bpd.codecs.text_lines import read_lines
from lightning_bpd.decoding import Exact, blockwise, greedy
from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.interfaces import (
    Acceptance,
    DecodeResult,
    Drafter,
    InputError,
    Memory,
    Proposal,
    Sampler,
    SequenceModel,
    TokenRows,
    VerifiedBlock,
)
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.finished_model import GenerativeModel
from lightning_bpd.saved.translation import pad

# Calls that one turn of an arm of single calls makes.
CALLS = 20
RANDOM_VOCABULARY = 32_000


class Agreeing:
    """Lets ``inner`` propose, and then gives tokens that agree with ``known`` as often as ``agreement`` says."""

    def __init__(
        self, inner: Drafter, known: DecodeResult, agreement: float, vocabulary: int, seed: int
    ) -> None:
        self.inner = inner
        self.block_size = inner.block_size
        tokens = torch.nn.functional.pad(known.tokens, (0, inner.block_size))
        right = tokens.unfold(1, inner.block_size, 1)[:, :, 1:]
        generator = torch.Generator().manual_seed(seed)
        agrees = torch.rand(right.shape, generator=generator).to(right.device) < agreement
        # What to propose in each row after each number of tokens; a wrong token is the right one + 1.
        self.table = torch.where(agrees, right, (right + 1) % vocabulary)

    def start(self, source: TokenRows, max_length: int, sampler: Sampler, memory: Memory) -> None:
        """Begin with new rows."""
        self.inner.start(source, max_length, sampler, memory)
        self.rows = torch.arange(len(source.lengths), device=source.lengths.device)
        self.length = torch.full_like(self.rows, -1)  # the start token is no token of the row

    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        """The known tokens, more or less, after the work of ``inner``."""
        self.inner.propose(verified, following, count)
        self.length += verified.accepted
        return Proposal(self.table[self.rows, self.length, :count])

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        self.inner.reorder(rows)
        self.rows, self.length = self.rows[rows], self.length[rows]


@dataclass
class Subject:
    """What is measured."""

    model: SequenceModel[Any]
    drafter: Drafter
    heads: BlockHeads
    rows: list[list[int]]
    """source rows in order of length"""
    vocabulary: int
    device: torch.device


def finished_model(
    folder: Path, source: Path | None, shape: HeadShape, sentences: int, device: torch.device
) -> Subject:
    """A finished model with its own heads or, where it has none, with random ones."""
    if source is None:
        raise InputError("a finished model needs sentences to decode: give --source")
    translator = lightning_bpd.load(folder, device)
    network = translator.network
    lines = [line for line in read_lines(source) if line.strip()][:sentences]
    rows = [[*row, network.eos_id] for row in translator.source_tokenizer.encode(lines)]
    heads = translator.heads or random_heads(network, shape)
    return subject(network, heads, rows)


def random_heads(network: EncoderDecoder, shape: HeadShape) -> BlockHeads:
    """Heads that propose anything, on the network's device."""
    heads = BlockHeads(network.architecture.d_model, shape)
    torch.nn.init.normal_(heads.output_weight, std=0.02)
    return heads.to(network.output_weight.device).eval()


def random_model(shape: HeadShape, sentences: int, device: torch.device) -> Subject:
    """A network of base size; source rows of 8 to 40 random tokens."""
    torch.manual_seed(0)
    network = EncoderDecoder(Architecture(dropout=0.0), RANDOM_VOCABULARY, RANDOM_VOCABULARY, 2, 3)
    rows = [
        torch.randint(4, RANDOM_VOCABULARY, (length,)).tolist()
        for length in torch.randint(8, 41, (sentences,)).tolist()
    ]
    network = network.to(device).eval()
    return subject(network, random_heads(network, shape), rows)


def subject(network: EncoderDecoder, heads: BlockHeads, rows: list[list[int]]) -> Subject:
    """Decoding of ``network`` with ``heads``."""
    if not rows:
        raise InputError(
            "there is nothing to decode: give a source with sentences, and --sentences of at least 1"
        )
    device = network.output_weight.device
    model = GenerativeModel(network, None, heads)
    assert model.drafter is not None
    return Subject(
        model.model, model.drafter, heads, sorted(rows, key=len), network.target_vocabulary, device
    )


class Stopwatch:
    """Seconds by part, measured while decoding, as processor caches are then. A part's time is without its parts'."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: Counter[str] = Counter()
        self._nested = 0.0

    def timed(self, part: str, function: Callable[..., Any], by_width: bool = False) -> Callable[..., Any]:
        """The function, whose time counts as that of ``part``, by the tokens it is given if ``by_width``."""

        def run(*arguments: Any) -> Any:
            outside, self._nested = self._nested, 0.0
            wait(self.device)
            start = time.perf_counter()
            result = function(*arguments)
            wait(self.device)
            elapsed = time.perf_counter() - start
            name = f"{part} over {_tokens(arguments[0])}" if by_width else part
            self.seconds[name] += elapsed - self._nested  # type: ignore[assignment]  # a Counter adds floats as well
            self._nested = outside + elapsed
            return result

        return run


def _tokens(fed: Tensor) -> int:
    """T, of tokens [B, T] or hidden states [B, T, D] or, of one token, [B, D]."""
    return 1 if fed.is_floating_point() and fed.dim() == 2 else fed.size(1)


def by_part(
    subject: Subject, drafters: Sequence[Drafter], acceptance: Acceptance, decode: Callable[[], object]
) -> Counter[str]:
    """Seconds of each part of what ``decode`` does."""
    watch = Stopwatch(subject.device)
    places = [
        (subject.model, "start", "encoder", False),
        (subject.model, "step", "decoder", True),
        (subject.model, "project", "projection", True),
        (subject.heads, "forward", "heads", False),
        (acceptance, "decide", "acceptance", False),
        *((drafter, "propose", "heads' projection", False) for drafter in set(drafters)),
    ]
    with ExitStack() as stack:
        for place, name, part, by_width in places:
            timed = watch.timed(part, getattr(place, name), by_width)
            stack.enter_context(patch.object(place, name, timed))
        watch.timed("rest", decode)()
    return watch.seconds


@torch.inference_mode()
def cached_call(subject: Subject, source: TokenRows, place: int, size: int) -> Callable[[], None]:
    """Calls over ``size`` tokens, p_1's projection included, in rows that hold ``place`` tokens."""
    model, count = subject.model, len(source.lengths)
    state = model.start(source, None, place + size)
    model.step(torch.full((count, place), 5, device=subject.device), state)
    lengths = torch.full((count,), place)
    tokens = torch.randint(4, subject.vocabulary, (count, size), device=subject.device)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(CALLS):
            model.project(model.step(tokens, state))
            wait(subject.device)
            state.rewind(lengths)

    return run


def measure(
    subject: Subject,
    batch_size: int,
    block_sizes: Sequence[int],
    agreement: float | None,
    extra: int,
    repeats: int,
    acceptance: Acceptance,
) -> list[dict[str, Any]]:
    """One entry a block size: ratios, and milliseconds of each part of an iteration."""
    model, rows, device = subject.model, subject.rows, subject.device
    batches = [pad(rows[first : first + batch_size], device) for first in range(0, len(rows), batch_size)]
    expected = [greedy(model, batch, extra) for batch in batches]
    drafters: list[Drafter] = [subject.drafter] * len(batches)
    if agreement is not None:
        drafters = [
            Agreeing(subject.drafter, result, agreement, subject.vocabulary, seed)
            for seed, result in enumerate(expected)
        ]

    def decode_greedily() -> list[DecodeResult]:
        return [greedy(model, batch, extra) for batch in batches]

    def decode_blockwise(size: int) -> list[DecodeResult]:
        pairs = zip(drafters, batches, strict=True)
        return [blockwise(model, drafter, batch, size, acceptance, extra) for drafter, batch in pairs]

    times: dict[int, list[Counter[str]]] = {size: [] for size in (1, *block_sizes)}

    def decode_by_part(size: int) -> None:
        decode = decode_greedily if size == 1 else partial(decode_blockwise, size)
        times[size].append(by_part(subject, drafters, acceptance, decode))

    middle = len(batches) // 2
    held = max(1, int(expected[middle].lengths.max()) // 2)
    arms: dict[str, Callable[[], object]] = {
        "greedy": decode_greedily,
        **{f"blockwise {size}": partial(decode_blockwise, size) for size in block_sizes},
        **{f"call {size}": cached_call(subject, batches[middle], held, size) for size in times},
        **{f"parts {size}": partial(decode_by_part, size) for size in times},
    }
    seconds = interleaved_seconds(arms, repeats, device)

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))

    entries = []
    for size in block_sizes:
        results = decode_blockwise(size)
        tokens = sum(int(result.lengths.sum()) for result in results)
        sizes = [result.accepted for result in results if result.accepted is not None]
        mean = tokens / sum(int((part > 0).sum()) for part in sizes)
        speedup, limit = ratio("greedy", f"blockwise {size}"), ratio("call 1", f"call {size}")
        equal = [
            one == other
            for known, result in zip(expected, results, strict=True)
            for one, other in zip(known.rows(), result.rows(), strict=True)
        ]
        entries.append(
            {
                "batch size": batch_size,
                "block size": size,
                "mean accepted block size": mean,
                "speed-up": speedup,
                "efficiency": speedup / mean,
                "limit": limit,
                "efficiency / limit": speedup / mean / limit,
                "rows equal to greedy": f"{sum(equal)}/{len(equal)}",
                "milliseconds": {
                    **per_call(times[1][1:], 1, sum(int(result.calls.max()) for result in expected)),
                    **per_call(times[size][1:], size, sum(int(result.calls.max()) - 1 for result in results)),
                },
            }
        )
    return entries


def per_call(turns: Sequence[Counter[str]], size: int, calls: int) -> dict[str, float]:
    """Milliseconds of each part of one call or iteration of a batch: medians over turns."""
    times = {
        part: 1e3 * statistics.median(turn[part] for turn in turns) / calls
        for part in dict.fromkeys(part for turn in turns for part in turn)
    }
    once = [times.pop(part) for part in ("encoder", "decoder over 1", "projection over 1")]
    if size == 1:
        return {"decoder over 1": once[1], "projection over 1": once[2]}
    whole = sum(once) + sum(times.values())
    named = {part.replace(f"over {size}", "over k"): milliseconds for part, milliseconds in times.items()}
    order = ("decoder over k", "projection over k", "heads", "heads' projection", "acceptance")
    rest = {"encoder and first call": sum(once), "rest": named["rest"], "iteration": whole}
    # Heads that are folded into their projection have no time of their own.
    return {**{part: named.get(part, 0.0) for part in order}, **rest}


def main(
    model: Path | None = None,
    source: Path | None = None,
    agreement: float | None = None,
    heads: HeadShape = HeadShape(d_hidden=256, candidates=2000),  # noqa: B008  # frozen
    sentences: int = 32,
    block_sizes: Sequence[int] = (2, 4, 8),
    batch_sizes: Sequence[int] = (1, 8, 32),
    threads: Sequence[int] = (1, 2),
    extra_length: int = 20,
    device: Literal["cpu", "cuda"] = "cpu",
    repeats: int = 5,
    json: Path | None = None,
) -> None:
    """Time blockwise decoding against greedy decoding, in float32, by the exact rule.

    Args:
        model: A finished model's folder; a random network of base size if not given.
        source: Source text for it, one sentence a line, plain or .gz.
        agreement: Probability that a proposal is greedy's token; the heads' own proposals if not given.
        heads: Shape of random heads, for a model without any.
        sentences: How many lines or random rows to decode.
        block_sizes: Tokens verified in one call, each at least 2.
        batch_sizes: Rows decoded together.
        threads: CPU threads, one round of measurements for each number.
        extra_length: Tokens that a row may be longer than its source. Random weights always go that far.
        device: Where to decode.
        repeats: Timed turns.
        json: Where to write the numbers as well.
    """
    place = torch.device(device)
    given = (
        partial(finished_model, model, source, heads) if model is not None else partial(random_model, heads)
    )
    measured = given(sentences, place)
    results = []
    for number in threads if device == "cpu" else (torch.get_num_threads(),):
        torch.set_num_threads(number)
        for batch_size in batch_sizes:
            entries = measure(measured, batch_size, block_sizes, agreement, extra_length, repeats, Exact())
            results += [{"threads": number, **entry} for entry in entries]
    print(f"{machine(place)}, {len(measured.rows)} rows, {repeats} repeats, agreement {agreement}\n")
    print_results(results)
    settled = {"agreement": agreement, "extra_length": extra_length, "machine": machine(place)}
    write_json(json, {**settled, "results": results})


def print_results(results: Sequence[dict[str, Any]]) -> None:
    """The entries as two tables: ratios, and milliseconds."""
    names = [name for name in results[0] if name != "milliseconds"]
    print(markdown(names, [[_cell(entry[name]) for name in names] for entry in results]))
    print("\nMilliseconds of one iteration of the batch by part:\n")
    settings, parts = names[:3], list(results[0]["milliseconds"])
    table = [
        [
            *(str(entry[name]) for name in settings),
            *(f"{entry['milliseconds'][part]:.3f}" for part in parts),
        ]
        for entry in results
    ]
    print(markdown([*settings, *parts], table))


def _cell(value: float | int | str) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
