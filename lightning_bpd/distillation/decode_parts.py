"""The teacher at work: parts decoded by one process or several (floor 4)."""

from __future__ import annotations

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lightning_bpd.datamodules.encoded_corpus import RaggedRows
from lightning_bpd.decoding import beam_search, greedy
from lightning_bpd.distillation.part_files import Hypothesis, Row, write_part
from lightning_bpd.distillation.plan import Job, Settings, batches_of_part, rows_of_part
from lightning_bpd.faults import explain
from lightning_bpd.interfaces import DecodeResult, InputError, TokenRows
from lightning_bpd.saved.translation import Translator, load, pad

# Seconds after which a process that waits looks whether the others still live.
_PATIENCE = 1.0


class Work(NamedTuple):
    """All that a process needs in order to make parts."""

    teacher: str
    """folder of the finished model"""
    source: RaggedRows
    """source tokens of the corpus, memory-mapped"""
    job: Job
    folder: Path
    """where parts are written"""


def make_parts(
    work: Work, parts: Sequence[int], devices: Sequence[str], progress: Callable[[int], None]
) -> None:
    """Decode and write parts, in as many processes as there are devices.

    Args:
        work: What to make them of.
        parts: Their numbers.
        devices: One for each process, such as cuda:0; cpu any number of times. One is used in this process.
        progress: Called with numbers of rows done.

    Raises:
        InputError: A part cannot be written, or a process was killed. Parts that were finished stay.
    """
    if len(devices) == 1:
        with _one_thread(devices[0]):
            translator = open_teacher(work.teacher, work.job.settings, devices[0])
            for part in parts:
                make_part(translator, work, part, progress)
        return
    context = multiprocessing.get_context("spawn")
    waiting, told = context.Queue(), context.Queue()
    for task in [*parts, *[None] * len(devices)]:
        waiting.put(task)
    processes = [
        context.Process(target=_run, args=(work, device, waiting, told, os.getpid()), daemon=True)
        for device in devices
    ]
    for process in processes:
        process.start()
    try:
        ended = 0
        while ended < len(processes):
            try:
                message = told.get(timeout=_PATIENCE)
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
    """Raise InputError if a process ended without a word, as the kernel ends it when memory is short."""
    codes = [process.exitcode for process in processes]
    # One that was interrupted by itself ends with 0; then somebody is missing when all have ended.
    if any(code not in (None, 0) for code in codes) or None not in codes:
        raise InputError(
            f"processes that decode ended with exit codes {codes}, perhaps for want of memory: finished parts are "
            "kept; give the same command again, with fewer --processes"
        )


def _run(work: Work, device: str, waiting: Any, told: Any, parent: int) -> None:
    """A process of its own: takes parts until there are none."""

    def progress(rows: int) -> None:
        if os.getppid() != parent:
            os._exit(1)  # Killed, it could not end its children.
        told.put(rows)

    try:
        with _one_thread(device):
            translator = open_teacher(work.teacher, work.job.settings, device)
            while (part := waiting.get()) is not None:
                make_part(translator, work, part, progress)
        told.put(None)
    except KeyboardInterrupt:
        pass  # Ctrl-C reaches all processes; the first one says so.
    except Exception as error:  # whatever it is, the first process raises it
        message = explain(error)
        told.put(("other", traceback.format_exc()) if message is None else ("input", message))


@contextmanager
def _one_thread(device: str) -> Any:
    """On a CPU each process computes in one thread: sums then do not depend on the number of threads."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def open_teacher(folder: str, settings: Settings, device: str) -> Translator:
    """The teacher, in the precision that it is to decode in."""
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
        hypotheses |= zip(batch.tolist(), decode_batch(translator, source, settings), strict=True)
        progress(len(batch))
    write_part(
        work.folder,
        work.job,
        part,
        [Row(int(row), int(work.source.lengths[row]), hypotheses.get(int(row), [])) for row in rows],
    )
    progress(len(rows) - len(hypotheses))


def decode_batch(translator: Translator, source: TokenRows, settings: Settings) -> list[list[Hypothesis]]:
    """The hypotheses of each source, best first."""
    result: DecodeResult
    if settings.decoder == "greedy":
        result = greedy(translator.model, source, settings.extra_length)
    else:
        result = beam_search(
            translator.model,
            source,
            settings.beam,
            settings.alpha,
            settings.extra_length,
            settings.best,
        )
    rows = result.rows()
    texts = translator.target_tokenizer.decode(rows)
    scores = [None] * len(rows) if result.scores is None else result.scores.tolist()
    found = [
        Hypothesis(text, len(row), row[-1] in translator.model.ends, score) if row else None
        for text, row, score in zip(texts, rows, scores, strict=True)
    ]
    return [
        [hypothesis for hypothesis in found[first : first + settings.best] if hypothesis is not None]
        for first in range(0, len(found), settings.best)
    ]
