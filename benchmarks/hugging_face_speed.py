"""Every way of decoding a Hugging Face base side by side: transformers' own, CTranslate2's, and ours with block heads.

python benchmarks/hugging_face_speed.py --model runs/hf_marian_heads/model --draft runs/hugging_face/marian_draft
python benchmarks/hugging_face_speed.py --model runs/hf_llama_heads/model --draft runs/hugging_face/llama_draft \
    --source runs/hugging_face/prompts/test.jsonl --json runs/hf_llama_heads/speed.json

All arms compute in float32 on the same rows of tokens, and take turns. The yardstick is ``generate`` without sampling
and beams. What an arm cannot do is named under the table with its reason.
"""

from __future__ import annotations

import json as json_format
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from hugging_face_arms import GENERATE, Arm, Decoded, all_arms, draft_model, plain_greedy
from jsonargparse import auto_cli
from timing import interleaved_seconds, machine, markdown, rates, write_json
from transformers import logging

import lightning_bpd
from lightning_bpd.adapters import ModelAdapter
from lightning_bpd.codecs.hugging_face import base_reference
from lightning_bpd.datamodules.text_files import PairFiles, read_pairs
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.interfaces import InputError
from lightning_bpd.metrics import bleu_score, bleu_signature, bleu_statistics
from lightning_bpd.saved.translation import Translator


def measure(
    arms: Sequence[Arm],
    translator: Translator,
    pairs: Sequence[tuple[str, str]],
    batch_size: int,
    lengths: DecodingOptions,
    repeats: int,
) -> list[dict[str, Any]]:
    """One entry an arm that takes such batches."""
    lines, references = zip(*pairs, strict=True)
    batches = list(translator.batches(lines, batch_size))
    limits = [
        limit
        for _, batch in batches
        for limit in length_limits(translator.network, batch, lengths.extra(batch)).tolist()
    ]
    outputs: dict[str, list[Decoded]] = {}

    def run(arm: Arm) -> None:
        outputs[arm.name] = [arm.decode(batch) for _, batch in batches]

    def progress(text: str) -> None:
        print(f"batches of {batch_size}: {text}", file=sys.stderr, flush=True)

    able = [arm for arm in arms if batch_size == 1 or not arm.one_row]
    runs = {arm.name: partial(run, arm) for arm in able}
    seconds = interleaved_seconds(runs, repeats, translator.device, progress)

    ordered = [references[place] for places, _ in batches for place in places]
    # Others know one limit for a batch; what they wrote past a row's own does not count.
    kept = {
        name: [
            row[:limit]
            for row, limit in zip((row for each in found for row in each.rows), limits, strict=True)
        ]
        for name, found in outputs.items()
    }
    entries = []
    for arm in able:
        name, rows = arm.name, kept[arm.name]
        tokens = sum(map(len, rows))
        entries.append(
            {
                "batch_size": batch_size,
                "arm": name,
                "seconds": seconds[name],
                "tokens": tokens,
                "tokens_per_second": rates(tokens, seconds[name]),
                "speed_up_over_generate": statistics.median(
                    theirs / own for theirs, own in zip(seconds[GENERATE], seconds[name], strict=True)
                ),
                "mean_accepted_block_size": sum(len(row) for each in outputs[name] for row in each.rows)
                / sum(each.iterations for each in outputs[name]),
                "bleu": bleu_score(bleu_statistics(translator.codec.decode(rows), ordered)),
                "equal_to_generate": sum(map(list.__eq__, rows, kept[GENERATE])) / len(rows),
            }
        )
    return entries


