"""distill: a teacher's translations of a whole corpus, as training data."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lightning_bpd.cli.translate import find_device
from lightning_bpd.codecs.hugging_face import HuggingFaceCodec, is_reference, with_template
from lightning_bpd.datamodules.distilled import read_manifest
from lightning_bpd.datamodules.encoded_corpus import encode_corpus
from lightning_bpd.datamodules.held_out import first_alike, held_out_rows
from lightning_bpd.datamodules.parallel_text import check_tokenizers
from lightning_bpd.datamodules.text_files import PairFiles, find_corpus, fingerprint, read_pairs
from lightning_bpd.decoding import Sampled, compiling
from lightning_bpd.distillation.assemble import assemble
from lightning_bpd.distillation.decode_parts import Work, decoding_options, make_parts
from lightning_bpd.distillation.part_files import missing_parts
from lightning_bpd.distillation.plan import (
    Job,
    Settings,
    close_folder,
    count_batches,
    open_folder,
    reopen_folder,
)
from lightning_bpd.interfaces import MOST, InputError
from lightning_bpd.progress import progress_bar
from lightning_bpd.saved import finished_model

logger = logging.getLogger(__name__)

# Source tokens decoded together, padding included: enough to keep the device busy, few enough for its caches.
BATCH_TOKENS = {"cpu": 1024, "cuda": 32_768}
# For teachers that complete prompts: memory for keys and values on a CPU, and as a share of a GPU's memory.
CACHE_BYTES, CACHE_SHARE = 1 << 30, 0.25
EXTRA_LENGTH, MAX_NEW_TOKENS = 50, 256
# For prompts of a model without a limit.
LONGEST_PROMPT = 4096


def distill(
    teacher: str,
    data: str,
    output: str,
    corpus: list[str] = ["train"],  # noqa: B006  # never changed
    source_language: str | None = None,
    target_language: str | None = None,
    template: str | None = None,
    decoder: Literal["beam", "greedy", "sample"] | None = None,
    beam: int = 4,
    alpha: float = 0.6,
    best: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    extra_length: int = EXTRA_LENGTH,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    max_length_ratio: float | None = None,
    keep_unfinished: bool = False,
    held_out: int = 0,
    precision: Literal["float32", "bfloat16"] = "float32",
    batch_tokens: int | None = None,
    part_rows: int = 2000,
    shard: str | None = None,
    processes: int | None = None,
    device: str = "auto",
    compile: Literal["auto", "always", "never"] = "auto",
) -> None:
    """Replace the target side of a corpus by a teacher's translations (Kim and Rush 2016), or complete prompts.

    The corpus is cut into parts of rows of similar length. Each part is written once it is complete, and the finished
    files are made from all parts at the end. After an interruption the same command makes the missing parts. Neither an
    interruption nor the number of processes and machines of one kind changes a byte of the result.

    Train on the result with --data.distilled OUTPUT --data.mix distilled (or both). With --held_out the result is a
    complete corpus for --data OUTPUT.

    A decoder-only teacher completes prompts: JSON lines with a prompt or with messages, or a file of lines. The result
    is JSON lines, whose completions keep their line breaks. An instruction model needs --template chat.

    Args:
        teacher: Folder of a finished model, or hf:NAME_OR_FOLDER. In the paper the teacher has the base's
            hyper-parameters and another seed.
        data: Folder of the corpus, whose target side is not needed; or a file or pipe of sentences, one a line, plain
            or compressed; - is standard input. JSON lines (.jsonl) hold prompts or messages.
        output: Folder to write: train.SOURCE, train.TARGET (train.jsonl for prompts, and if a source has several
            lines), distillation.json, and parts/.
        corpus: Names of the corpora in the folder ``data``; they are joined.
        source_language: Ending of source files, and key of sources in JSON lines; en by default, and prompt for a
            decoder-only teacher.
        target_language: Ending of target files, and key of targets; de by default, and completion likewise.
        template: Makes a prompt from a source, for a decoder-only teacher: text that contains {source}, or chat for the
            chat template of its tokenizer. By default the source itself, or as the teacher was trained.
        decoder: Beam search, greedy decoding or sampling. By default beam, and greedy for a decoder-only teacher.
        beam: Prefixes that beam search keeps.
        alpha: Exponent of beam search's length penalty.
        best: Translations of each row to keep, each as a separate pair.
        temperature: Divides the logits in sampling: below 1 the output is less random.
        top_k: Draw from the k most probable tokens only.
        top_p: Draw from the most probable tokens whose probabilities add up to top_p.
        seed: Selects the random numbers of sampling.
        extra_length: Tokens that a translation may be longer than its source; translations of this length are left out.
        max_new_tokens: The most tokens of a completion, 256 by default, in place of extra_length for a decoder-only
            teacher; completions of this length are left out.
        max_length: The most source tokens of a row, end token included; longer rows are left out. 256 by default, and
            for prompts as many as the teacher reads.
        max_length_ratio: The largest ratio of the tokens of the longer side to the shorter; other pairs are left out. 3
            by default; completions of prompts may have any length.
        keep_unfinished: Keep outputs that reached the length limit. In training they end with an end token, too, which
            does not matter to a drafter on a frozen base.
        held_out: Different sources, evenly spread over the corpus, to validate on: the pairs of all rows with these
            sources are written as val.SOURCE and val.TARGET, and not into train.
        precision: The number format of the teacher's computation.
        batch_tokens: Source tokens decoded together, padding included; 1,024 on a CPU and 32,768 on a GPU by default.
            For prompts, tokens of prompts and completions; by default as many as fit into 1 GiB of keys and values, on
            a GPU into a quarter of its memory.
        part_rows: Rows of a part, which is the most that an interruption loses for each process.
        shard: This machine's share of the parts, such as 2/5. Several machines write to one shared folder, and the last
            to end makes the files. Under torchrun each rank is a shard.
        processes: Processes to decode in; one for each GPU, or each core, by default.
        device: Such as cpu or cuda; auto takes all GPUs there are.
        compile: Whether calls of greedy decoding and sampling are compiled by torch, as in translate: the same output
            but for near-ties. auto is if the whole corpus has enough batches, on a CPU.
    """
    kind = find_device(device).type
    read = finished_model.read_base if is_reference(teacher) else finished_model.read_folder
    model = read(teacher)
    network, codec = model.network, model.codec
    if codec.kind != "text":
        raise InputError(f"--teacher {teacher} is a model of {codec.kind}: text alone is distilled")
    prompts = codec.prompts
    if template is not None:
        if not prompts:
            raise InputError(f"--template is for decoder-only teachers, and {teacher} is none: leave it out")
        codec = with_template(codec, template)
    if prompts:
        if extra_length != EXTRA_LENGTH:
            raise InputError(
                "--extra_length is for translations, and completions have --max_new_tokens: give that"
            )
        max_new_tokens = MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens
        _hint_at_chat(codec, teacher)
    elif max_new_tokens is not None:
        raise InputError(
            f"--max_new_tokens is for decoder-only teachers, and {teacher} is none: use --extra_length"
        )
    languages = ("prompt", "completion") if prompts else ("en", "de")
    languages = (
        languages[0] if source_language is None else source_language,
        languages[1] if target_language is None else target_language,
    )
    files = find_corpus(data, corpus, *languages, source_alone=True)
    limit = network.longest_source
    if max_length is None:
        max_length = limit or LONGEST_PROMPT if prompts else 256
    if limit is not None:
        max_length = min(max_length, limit)
    if max_length_ratio is None and not prompts:
        max_length_ratio = 3.0
    decoder = decoder or ("greedy" if prompts else "beam")
    sampling = Sampled(temperature, top_k, top_p, seed)
    if decoder != "sample" and sampling != Sampled():
        raise InputError(
            "--temperature, --top_k, --top_p and --seed are for sampling: add --decoder sample, or leave them out"
        )
    if batch_tokens is None:
        batch_tokens = _batch_tokens(network, prompts, kind, precision)
    settings = Settings(
        decoder=decoder,
        beam=beam,
        alpha=alpha,
        best=best,
        extra_length=extra_length,
        max_length=max_length,
        precision=precision,
        batch_tokens=batch_tokens,
        part_rows=part_rows,
        device=kind,
        max_new_tokens=max_new_tokens,
        sampling=sampling if decoder == "sample" else None,
    )
    number, shards = _shard(shard)
    devices = _devices(device, kind, processes)
    folder = Path(output)
    check_tokenizers(codec, (teacher, teacher), files[0])
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
        sides = codec.source, codec.target
        encoded = encode_corpus(
            files, *sides, folder / "encoded", max_length, drop=False, description="corpus"
        )
        rows = sum(min(part_rows, job.pairs - part * part_rows) for part in own)
        # By the batches of the whole corpus, so that neither an interruption nor a share changes the answer.
        batches = count_batches(job, encoded.source.lengths)
        when = "never" if compile == "auto" and kind != "cpu" else compile
        compiles = compiling(decoding_options(settings), when, model.model, None, batches).compile
        devices = devices[: len(own)]
        parts = f"{len(own)} of {job.parts} parts to make"
        logger.info("%s, %d rows, on %d x %s", parts, rows, len(devices), kind)
        started = time.monotonic()
        with progress_bar("Distilling", "rows", rows) as report:
            make_parts(Work(teacher, encoded.source, job, folder, compiles), own, devices, report)
        seconds = time.monotonic() - started
        logger.info("%d rows in %.0f s: %.1f rows/s on %s", rows, seconds, rows / seconds, precision)
    if others := len(missing_parts(folder, job)):
        logger.info("%d parts of other shards are missing: the shard that ends last makes the files", others)
        return
    reopen_folder(folder)
    held = held_out_rows(first, held_out) if held_out else None
    as_json = prompts or any("\n" in source for source in _sources(files))
    counts = assemble(
        folder, job, _sources(files), languages, max_length_ratio, held, as_json, keep_unfinished
    )
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
        # An earlier command wrote these files; train now holds their pairs.
        for ending in ("jsonl",) if as_json else languages:
            (folder / f"val.{ending}").unlink(missing_ok=True)
    close_folder(folder, {**counts, "max_length_ratio": max_length_ratio, "keep_unfinished": keep_unfinished})
    shutil.rmtree(folder / "encoded", ignore_errors=True)
    of_these = f", {counts['held out']} of them held out" if held_out else ""
    logger.info("%s: %d pairs%s; left out: %s", folder, counts["kept"], of_these, _left_out(counts))
    path = shlex.quote(str(folder))
    how = f"--data {path}" if held_out else f"--data.distilled {path} --data.mix distilled"
    if template is not None:
        how += f" --data.template {shlex.quote(template)}"
    logger.info("Train on it: %s", how)


def _batch_tokens(network: Any, prompts: bool, kind: str, precision: str) -> int:
    """The tokens decoded together by default, which must not depend on the memory that is free: it is a setting."""
    if not prompts:
        return BATCH_TOKENS.get(kind, BATCH_TOKENS["cuda"])
    memory = CACHE_BYTES
    if kind == "cuda":
        memory = int(torch.cuda.get_device_properties(0).total_memory * CACHE_SHARE)
    stored = network.output_weight.element_size()
    of_token = network.bytes_per_token() * getattr(torch, precision).itemsize // stored
    return min(max(memory // of_token, 1), MOST)


def _hint_at_chat(codec: HuggingFaceCodec, teacher: str) -> None:
    side = codec.source
    if side.settings.template is None and side.tokenizer.chat_template is not None:
        hint = "prompts are given to it as they are: if it is an instruction model, add --template chat"
        logger.warning("%s has a chat template, and %s", teacher, hint)


def _left_out(counts: Mapping[str, int]) -> str:
    left_out = ((name, count) for name, count in counts.items() if name not in ("kept", "held out"))
    return ", ".join(f"{count} {name}" for name, count in left_out if count) or "none"


def _sources(files: Sequence[PairFiles]) -> Iterator[str]:
    return (source for source, _ in chain.from_iterable(map(read_pairs, files)))


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
    count = 1 if "LOCAL_RANK" in os.environ else len(os.sched_getaffinity(0))
    return [device if device != "auto" else kind] * (processes or count)
