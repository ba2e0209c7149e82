"""distill: a teacher's translations of a whole corpus, as training data."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_bpd.cli.translate import find_device
from lightning_bpd.codecs.hugging_face import HuggingFaceCodec, is_reference
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import check_knows
from lightning_bpd.datamodules.distilled import read_manifest
from lightning_bpd.datamodules.encoded_corpus import encode_corpus
from lightning_bpd.datamodules.held_out import first_alike, held_out_rows
from lightning_bpd.datamodules.parallel_text import CHECKED_PAIRS
from lightning_bpd.datamodules.text_files import PairFiles, find_corpus, fingerprint, read_pairs
from lightning_bpd.distillation.assemble import assemble
from lightning_bpd.distillation.decode_parts import Work, make_parts
from lightning_bpd.distillation.part_files import missing_parts
from lightning_bpd.distillation.plan import Job, Settings, close_folder, open_folder, reopen_folder
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved import finished_model

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOGS = 30.0
# Source tokens decoded together, padding included: enough to keep the device busy, few enough for its caches.
BATCH_TOKENS = {"cpu": 1024, "cuda": 32_768}


def distill(
    teacher: str,
    data: str,
    output: str,
    corpus: list[str] = ["train"],  # noqa: B006  # never changed
    source_language: str = "en",
    target_language: str = "de",
    decoder: Literal["beam", "greedy"] = "beam",
    beam: int = 4,
    alpha: float = 0.6,
    best: int = 1,
    extra_length: int = 50,
    max_length: int = 256,
    max_length_ratio: float = 3.0,
    held_out: int = 0,
    precision: Literal["float32", "bfloat16"] = "float32",
    batch_tokens: int | None = None,
    part_rows: int = 2000,
    shard: str | None = None,
    processes: int | None = None,
    device: str = "auto",
) -> None:
    """Replace the target side of a corpus by a teacher's translations (Kim and Rush 2016).

    The corpus is cut into parts of rows of similar length. Each part is written once it is complete, and the finished
    files are made from all parts at the end. After an interruption the same command makes the missing parts. Neither an
    interruption nor the number of processes and machines of one kind changes a byte of the result.

    Train on the result with --data.distilled OUTPUT --data.mix distilled (or both). With --held_out the result is a
    complete corpus for --data OUTPUT.

    Args:
        teacher: Folder of a finished model, or hf:NAME_OR_FOLDER. In the paper the teacher has the base's
            hyper-parameters and another seed.
        data: Folder of the corpus, whose target side is not needed; or a file or pipe of sentences, one a line, plain
            or compressed; - is standard input.
        output: Folder to write: train.SOURCE, train.TARGET (train.jsonl where a source has several lines),
            distillation.json, and parts/.
        corpus: Names of the corpora in the folder ``data``; they are joined.
        source_language: Ending of source files, as training has it.
        target_language: Ending of target files.
        decoder: Beam search, or greedy decoding.
        beam: Prefixes that beam search keeps.
        alpha: Exponent of beam search's length penalty.
        best: Translations of each row to keep, each as a separate pair.
        extra_length: Tokens that a translation may be longer than its source; translations of this length are left out.
        max_length: The most source tokens of a row, end token included; longer rows are left out.
        max_length_ratio: The largest ratio of the tokens of the longer side to the shorter; other pairs are left out.
        held_out: Different sources, evenly spread over the corpus, to validate on: the pairs of all rows with these
            sources are written as val.SOURCE and val.TARGET, and not into train.
        precision: The number format of the teacher's computation.
        batch_tokens: Source tokens decoded together, padding included; 1,024 on a CPU and 32,768 on a GPU by default.
        part_rows: Rows of a part, which is the most that an interruption loses for each process.
        shard: This machine's share of the parts, such as 2/5. Several machines write to one shared folder, and the last
            to end makes the files. Under torchrun each rank is a shard.
        processes: Processes to decode in; one for each GPU, or each core, by default.
        device: Such as cpu or cuda; auto takes all GPUs there are.
    """
    files = find_corpus(data, corpus, source_language, target_language, source_alone=True)
    kind = find_device(device).type
    read = finished_model.read_base if is_reference(teacher) else finished_model.read_folder
    model = read(teacher)
    network, codec = model.network, model.codec
    if not isinstance(codec, TextCodec | HuggingFaceCodec):
        raise InputError(f"--teacher {teacher} is a model of {codec.kind}: text alone is distilled")
    limit = network.longest_source
    if limit is not None:
        max_length = min(max_length, limit)
    settings = Settings(
        decoder=decoder,
        beam=beam,
        alpha=alpha,
        best=best,
        extra_length=extra_length,
        max_length=max_length,
        precision=precision,
        batch_tokens=BATCH_TOKENS.get(kind, BATCH_TOKENS["cuda"]) if batch_tokens is None else batch_tokens,
        part_rows=part_rows,
        device=kind,
    )
    number, shards = _shard(shard)
    devices = _devices(device, kind, processes)
    folder = Path(output)
    _check_teacher(codec, teacher, files)
    weights = finished_model.fingerprint(network)
    identity = "-".join((weights, codec.source.fingerprint, codec.target.fingerprint))
    first = first_alike(_sources(files))
    job = Job(identity, fingerprint(files), len(first), settings)
    different = len(np.unique(first))
    if not 0 <= held_out < different:
        alike = f" with {different} different sources" if different < job.pairs else ""
        raise InputError(
            f"--held_out {held_out}: of {job.pairs} rows{alike} 0 to {different - 1} can be held out"
        )
    about = {
        "teacher": {"path": teacher, "network": weights},
        "corpus": {"path": ", ".join(str(path) for part in files for path in part.paths)},
    }
    open_folder(folder, job, about)
    own = [part for part in missing_parts(folder, job) if part % shards == number]
    if own:
        encoded = encode_corpus(
            files,
            codec.source,
            codec.target,
            folder / "encoded",
            max_length,
            drop=False,
            description="corpus",
        )
        rows = [_rows(part, job) for part in own]
        logger.info(
            "%d of %d parts to make, %d rows, on %d x %s",
            len(own),
            job.parts,
            sum(rows),
            min(len(devices), len(own)),
            kind,
        )
        started = time.monotonic()
        with _progress(sum(rows)) as report:
            work = Work(teacher, encoded.source, job, folder)
            make_parts(work, own, devices[: len(own)], report)
        seconds = time.monotonic() - started
        logger.info(
            "%d rows in %.0f s: %.1f rows/s on %s",
            sum(rows),
            seconds,
            sum(rows) / seconds,
            settings.precision,
        )
    if elsewhere := len(missing_parts(folder, job)):
        logger.info(
            "%d parts of other shards are missing: the shard that ends last makes the files", elsewhere
        )
        return
    languages = (source_language, target_language)
    reopen_folder(folder)
    held = held_out_rows(first, held_out) if held_out else None
    as_json = any("\n" in source for source in _sources(files))
    counts = assemble(folder, job, _sources(files), languages, max_length_ratio, held, as_json)
    if not counts["kept"]:
        raise InputError(
            f"{folder}: nothing is left of {job.pairs} rows ({_left_out(counts)}): is {teacher} a trained model of "
            "this task?"
        )
    if held_out and not 0 < counts["held out"] < counts["kept"]:
        raise InputError(
            f"{folder}: {counts['held out']} of {counts['kept']} pairs are held out (left out: {_left_out(counts)}), "
            "and both train and val need some: give another --held_out; all parts are kept"
        )
    if not held_out and "held out" in read_manifest(folder).get("result", {}):
        # Of an earlier command: train now holds these pairs.
        for ending in ("jsonl",) if as_json else languages:
            (folder / f"val.{ending}").unlink(missing_ok=True)
    close_folder(folder, {**counts, "max_length_ratio": max_length_ratio})
    shutil.rmtree(folder / "encoded", ignore_errors=True)
    of_these = f", {counts['held out']} of them held out" if held_out else ""
    logger.info("%s: %d pairs%s; left out: %s", folder, counts["kept"], of_these, _left_out(counts))
    path = shlex.quote(str(folder))
    how = f"--data {path}" if held_out else f"--data.distilled {path} --data.mix distilled"
    logger.info("Train on it: %s", how)


def _left_out(counts: Mapping[str, int]) -> str:
    left_out = ((name, count) for name, count in counts.items() if name not in ("kept", "held out"))
    return ", ".join(f"{count} {name}" for name, count in left_out if count) or "none"


def _check_teacher(codec: TextCodec | HuggingFaceCodec, teacher: str, files: Sequence[PairFiles]) -> None:
    first = list(islice(read_pairs(files[0]), CHECKED_PAIRS))
    paths = files[0].paths
    for side, tokenizer in enumerate((codec.source, codec.target)):
        check_knows(tokenizer, [pair[side] for pair in first], teacher, str(paths[side % len(paths)]))


def _sources(files: Sequence[PairFiles]) -> Iterator[str]:
    return (source for source, _ in chain.from_iterable(map(read_pairs, files)))


def _rows(part: int, job: Job) -> int:
    size = job.settings.part_rows
    return min(size, job.pairs - part * size)


def _shard(shard: str | None) -> tuple[int, int]:
    """This process's number, from 0, and the number of shards."""
    if shard is None:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--shard {shard!r} is no share: give i/n, such as 1/4 to 4/4")
    return int(match[1]) - 1, int(match[2])