def main(
    model: Path,
    source: Path = Path("data/multi30k/test_2016_flickr.en.gz"),
    reference: Path = Path("data/multi30k/test_2016_flickr.de.gz"),
    draft: Path | None = None,
    sentences: int = 64,
    batch_sizes: Sequence[int] = (1, 8, 32),
    block_sizes: Sequence[int] | None = None,
    lookup_tokens: int = 10,
    draft_tokens: int | None = None,
    extra_length: int = 50,
    max_new_tokens: int | None = None,
    threads: int = 1,
    device: Literal["cpu", "cuda"] = "cpu",
    repeats: int = 5,
    json: Path | None = None,
) -> None:
    """Time all ways of decoding a Hugging Face base that block heads were trained on.

    Args:
        model: A finished model's folder, whose base is a Hugging Face model and which has block heads.
        source: Source text, one sentence a line, plain or .gz; or JSON lines of prompts and completions.
        reference: Its translations, line by line; not read with JSON lines.
        draft: Folder of a small model with the base's tokenizer, for assisted generation.
        sentences: How many lines to take from the start of the text.
        batch_sizes: Rows decoded together.
        block_sizes: Tokens verified in one call; as many as the heads were trained for if not given.
        lookup_tokens: The most tokens that prompt lookup proposes.
        draft_tokens: The most tokens that the draft model proposes; the library's own number if not given.
        extra_length: Tokens that a row may be longer than its source or prompt.
        max_new_tokens: The most tokens of a row, whatever its source; replaces extra_length.
        threads: CPU threads of each arm.
        device: Where all arms run.
        repeats: Timed runs of each arm.
        json: Where to write the numbers as well.
    """
    logging.set_verbosity_error()
    lengths = DecodingOptions(extra_length=extra_length, max_new_tokens=max_new_tokens)
    torch.set_num_threads(threads)
    place = torch.device(device)
    translator = lightning_bpd.load(model, place)
    if translator.heads is None or not isinstance(translator.network, ModelAdapter):
        raise InputError(
            f"{model} is no Hugging Face base with block heads: for networks of this project there are "
            "benchmarks/decoding_speed.py and benchmarks/blockwise_speed.py"
        )
    base = base_reference(model, json_format.loads((model / "config.json").read_text(encoding="utf-8")))
    if translator.network.output_weight.dtype != torch.float32:
        raise InputError(f"all arms compute in float32, and the base of {model} is named as {base}")
    largest = translator.heads.block_size
    sizes = [largest] if block_sizes is None else list(block_sizes)
    if not sizes or not all(1 <= size <= largest for size in sizes):
        raise InputError(f"the heads of {model} propose blocks of 1 to {largest} tokens, not {sizes}")
    prompts = source.name.endswith((".jsonl", ".jsonl.gz"))
    files = (
        PairFiles(source, None, "jsonl", "prompt", "completion")
        if prompts
        else PairFiles(source, reference, "lines")
    )
    pairs = [pair for pair in read_pairs(files) if pair[0].strip()][:sentences]
    if not pairs:
        raise InputError(f"{source} has no sentence to decode: give another file")
    plain_greedy(translator.network.model)
    drafting = None if draft is None else draft_model(draft, translator)
    if drafting is not None and draft_tokens is not None:
        drafting.generation_config.num_assistant_tokens = draft_tokens
    arms, missing = all_arms(translator, base, drafting, sizes, lengths, lookup_tokens, threads)

    results = [
        entry for size in batch_sizes for entry in measure(arms, translator, pairs, size, lengths, repeats)
    ]
    if max(batch_sizes) > 1:
        refused = "the library takes one row at a time"
        missing |= {f"{arm.name}, larger batches": refused for arm in arms if arm.one_row}
    report = {
        "machine": machine(place),
        "model": str(model),
        "base": base,
        "sentences": len(pairs),
        "extra_length": extra_length,
        "max_new_tokens": max_new_tokens,
        "lookup_tokens": lookup_tokens,
        "draft_tokens": draft_tokens,
        "bleu_signature": bleu_signature(),
        "results": results,
        "not_measured": missing,
    }
    print(f"{machine(place)}, {len(pairs)} sentences, {repeats} repeats, BLEU {report['bleu_signature']}\n")
    print_results(results, missing)
    write_json(json, report)


def print_results(results: Sequence[dict[str, Any]], missing: dict[str, str]) -> None:
    """The entries as a table, and what is not in it."""
    header = [
        "way of decoding", "batch", "seconds (median)", "tokens/s (median)", "speed-up over generate",
        "mean accepted block size", "BLEU", "equal to generate",
    ]  # fmt: skip
    table = [
        [
            entry["arm"],
            str(entry["batch_size"]),
            f"{statistics.median(entry['seconds']):.2f}",
            f"{entry['tokens_per_second']['median']:,.0f}",
            f"{entry['speed_up_over_generate']:.2f}",
            f"{entry['mean_accepted_block_size']:.2f}",
            f"{entry['bleu']:.2f}",
            f"{entry['equal_to_generate']:.1%}",
        ]
        for entry in results
    ]
    print(markdown(header, table))
    if missing:
        print("\nNot measured:\n")
        print("\n".join(f"* {name}: {reason}" for name, reason in missing.items()))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
