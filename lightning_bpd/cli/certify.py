"""certify: is blockwise output the same as greedy output?"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import islice

import torch

from lightning_bpd.cli.translate import CHUNK, find_device
from lightning_bpd.codecs.text_lines import read_lines
from lightning_bpd.decoding import DecodingOptions, Exact, blockwise, make_sampler, sequential
from lightning_bpd.decoding.certificate import Verdict, compare
from lightning_bpd.interfaces import InputError, check_range
from lightning_bpd.progress import progress_bar
from lightning_bpd.saved.translation import load


def certify(
    model: str,
    input: str = "-",
    block_size: int | None = None,
    batch_size: int = 64,
    extra_length: int = 50,
    max_new_tokens: int | None = None,
    bound: float = 256.0,
    sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    base: str | None = None,
) -> None:
    """Decode text greedily and blockwise by the exact rule, and say of each line whether the outputs are the same.

    A call over several tokens may round differently from several calls over one, and so decide a tie the other way.
    Each line gets a row on standard output: its number and one of three verdicts. "identical": both outputs have the
    same tokens. "near-tie": rounding explains the first difference, and after it each token of the blockwise output is
    p_1's choice or a tie again; the row gives the number of the first token that differs, and the margin in p_1's
    logits. "divergent": rounding does not explain the token whose number and margin the row gives. Counts follow.
    Exits with 1 if a line is divergent.

    Args:
        model: Folder of a finished model with block heads.
        input: File or pipe of source text, read as translate reads it; - is standard input.
        block_size: Tokens of a block; as many as the heads were trained for by default.
        batch_size: Lines decoded together.
        extra_length: Tokens that an output may be longer than its source.
        max_new_tokens: The most tokens of an output, whatever its source; replaces extra_length.
        bound: The margin of a near-tie, in units of the logits' precision at the size of the best one.
        sample: Draw tokens at random instead of taking the most probable ones; a seed gives the same text by every
            decoder and batch size.
        temperature: Divides the logits: below 1 the output is less random.
        top_k: Draw from the k most probable tokens only.
        top_p: Draw from the most probable tokens whose probabilities add up to top_p.
        seed: Selects the random numbers.
        device: Such as cpu, cuda or cuda:1; auto takes a GPU if there is one.
        base: Where the Hugging Face model is that the heads were trained on, hf:NAME_OR_FOLDER, if it has moved.
    """
    sampler = make_sampler(sample, temperature, top_k, top_p, seed)
    check_range(1, batch_size=batch_size, block_size=block_size)
    check_range(0, bound=bound)
    options = DecodingOptions(extra_length=extra_length, max_new_tokens=max_new_tokens)
    translator = load(model, find_device(device), base)
    if translator.drafter is None:
        raise InputError(
            f"{model} has no block heads, so there is nothing to certify: train them on it first"
        )
    size = translator.drafter.block_size if block_size is None else block_size
    counts: Counter[str] = Counter()
    lines, done = read_lines(input), 0
    with progress_bar("Decoding", "lines") as count:
        while chunk := list(islice(lines, CHUNK)):
            verdicts: dict[int, Verdict] = {}
            for places, rows in translator.batches(chunk, batch_size):
                p_1, numbers = translator.model, done + torch.tensor(places, device=translator.device)
                extra = options.extra(rows)
                one = sequential(p_1, rows, extra, sampler, numbers)
                many = blockwise(p_1, translator.drafter, rows, size, Exact(), extra, sampler, numbers)
                found = compare(p_1, rows, one, many, bound, sampler, numbers)
                verdicts |= zip(places, found, strict=True)
                count(len(places))
            for place, verdict in sorted(verdicts.items()):
                sys.stdout.write(f"{done + place + 1}\t{_words(verdict)}\n")
                counts[verdict.kind] += 1
            done += len(chunk)
    kinds = ("identical", "near-tie", "divergent")
    sys.stdout.write(", ".join(f"{counts[kind]} {kind}" for kind in kinds) + f" of {done} lines\n")
    if counts["divergent"]:
        sys.exit(1)


def _words(verdict: Verdict) -> str:
    if verdict.place is None:
        return verdict.kind
    margin = f"margin {verdict.margin:.3g}, a near-tie up to {verdict.allowed:.3g}"
    return f"{verdict.kind}\ttoken {verdict.place + 1}\t{margin}"
