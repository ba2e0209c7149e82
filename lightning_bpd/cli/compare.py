"""compare: greedy and blockwise decoding of a corpus, side by side: quality, block sizes, calls and time."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import yaml
from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_bpd.cli.translate import find_device
from lightning_bpd.codecs.images import ImageCodec
from lightning_bpd.codecs.tokenizers import BleuTokenizer
from lightning_bpd.datamodules.images import Digits, Images, SuperResolution
from lightning_bpd.datamodules.text_files import find_corpus, fingerprint, read_pairs
from lightning_bpd.decoding import DecodingOptions, parse_acceptance
from lightning_bpd.faults import damaged, read_json
from lightning_bpd.interfaces import InputError, check_range
from lightning_bpd.measuring.arms import spread
from lightning_bpd.measuring.comparison import compare_decoders, comparison_table, with_times
from lightning_bpd.measuring.costs import measure_heads
from lightning_bpd.measuring.record import Arm, Corpus, Record, Training, read_record, write_record
from lightning_bpd.measuring.words import KINDS
from lightning_bpd.progress import progress_bar
from lightning_bpd.saved.finished_model import GenerativeModel, read_base
from lightning_bpd.saved.translation import Translator
from lightning_bpd.saved.upscaling import Upscaler
from lightning_bpd.tracking.provenance import processor, provenance

logger = logging.getLogger(__name__)


def compare(
    model: str,
    data: str | None = None,
    corpus: str = "test",
    source_language: str = "en",
    target_language: str = "de",
    rules: list[str] = ["exact"],  # noqa: B006  # never changed
    block_sizes: list[int] | None = None,
    rows: int | None = None,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    timed: int = 200,
    timed_batch_size: int = 1,
    threads: int | None = None,
    output: str | None = None,
    device: str = "auto",
    compile: Literal["always", "never"] = "never",
    bleu_tokenizer: BleuTokenizer | None = None,
) -> None:
    """Decode a corpus greedily and by blocks, and write down quality, accepted block sizes, calls and time.

    Prints a table and writes compare_CORPUS.json, from which report makes tables and figures. Quality and block sizes
    are of the whole corpus; time is wall clock over some rows (sentences or images), all ways of decoding in turns. A
    model without block heads is decoded greedily alone.

    Args:
        model: Folder of a finished model, of text or of images; or hf:NAME_OR_FOLDER.
        data: Folder of the corpus; or a file or pipe of pairs, TSV or JSON lines; - is standard input. Of images: a
            folder, archive or array file; digits for scikit-learn's; by default what the run that made the model was
            trained on, as config.yaml beside the model's folder says.
        corpus: Its name, such as val or test; of images validation or test.
        source_language: Ending of source files, as training has it.
        target_language: Ending of target files.
        rules: Acceptance rules: exact, adaptive (exact, with only as many proposals as pay on this machine), top-N,
            distance-N (of images), minimum-N, minimum-N+RULE.
        block_sizes: Block sizes to decode with by the first rule; the others take the largest. By default 2, 4, 6 and
            so on, and as many as the heads were trained for.
        rows: How many rows to measure on, evenly spread over the corpus; all by default.
        batch_size: Rows decoded together for quality and block sizes.
        max_new_tokens: The most tokens of an output; by default 50 more than its source has.
        timed: Rows that are timed, evenly spread over those that are measured on; 0 for none.
        timed_batch_size: Rows decoded together when timed.
        threads: Of torch; as many as it takes by itself if not given.
        output: File to write; compare_CORPUS.json beside the model's folder by default. A measurement that is there is
            replaced by one of the same settings alone.
        device: Such as cpu, cuda or cuda:1; auto takes a GPU if there is one.
        compile: Whether calls are compiled by torch, those of greedy decoding, too; translate and upscale explain it.
        bleu_tokenizer: What BLEU cuts text with, by sacreBLEU's names; what the model was trained with by default.
    """
    for rule in rules:
        parse_acceptance(rule)
    if output is None and Path(corpus).name != corpus:
        raise InputError(
            f"--corpus {corpus} is a path, so compare_{corpus}.json cannot be written: give --output FILE"
        )
    for flag, value, least in (
        ("rows", rows, 1),
        ("batch_size", batch_size, 1),
        ("timed", timed, 0),
        ("timed_batch_size", timed_batch_size, 1),
        ("threads", threads, 1),
    ):
        if value is not None and value < least:
            raise InputError(f"--{flag} {value}: it must be at least {least}")
    decode = DecodingOptions(max_new_tokens=max_new_tokens)
    check_range(0, batch_size=batch_size, timed_batch_size=timed_batch_size, threads=threads)
    if threads is not None:
        torch.set_num_threads(threads)
    place, name = find_device(device), f"compare_{corpus}.json"
    opened = read_base(model)
    if output is None and not Path(model).is_dir():
        raise InputError(f"{model} is no folder, beside which {name} would be written: give --output")
    path = Path(output) if output else Path(model).absolute().parent / name
    if path.is_dir():
        raise InputError(f"--output {path} is a folder: give a file")
    for_text = {"bleu_tokenizer": bleu_tokenizer, "max_new_tokens": max_new_tokens}
    given = [f"--{name}" for name, value in for_text.items() if value is not None]
    if given and opened.codec.kind == "images":
        raise InputError(f"{given[0]} is for text, and this is a model of images: leave it out")
    if bleu_tokenizer is not None:
        codec = dataclasses.replace(opened.codec, bleu_tokenizer=bleu_tokenizer)
        opened = dataclasses.replace(opened, codec=codec)
    # Before decoding: it may need a package that is not installed.
    opened.codec.signature()
    if opened.codec.kind == "images":
        measured = _images(opened.codec, Path(model), data, corpus, rows)
        subject: GenerativeModel = Upscaler.of(opened).to(place)
    else:
        measured = _text(data, corpus, source_language, target_language, rows)
        subject = Translator.of(opened).to(place)
    arms = rules_of(subject.block_size, rules, block_sizes)
    words, count = KINDS[subject.codec.kind], len(measured.references)
    chosen = spread(list(range(count)), timed)
    decode = subject.compiling(decode, compile, math.inf)
    for rule in sorted({rule for _, rule in arms}):
        # Says which rules are not compiled.
        subject.compiling(DecodingOptions("blockwise", acceptance=rule), compile, math.inf)
    settings = settings_of(subject, batch_size, len(chosen), timed_batch_size, decode)
    of_corpus = Corpus(measured.folder, corpus, count, measured.hash)
    _check_earlier(path, _made_by(model, of_corpus, settings, arms))
    sources, references = measured.sources, measured.references
    with progress_bar("Comparing", words.rows, count + len(chosen)) as report:
        whole = compare_decoders(
            subject, sources, references, arms, batch_size, report, timing=False, decode=decode
        )
        if chosen:
            some = [sources[i] for i in chosen], [references[i] for i in chosen]
            times = compare_decoders(subject, *some, arms, timed_batch_size, report, decode=decode)
            whole = with_times(whole, [arm.seconds for arm in times])
    of_heads = measure_heads(subject, sources, whole, batch_size, decode)
    record = record_of(subject, model, of_corpus, settings, whole, **measured.described, **of_heads)
    write_record(path, record)
    together = f", batches of {timed_batch_size}" if chosen else ""
    title = f"{model} on {corpus}: {count} {words.rows}; calls and time by {words.row}{together}"
    Console().print(comparison_table(whole, title))
    logger.info("Written to %s", path)


class _Rows(NamedTuple):
    """The rows to measure, and their description in the record."""

    sources: Sequence[Any]
    references: Sequence[Any]
    folder: str
    hash: str
    described: dict[str, Any]
    """the fields of the record that describe the references"""


def _text(
    data: str | None, corpus: str, source_language: str, target_language: str, rows: int | None
) -> _Rows:
    """The sentence pairs of a folder. Raises InputError if there are none."""
    if data is None:
        raise InputError("--data is missing: it takes the folder of the corpus, or a file of sentence pairs")
    (files,) = find_corpus(data, [corpus], source_language, target_language)
    pairs = list(read_pairs(files))
    pairs = pairs if rows is None else [pairs[place] for place in spread(list(range(len(pairs))), rows)]
    sources, references = [source for source, _ in pairs], [target for _, target in pairs]
    return _Rows(sources, references, data, fingerprint([files]), {"references": references})


def _images(codec: ImageCodec, model: Path, data: str | None, corpus: str, rows: int | None) -> _Rows:
    """The images of a part of the data module. Raises InputError if there is none, or the model's differ in size."""
    if corpus not in ("validation", "test"):
        raise InputError(f"--corpus {corpus}: a model of images is measured on validation or test")
    source = _image_data(model.absolute().parent / "config.yaml", data, codec)
    if source.codec != codec:
        (own,), (given,) = codec.parts().values(), source.codec.parts().values()
        raise InputError(f"the model makes images of {own}, and the data's are of {given}: {codec.remedy}")
    images = source.references(corpus)  # type: ignore[arg-type]  # checked above
    if rows is not None:
        images = images[spread(list(range(len(images))), rows)]
    digest = hashlib.sha256(repr((images.shape, codec)).encode())
    for image in images:
        digest.update(image.tobytes())
    folder = str(source.path) if isinstance(source, Images) else type(source).__name__.lower()
    described = {"intensities": codec.target_length}
    return _Rows(list(codec.small(images)), list(images), folder, digest.hexdigest(), described)


