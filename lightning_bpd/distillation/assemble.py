"""Join parts to a corpus in the original order, without hypotheses that are not worth training on (floor 4)."""

from __future__ import annotations

import json
import mmap
import tempfile
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_bpd.datamodules.text_files import as_record
from lightning_bpd.distillation.part_files import Hypothesis, Row, parse_row, read_body
from lightning_bpd.distillation.plan import Job, Settings
from lightning_bpd.files import whole_file
from lightning_bpd.interfaces import InputError

# Reasons for leaving out a row or a hypothesis.
REASONS = ("source without text", "source too long", "length limit", "no text", "length ratio")


def assemble(
    folder: Path,
    job: Job,
    sources: Iterable[str],
    languages: tuple[str, str],
    max_length_ratio: float | None,
    held_out: NDArray[np.bool_] | None = None,
    as_json: bool = False,
    keep_unfinished: bool = False,
) -> dict[str, int]:
    """Write the corpus (train, and val if rows are held out) in the original order, as two text files or JSON lines.

    Args:
        folder: The folder of all parts, which also gets the files.
        job: The job of the parts.
        sources: The source lines of the corpus, in order.
        languages: Endings of source files and target files.
        max_length_ratio: A hypothesis is left out if the longer side has more tokens than this times those of the
            shorter side, without end tokens; None keeps all.
        held_out: Rows that go into val instead of train, bool [N]; none by default.
        as_json: Whether to write JSON lines, for texts of several lines.
        keep_unfinished: Whether to keep hypotheses that reached the length limit.

    Returns:
        The number of ``kept`` hypotheses, and of rows or hypotheses left out for each reason. If rows are held out,
        also the number of kept hypotheses that are ``held out``.

    Raises:
        InputError: A file cannot be written, or a part is damaged.
    """
    counts = dict.fromkeys(("kept", *REASONS), 0)
    if held_out is not None:
        counts["held out"] = 0
    corpora = ("train",) if held_out is None else ("train", "val")
    endings = ("jsonl",) if as_json else languages
    names = [f"{corpus}.{ending}" for corpus in corpora for ending in endings]
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(whole_file(folder / name)) for name in names]
            for line, row in zip(sources, rows_in_order(folder, job), strict=True):
                texts = kept_texts(row, job.settings, max_length_ratio, counts, keep_unfinished)
                of_corpus = files[: len(endings)]
                if held_out is not None and held_out[row.row]:
                    of_corpus = files[len(endings) :]
                    counts["held out"] += len(texts)
                for text in texts:
                    contents = [line, text]
                    if as_json:
                        contents = [json.dumps(as_record(line, text, *languages), ensure_ascii=False)]
                    for file, content in zip(of_corpus, contents, strict=True):
                        # Readers drop one carriage return before a line feed, so such lines get another one.
                        file.write(f"{content}{chr(13) * content.endswith(chr(13))}\n".encode())
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror}; all parts are kept: make room and give the same command "
            "again"
        ) from error
    return counts


def rows_in_order(folder: Path, job: Job) -> Iterator[Row]:
    """Yield the rows of all parts in the order of the corpus, without holding all of them in memory."""
    begins = np.zeros(job.pairs, dtype=np.int64)
    offset = 0
    with tempfile.TemporaryFile(dir=folder) as together:
        for part in range(job.parts):
            body = read_body(folder, job, part)
            together.write(body)
            for line in body.splitlines(keepends=True):
                begins[parse_row(line).row] = offset
                offset += len(line)
        together.flush()
        with mmap.mmap(together.fileno(), 0, access=mmap.ACCESS_READ) as lines:
            for begin in begins.tolist():
                lines.seek(begin)
                yield parse_row(lines.readline())


def kept_texts(
    row: Row,
    settings: Settings,
    max_length_ratio: float | None,
    counts: MutableMapping[str, int],
    keep_unfinished: bool = False,
) -> list[str]:
    """Return the hypotheses of a row that are worth training on; count the others by reason in ``counts``."""
    if not row.hypotheses:
        too_long = row.source_tokens >= settings.max_length
        counts["source too long" if too_long else "source without text"] += 1
        return []
    texts = []
    for hypothesis in row.hypotheses:
        reason = _reason(hypothesis, row.source_tokens, max_length_ratio, keep_unfinished)
        counts[reason or "kept"] += 1
        if reason is None:
            texts.append(hypothesis.text)
    return texts


def _reason(
    hypothesis: Hypothesis, source_tokens: int, max_length_ratio: float | None, keep_unfinished: bool
) -> str | None:
    if not (hypothesis.ended or keep_unfinished):
        return "length limit"
    if not hypothesis.text.strip():
        return "no text"
    if max_length_ratio is None:
        return None
    shorter, longer = sorted((hypothesis.tokens - 1, source_tokens - 1))
    return "length ratio" if longer > max_length_ratio * shorter else None
