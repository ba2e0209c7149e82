"""Decode parts with the teacher, in one process or several (floor 4)."""

from __future__ import annotations

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_bpd.datamodules.encoded_corpus import RaggedRows
from lightning_bpd.decoding import GREEDY, DecodingOptions, beam_search, decode
from lightning_bpd.distillation.part_files import Hypothesis, Row, write_part
from lightning_bpd.distillation.plan import Job, Settings, batches_of_part, rows_of_part
from lightning_bpd.faults import explain
from lightning_bpd.interfaces import DecodeResult, InputError, TokenRows
from lightning_bpd.saved.translation import Translator, load, pad

# Seconds after which a waiting process checks that the others are alive.
_PATIENCE = 1.0


class Work(NamedTuple):
    """The inputs of a process that makes parts."""

    teacher: str
    """folder of the finished model"""
    source: RaggedRows
    """source tokens of the corpus, memory-mapped"""
    job: Job
    folder: Path
    """folder for the parts"""
    compile: bool = False
    """whether greedy decoding and sampling are compiled: the same output, but for near-ties"""


def make_parts(
    work: Work, parts: Sequence[int], devices: Sequence[str], progress: Callable[[int], None]
) -> None:
    """Decode and write parts, with one process for each device.

    Args:
        work: The inputs of the processes.
        parts: Numbers of the parts.
        devices: One for each process, such as cuda:0; cpu any number of times. A single device needs no new process.
        progress: Called with the number of rows decoded since the last call.

    Raises:
        InputError: A part cannot be written, or a process was killed. Finished parts stay.
    """
    if len(devices) == 1:
        with _one_thread(devices[0]):
            translator = open_teacher(work.teacher, work.job.settings, devices[0])
            for part in parts:
                make_part(translator, work, part, progress)
        return
    context = multiprocessing.get_context("spawn")
    tasks, messages = context.Queue(), context.Queue()
    for task in [*parts, *[None] * len(devices)]:
        tasks.put(task)
    processes = [
        context.Process(target=_run, args=(work, device, tasks, messages, os.getpid()), daemon=True)
        for device in devices
    ]
    for process in processes:
        process.start()
    try:
        ended = 0
        while ended < len(processes):
            try:
                message = messages.get(timeout=_PATIENCE)
            except queue.Empty:
                _check_alive(processes)
                continue
            if message is None:
                ended += 1
            elif isinstance(message, int):
                progress(message)
            else:
                kind, text = message
                raise InputError(text) if kind == "input" else RuntimeError(text)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _check_alive(processes: Sequence[Any]) -> None:
    """Raise InputError if a process ended without a message, such as one that the kernel killed to free memory."""
    codes = [process.exitcode for process in processes]
    # An interrupted process ends with 0 and without its last message; so it is an error if all have ended.
    if any(code not in (None, 0) for code in codes) or None not in codes:
        raise InputError(
            f"decoding processes ended with exit codes {codes}, perhaps for lack of memory: finished parts are "
            "kept; give the same command again, with fewer --processes"
        )


def _run(work: Work, device: str, tasks: Any, messages: Any, parent: int) -> None:
    """Make parts in a separate process until none are left."""

    def progress(rows: int) -> None:
        if os.getppid() != parent:
            os._exit(1)  # The parent was killed, and could not end this process.
        messages.put(rows)

    try:
        with _one_thread(device):
            translator = open_teacher(work.teacher, work.job.settings, device)
            while (part := tasks.get()) is not None:
                make_part(translator, work, part, progress)
        messages.put(None)
    except KeyboardInterrupt:
        pass  # Ctrl-C reaches all processes, and the first one reports it.
    except Exception as error:  # the first process raises any error
        message = explain(error)
        messages.put(("other", traceback.format_exc()) if message is None else ("input", message))


@contextmanager
def _one_thread(device: str) -> Any:
    """Compute in one thread on a CPU, so that sums do not depend on the number of threads."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def open_teacher(folder: str, settings: Settings, device: str) -> Translator:
    """Load the teacher in the precision of the settings."""
    translator = load(folder, device)
    translator.network.to(getattr(torch, settings.precision))
    return translator


def make_part(translator: Translator, work: Work, part: int, progress: Callable[[int], None]) -> None:
    """Decode the rows of a part and write it."""
    settings = work.job.settings
    rows = rows_of_part(work.source.lengths, part, settings)
    hypotheses: dict[int, list[Hypothesis]] = {}
    for batch in batches_of_part(rows, work.source.lengths, settings):
        source = pad([work.source[row].tolist() for row in batch], translator.device)
        numbers = torch.from_numpy(batch).to(translator.device)
        decoded = decode_batch(translator, source, settings, numbers, work.compile)
        hypotheses |= zip(batch.tolist(), decoded, strict=True)
        progress(len(batch))
    write_part(
        work.folder,
        work.job,
        part,
        [Row(int(row), int(work.source.lengths[row]), hypotheses.get(int(row), [])) for row in rows],
    )
    progress(len(rows) - len(hypotheses))


def decoding_options(settings: Settings) -> DecodingOptions:
    """Return how the teacher decodes, but for the number of hypotheses that beam search keeps."""
    return DecodingOptions(
        "beam" if settings.decoder == "beam" else "greedy",
        settings.beam,
        settings.alpha,
        settings.extra_length,
        sampler=settings.sampling or GREEDY,
        max_new_tokens=settings.max_new_tokens,
    )


def decode_batch(
    translator: Translator, source: TokenRows, settings: Settings, numbers: Tensor, compile: bool = False
) -> list[list[Hypothesis]]:
    """Decode the hypotheses of each source, best first; ``numbers`` (int64 [B]) select the noise of sampling."""
    options = replace(decoding_options(settings), compile=compile)
    result: DecodeResult
    if settings.decoder == "beam":
        extra = options.extra(source)
        result = beam_search(translator.model, source, settings.beam, settings.alpha, extra, settings.best)
    else:
        result = decode(translator.model, source, options, rows=numbers)
    rows = result.rows()
    # Completions of prompts keep their lines: they are written as JSON lines.
    texts = translator.target_tokenizer.decode(rows, keep_lines=settings.max_new_tokens is not None)
    scores = [None] * len(rows) if result.scores is None else result.scores.tolist()
    found = [
        Hypothesis(text, len(row), row[-1] in translator.model.ends, score) if row else None
        for text, row, score in zip(texts, rows, scores, strict=True)
    ]
    return [
        [hypothesis for hypothesis in found[first : first + settings.best] if hypothesis is not None]
        for first in range(0, len(found), settings.best)
    ]