def _image_data(config: Path, data: str | None, codec: ImageCodec) -> SuperResolution:
    """The data module of ``--data`` or, by default, of the model's run, whose configuration is ``config``."""
    if data == "digits":
        return Digits()
    settings: dict[str, Any] = {}
    if config.is_file():
        with damaged(config, "give --data, digits or the place of images"):
            settings = dict(yaml.safe_load(config.read_text(encoding="utf-8"))["data"])
    if data is not None:
        height, width, channels = codec.shape
        # Which images are in which part depends on the shares, so these must be the run's.
        given = settings.get("init_args", {})
        shares = {name: value for name, value in given.items() if name.endswith("_share")}
        return Images(data, height, width, channels, codec.levels, codec.factor, **shares)
    if not settings:
        raise InputError(
            f"there is no {config}, which would name the model's training data: give --data, digits or the place of "
            "images"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SuperResolution, "data")
    return parser.instantiate(parser.parse_object({"data": settings})).data


def record_of(
    subject: GenerativeModel,
    model: str,
    corpus: Corpus,
    settings: dict[str, Any],
    arms: list[Arm],
    **others: Any,
) -> Record:
    """The record of arms; ``model`` is the folder or name of the measured model, ``others`` are optional fields."""
    return Record(
        kind=subject.codec.kind,
        model=model,
        training=training_of(Path(model), subject.block_size),
        corpus=corpus,
        settings=settings,
        signature=subject.codec.signature() or "",
        provenance=provenance(),
        arms=arms,
        **others,
    )


