"""compare: greedy and blockwise decoding of a corpus, side by side: quality, block sizes, calls and time."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lightning_bpd.benchmark.comparison import Arm, compare_decoders, comparison_table
from lightning_bpd.benchmark.costs import decoding_costs, replayed_iterations
from lightning_bpd.callbacks.samples import spread
from lightning_bpd.cli.translate import find_device, progress_bar
from lightning_bpd.datamodules.text_files import find_pair_files, fingerprint, read_pairs
from lightning_bpd.decoding import DecodingOptions, parse_acceptance
from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import InputError
from lightning_bpd.metrics import bleu_signature
from lightning_bpd.tasks.translation import Translator, load
from lightning_bpd.tracking.provenance import processor, provenance

logger = logging.getLogger(__name__)

FORMAT = 1
# Tokens that an output may be longer than its source.
EXTRA_LENGTH = DecodingOptions().extra_length


def compare(
    model: str,
    data: str,
    corpus: str = "test",
    source_language: str = "en",
    target_language: str = "de",
    rules: list[str] = ["exact"],  # noqa: B006  # never changed
    block_sizes: list[int] | None = None,
    batch_size: int = 64,
    timed: int = 200,
    timed_batch_size: int = 1,
    threads: int | None = None,
    output: str | None = None,
    device: str = "auto",
) -> None:
    """Decode a corpus greedily and by blocks, and write down quality, accepted block sizes, calls and time.

    Prints a table and writes compare_CORPUS.json, from which report makes tables and figures. Quality and block sizes
    are of the whole corpus; time is wall clock over some sentences, all ways of decoding in turns. A model without
    block heads is decoded greedily alone.

    Args:
        model: Folder of a finished model.
        data: Folder of the corpus.
        corpus: Its name, such as val or test.
        source_language: Ending of source files, as training has it.
        target_language: Ending of target files.
        rules: Acceptance rules: exact, top-N, minimum-N, minimum-N+RULE.
        block_sizes: Block sizes to decode with by the first rule; the others take the largest. By default 2, 4, 6 and
            so on, and as many as the heads were trained for.
        batch_size: Sentences decoded together for quality and block sizes.
        timed: Sentences that are timed, evenly spread over the corpus; 0 for none.
        timed_batch_size: Sentences decoded together when timed.
        threads: Of torch; as many as it takes by itself if not given.
        output: File to write; compare_CORPUS.json beside the model's folder by default.
        device: Such as cpu, cuda or cuda:1; auto takes a GPU if there is one.
    """
    for rule in rules:
        parse_acceptance(rule)
    if threads is not None:
        torch.set_num_threads(threads)
    place = find_device(device)
    translator = load(model, place)
    path = Path(output) if output else Path(model).absolute().parent / f"compare_{corpus}.json"
    if path.is_dir():
        raise InputError(f"--output {path} is a folder: give a file")
    (files,) = find_pair_files(Path(data), [corpus], source_language, target_language)
    sources, references = map(list, zip(*read_pairs(files), strict=True))
    arms = rules_of(translator, rules, block_sizes)
    chosen = spread(list(range(len(sources))), timed)
    with progress_bar("Compared", "sentences", len(sources) + len(chosen)) as report:
        whole = compare_decoders(translator, sources, references, arms, batch_size, report)
        some: Sequence[Arm] | None = None
        if chosen:
            picked = [sources[i] for i in chosen], [references[i] for i in chosen]
            some = compare_decoders(translator, *picked, arms, timed_batch_size, report)
    measured = {
        "format": FORMAT,
        "model": model,
        "training": training_of(Path(model), translator),
        "corpus": {
            "folder": data,
            "name": corpus,
            "sentences": len(sources),
            "hash": fingerprint([files]),
        },
        "settings": {
            "device": place.type,
            "processor": torch.cuda.get_device_name(place) if place.type == "cuda" else processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "precision": str(translator.network.output_weight.dtype).removeprefix("torch."),
            "batch_size": batch_size,
            "timed_sentences": len(chosen),
            "timed_batch_size": timed_batch_size,
            "extra_length": EXTRA_LENGTH,
        },
        "bleu_signature": bleu_signature(),
        "provenance": provenance(),
        "references": references,
        "arms": [_arm(number, arm, some) for number, arm in enumerate(whole)],
        **_of_heads(translator, sources, batch_size, whole),
    }
    write_atomically(path, json.dumps(measured, ensure_ascii=False) + "\n")
    shown = whole
    if some is not None:
        shown = [arm._replace(seconds=timing.seconds) for arm, timing in zip(whole, some, strict=True)]
    together = f"batches of {timed_batch_size}" if some is not None else f"batches of {batch_size}"
    title = f"{model} on {corpus}: {len(sources)} sentences; calls and time a sentence, {together}"
    Console().print(comparison_table(shown, title))
    logger.info("Written to %s", path)


def rules_of(
    translator: Translator, rules: Sequence[str], block_sizes: Sequence[int] | None
) -> list[tuple[int, str]]:
    """Block size and acceptance of each arm: all sizes by the first rule, the largest by the others.

    Raises:
        InputError: Block sizes are asked for, and the model has no heads.
    """
    trained = 1 if translator.heads is None else translator.heads.block_size
    if block_sizes is None:
        block_sizes = sorted({*range(2, trained + 1, 2), trained} - {1})
    elif translator.heads is None:
        raise InputError(
            "this model has no block heads: leave --block_sizes out to measure greedy decoding alone"
        )
    if not block_sizes or not rules:
        return []
    first, *others = rules
    return [*((size, first) for size in block_sizes), *((max(block_sizes), rule) for rule in others)]


def training_of(folder: Path, translator: Translator) -> dict[str, Any]:
    """How a finished model was trained: regime, data, block size and seed, as its ``metrics.json`` says."""
    known: dict[str, Any] = {}
    if (folder / "metrics.json").is_file():
        known = json.loads((folder / "metrics.json").read_text(encoding="utf-8")).get("training", {})
    return {
        "regime": known.get("regime", "base" if translator.heads is None else "unknown"),
        "data": known.get("data", "unknown"),
        "block_size": 1 if translator.heads is None else translator.heads.block_size,
        "seed": known.get("seed"),
    }


def _arm(number: int, arm: Arm, some: Sequence[Arm] | None) -> dict[str, Any]:
    seconds = None if some is None else some[number].seconds
    return {
        "decoder": "blockwise" if number else "greedy",
        **arm._asdict(),
        "seconds": seconds,
        "speed_up": None if some is None or seconds is None else some[0].seconds / seconds,
    }


def _of_heads(
    translator: Translator, sources: Sequence[str], batch_size: int, arms: Sequence[Arm]
) -> dict[str, Any]:
    """What only a model with proposals has; None for each without."""
    if translator.drafter is None or translator.drafter.block_size == 1:
        return {"replay": None, "acceptance_by_position": None, "costs": None}
    batches = [source for _, source in translator.batches(list(sources), batch_size)]
    iterations = replayed_iterations(translator, batches, extra_length=EXTRA_LENGTH)
    # A sentence of the middle length, by itself.
    alone = [source for _, source in translator.batches(list(sources), 1)]
    sizes = next((arm.accepted_sizes for arm in reversed(arms[1:]) if _is_exact_whole(arm, translator)), None)
    return {
        "replay": {"tokens": sum(arms[0].tokens), "iterations": iterations},
        "acceptance_by_position": None
        if sizes is None
        else [sum(sizes[place:]) / sum(sizes) for place in range(len(sizes))],
        "costs": decoding_costs(translator, alone[len(alone) // 2], extra_length=EXTRA_LENGTH),
    }


def _is_exact_whole(arm: Arm, translator: Translator) -> bool:
    assert translator.heads is not None
    return (arm.block_size, arm.acceptance) == (translator.heads.block_size, "exact")
