"""Greedy decoding or beam search: ours, Hugging Face ``generate`` and CTranslate2 on the same weights and sentences.

python benchmarks/decoding_speed.py --model runs/multi30k/model --source data/multi30k/test_2016_flickr.en.gz
python benchmarks/decoding_speed.py --model runs/multi30k/model --source data/multi30k/train.en.gz --beam 4 \
    --sentences 256 --batch_sizes '[64]'

The three divide a hypothesis' log-probability by slightly different length penalties, so that beams may differ.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ctranslate2
import torch
from jsonargparse import auto_cli
from marian import hugging_face_model, save_for_ctranslate2
from timing import interleaved_seconds, machine, markdown, rates, spread, write_json
from transformers import PreTrainedModel

import lightning_bpd
from lightning_bpd.codecs.text_lines import read_lines
from lightning_bpd.decoding import DecodingOptions, beam_search, decode
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.models import EncoderDecoder
from lightning_bpd.saved.translation import pad

Rows = list[list[int]]
EXTRA_LENGTH = 50
ALPHA = 0.6
COMPILED = "ours, compiled"
OURS, SDPA, EAGER, CTRANSLATE2 = "ours", "Hugging Face, sdpa", "Hugging Face, eager", "CTranslate2 float32"


def our_rows(
    network: EncoderDecoder, batches: Sequence[TokenRows], beam: int = 1, compiled: bool = False
) -> Rows:
    """Output tokens of each row, end token included."""
    rows: Rows = []
    for batch in batches:
        if beam == 1:
            options = DecodingOptions(extra_length=EXTRA_LENGTH, compile=compiled)
            rows += decode(network, batch, options).rows()
        else:
            rows += beam_search(network, batch, beam, ALPHA, EXTRA_LENGTH).rows()
    return rows


@torch.inference_mode()
def hugging_face_rows(model: PreTrainedModel, batches: Sequence[TokenRows], beam: int = 1) -> Rows:
    """The same by ``generate``. Its limit is that of the longest row of a batch, for all its rows."""
    rows: Rows = []
    for tokens, lengths in batches:
        mask = torch.arange(tokens.size(1), device=tokens.device) < lengths[:, None]
        limit = tokens.size(1) + EXTRA_LENGTH
        output = model.generate(  # type: ignore[operator]  # the library's own types confuse mypy
            input_ids=tokens,
            attention_mask=mask.long(),
            max_new_tokens=limit,
            num_beams=beam,
            **({} if beam == 1 else {"length_penalty": ALPHA}),
        )
        rows += [until(row, model.generation_config.eos_token_id) for row in output[:, 1:].tolist()]
    return rows


def ctranslate2_rows(
    model: ctranslate2.Translator, batches: Sequence[list[list[str]]], eos_id: int, beam: int = 1
) -> Rows:
    """The same by CTranslate2, with the limit of ``hugging_face_rows``; sources are tokens as ``text_rows`` gives."""
    rows: Rows = []
    for batch in batches:
        limit = max(map(len, batch)) + EXTRA_LENGTH
        results = model.translate_batch(
            batch, beam_size=beam, length_penalty=ALPHA, max_decoding_length=limit, return_end_token=True
        )
        rows += [until([int(token) for token in result.hypotheses[0]], eos_id) for result in results]
    return rows


def text_rows(batch: TokenRows) -> list[list[str]]:
    """A batch as CTranslate2 takes it: ids in decimal."""
    tokens, lengths = batch
    return [
        list(map(str, row[:length])) for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)
    ]


def until(row: list[int], eos_id: int) -> list[int]:
    """A row up to its end token, that included."""
    return row[: row.index(eos_id) + 1] if eos_id in row else row


def load_ctranslate2(network: EncoderDecoder, device: torch.device, threads: int) -> ctranslate2.Translator:
    """The network in CTranslate2, in float32, with one worker of ``threads`` threads."""
    with tempfile.TemporaryDirectory() as folder:
        save_for_ctranslate2(network, Path(folder))
        return ctranslate2.Translator(
            folder, device=device.type, compute_type="float32", inter_threads=1, intra_threads=threads
        )


def main(
    model: Path,
    source: Path,
    sentences: int = 64,
    batch_sizes: Sequence[int] = (1, 32),
    threads: int = 1,
    device: Literal["cpu", "cuda"] = "cpu",
    repeats: int = 5,
    beam: int = 1,
    json: Path | None = None,
) -> None:
    """Time the decoding of one finished model by all arms in turns, in float32.

    Args:
        model: A finished model's folder; sinusoidal positions and one joint vocabulary.
        source: Source text, one sentence a line, plain or .gz.
        sentences: How many lines to take from the start of the text.
        batch_sizes: Rows decoded together.
        threads: CPU threads of each arm.
        device: Where all arms run.
        repeats: Timed runs of each arm.
        beam: Prefixes kept; 1 is greedy decoding.
        json: Where to write the numbers as well.
    """
    torch.set_num_threads(threads)
    place = torch.device(device)
    translator = lightning_bpd.load(model, place)
    network = translator.network
    lines = [line for line in read_lines(source) if line.strip()][:sentences]
    encoded = [[*row, network.eos_id] for row in translator.source_tokenizer.encode(lines)]
    encoded.sort(key=len)
    if not encoded:
        raise InputError(f"{source} has no sentence to translate: give another file")
    theirs: dict[str, PreTrainedModel] = {
        SDPA: hugging_face_model(network, "sdpa"),
        EAGER: hugging_face_model(network, "eager"),
    }
    engine = load_ctranslate2(network, place, threads)

    report: dict[str, Any] = {"machine": machine(place), "sentences": len(encoded), "results": []}
    print(f"{report['machine']}, {len(encoded)} sentences, {repeats} repeats\n")
    table = []
    for batch_size in batch_sizes:
        batches = [
            pad(encoded[first : first + batch_size], place) for first in range(0, len(encoded), batch_size)
        ]
        texts = [text_rows(batch) for batch in batches]
        arms: dict[str, Callable[[], Rows]] = {
            OURS: partial(our_rows, network, batches, beam),
            CTRANSLATE2: partial(ctranslate2_rows, engine, texts, network.eos_id, beam),
        }
        if beam == 1 and device == "cpu":
            arms[COMPILED] = partial(our_rows, network, batches, compiled=True)
        for name, other in theirs.items():
            arms[name] = partial(hugging_face_rows, other, batches, beam)
        outputs = {name: arm() for name, arm in arms.items()}
        seconds = interleaved_seconds(arms, repeats, place)
        speeds = {name: rates(sum(map(len, outputs[name])), seconds[name]) for name in arms}
        sentences_a_second = {name: rates(len(encoded), seconds[name]) for name in arms}
        for name in arms:
            # A row of ours that reached no end token stopped at its own limit, theirs at that of the batch.
            equal = sum(
                row == other[: len(row)] for row, other in zip(outputs[OURS], outputs[name], strict=True)
            )
            ratio = sentences_a_second[OURS]["median"] / sentences_a_second[name]["median"]
            report["results"].append(
                {
                    "batch_size": batch_size,
                    "arm": name,
                    "tokens_per_second": speeds[name],
                    "sentences_per_second": sentences_a_second[name],
                    "ours_is_faster_by": ratio,
                    "rows_equal_to_ours": equal,
                }
            )
            table.append(
                [
                    str(batch_size),
                    name,
                    f"{speeds[name]['median']:,.0f}",
                    spread(speeds[name]),
                    f"{sentences_a_second[name]['median']:,.0f}",
                    f"{ratio:.2f}",
                    f"{equal}/{len(encoded)}",
                ]
            )
    header = [
        "batch",
        "arm",
        "tokens/s (median)",
        "tokens/s (range)",
        "sentences/s (median)",
        "ours is faster by",
        "rows equal to ours",
    ]
    print(markdown(header, table))
    write_json(json, report)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