def settings_of(
    subject: GenerativeModel,
    batch_size: int,
    timed_rows: int,
    timed_batch_size: int,
    decode: DecodingOptions,
) -> dict[str, Any]:
    """Everything but model, corpus and rules that the numbers of a record depend on."""
    device, codec = subject.device, subject.codec
    of_text: dict[str, Any] = {}
    if codec.kind == "text":
        limit = "extra_length" if decode.max_new_tokens is None else "max_new_tokens"
        of_text = {limit: getattr(decode, limit), "bleu_tokenizer": codec.bleu_tokenizer}
    return {
        "device": device.type,
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": str(subject.network.output_weight.dtype).removeprefix("torch."),
        **({"compiled": True} if decode.compile else {}),
        "batch_size": batch_size,
        "timed_rows": timed_rows,
        "timed_batch_size": timed_batch_size,
        **of_text,
    }


def rules_of(
    trained: int | None, rules: Sequence[str], block_sizes: Sequence[int] | None
) -> list[tuple[int, str]]:
    """Block size and acceptance of each arm: all sizes by the first rule, the largest by the others.

    ``trained`` is the largest block that the heads propose, None for a model without heads.

    Raises:
        InputError: Block sizes are asked for, and the model has no heads.
    """
    if block_sizes is None:
        largest = trained or 1
        block_sizes = sorted({*range(2, largest + 1, 2), largest} - {1})
    elif trained is None:
        raise InputError(
            "this model has no block heads: leave --block_sizes out to measure greedy decoding alone"
        )
    if not block_sizes or not rules:
        return []
    first, *others = rules
    return [*((size, first) for size in block_sizes), *((max(block_sizes), rule) for rule in others)]


def training_of(folder: Path, trained: int | None) -> Training:
    """How a finished model was trained: regime, data, block size and seed, as its ``metrics.json`` says."""
    known: dict[str, Any] = {}
    if (folder / "metrics.json").is_file():
        remedy = "export the model again, or write {} into that file"
        known = read_json(folder / "metrics.json", remedy).get("training", {})
        known = known if isinstance(known, dict) else {}
    regime = known.get("regime", "base" if trained is None else "unknown")
    return Training(regime, known.get("data", "unknown"), trained or 1, known.get("seed"))


def _check_earlier(path: Path, making: Mapping[str, Any]) -> None:
    """Raise InputError if ``path`` holds a record that was measured otherwise, such as a cell of a grid."""
    try:
        earlier = read_record(path)
    except InputError:
        return  # There is none, or none that report would read.
    rules = [(arm.block_size, arm.acceptance) for arm in earlier.arms[1:]]
    made = _made_by(earlier.model, earlier.corpus, earlier.settings, rules)
    if different := [
        f"{name} {made.get(name)} there, {making.get(name)} now"
        for name in {**made, **making}
        if made.get(name) != making.get(name)
    ]:
        raise InputError(
            f"{path} was measured otherwise ({'; '.join(different)}) and is kept: give --output OTHER, or move it away"
        )


def _made_by(
    model: str, corpus: Corpus, settings: Mapping[str, Any], rules: Sequence[tuple[int, str]]
) -> dict[str, Any]:
    """Everything that a record's numbers depend on, by name; ``rules`` are those after greedy decoding."""
    path = Path(model)
    return {
        # A name that is no path, such as hf:NAME, is the same everywhere.
        "model": str(path.resolve() if path.exists() else path),
        "corpus": corpus.name,
        "rows": corpus.rows,
        "hash of the corpus": corpus.hash[:12],
        "rules": ", ".join(f"k = {size} {acceptance}" for size, acceptance in rules),
        # Records from before BLEU had a choice of tokenizers do not name the tokenizer.
        **({"bleu_tokenizer": "13a"} if "extra_length" in settings else {}),
        **settings,
    }