def _devices(device: str, kind: str, processes: int | None) -> list[str]:
    """A device for each process."""
    if processes is not None and processes < 1:
        raise InputError(f"--processes {processes}: at least 1 is needed")
    if kind == "cuda":
        local = os.environ.get("LOCAL_RANK")
        if ":" in device or local is not None:
            return [device if ":" in device else f"cuda:{local}"] * (processes or 1)
        count = torch.cuda.device_count()
        return [f"cuda:{number % count}" for number in range(processes or count)]
    # A rank under torchrun shares its machine with others.
    alone = "LOCAL_RANK" not in os.environ
    return [device if device != "auto" else kind] * (
        processes or (len(os.sched_getaffinity(0)) if alone else 1)
    )


@contextmanager
def _progress(rows: int) -> Iterator[Callable[[int], None]]:
    """A bar with rows per second and remaining time on a terminal, and log lines elsewhere."""
    started = time.monotonic()
    done = 0
    if sys.stderr.isatty():
        columns = (
            TextColumn("Distilling"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=rows, rate="")

            def show(count: int) -> None:
                nonlocal done
                done += count
                rate = f"{done / max(time.monotonic() - started, 1e-9):,.1f} rows/s"
                bar.update(task, completed=done, rate=rate)

            yield show
        return
    last = started

    def log(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LOGS:
            last = now
            rate = done / (now - started)
            left = (rows - done) / max(rate, 1e-9) / 60
            logger.info("%d of %d rows, %.1f rows/s, %.0f min left", done, rows, rate, left)

    yield log
