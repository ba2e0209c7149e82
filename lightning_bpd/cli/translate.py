"""translate: text in, text out, line for line, in bounded memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import torch

from lightning_bpd.codecs.text_lines import read_lines
from lightning_bpd.decoding import DecodingOptions, make_sampler
from lightning_bpd.files import whole_file
from lightning_bpd.interfaces import InputError, check_range
from lightning_bpd.progress import progress_bar
from lightning_bpd.saved.translation import load

# Lines read, translated and written at a time: enough for batches of similar length, few enough for any memory.
CHUNK = 10_000


def translate(
    model: str,
    input: str = "-",
    output: str = "-",
    decoder: Literal["greedy", "beam", "blockwise", "jacobi"] = "greedy",
    batch_size: int = 64,
    beam: int = 4,
    alpha: float = 0.6,
    extra_length: int = 50,
    max_new_tokens: int | None = None,
    block_size: int | None = None,
    acceptance: str = "exact",
    sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    compile: Literal["auto", "always", "never"] = "auto",
    base: str | None = None,
) -> None:
    """Translate text, line for line, with a finished model.

    The text is UTF-8, plain or compressed by gzip, xz or bzip2. A line ends with a line feed, or with a carriage
    return and a line feed; any other character, such as U+2028, is part of the line.

    Args:
        model: Folder of the finished model, such as runs/default/model; or a Hugging Face model, hf:NAME_OR_FOLDER.
        input: File or pipe to translate; - is standard input.
        output: File to write, complete or not at all (a pipe or device is written as it is); - is standard output.
        decoder: greedy; blockwise, whose exact rule gives greedy's output in fewer calls; jacobi, which does so without
            heads; or beam, slightly better.
        batch_size: Lines decoded together.
        beam: Prefixes that beam search keeps.
        alpha: Exponent of beam search's length penalty.
        extra_length: Tokens that a translation may be longer than its source.
        max_new_tokens: The most tokens of an output, whatever its source; replaces extra_length.
        block_size: Tokens that a call verifies; by default as many as the heads were trained for, and 8 for jacobi.
        acceptance: Which proposals stay: exact; adaptive (exact, with only as many proposals as pay on this machine);
            top-N; or minimum-N (at least N tokens a block).
        sample: Draw tokens at random instead of taking the most probable ones; a seed gives the same text by every
            decoder and batch size.
        temperature: Divides the logits: below 1 the output is less random.
        top_k: Draw from the k most probable tokens only.
        top_p: Draw from the most probable tokens whose probabilities add up to top_p.
        seed: Selects the random numbers.
        device: Such as cpu, cuda or cuda:1; auto takes a GPU if there is one.
        compile: Whether calls are compiled by torch: the same output, up to three times as fast on a CPU, after 15 to
            60 seconds of compiling, once for a shape of model. auto is if there is enough text, on a CPU.
        base: Where the Hugging Face model is that the heads were trained on, hf:NAME_OR_FOLDER, if it has moved.
    """
    sampler = make_sampler(sample, temperature, top_k, top_p, seed)
    check_range(1, batch_size=batch_size)
    options = DecodingOptions(
        decoder, beam, alpha, extra_length, block_size, acceptance, sampler, max_new_tokens
    )
    translator = load(model, find_device(device), base)
    lines, done = read_lines(input), 0
    with _open_output(output) as target, progress_bar("Translating", "lines") as count:
        while chunk := list(islice(lines, CHUNK)):
            if not done:
                options = translator.compiling(options, compile, len(chunk) / batch_size)
            translations = translator.translate(chunk, options, batch_size, first_row=done, progress=count)
            done += len(chunk)
            target.write("".join(f"{line}\n" for line in translations).encode())
            target.flush()


def find_device(name: str) -> torch.device:
    """The device of a name; auto is a GPU if there is one. Raises InputError for a device that cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Read the number back, because a device such as meta holds no numbers.
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(name)


@contextmanager
def _open_output(path: str) -> Iterator[BinaryIO]:
    """Standard output; a pipe or device as it is; or a file that appears under its name only when complete."""
    if path == "-":
        if sys.__stdout__ is None:
            raise InputError("standard output is closed: give --output FILE")
        yield sys.stdout.buffer
        return
    # A link stays a link: the file that it leads to is replaced.
    target = Path(os.path.realpath(path))
    try:
        with whole_file(target) if target.is_file() or not target.exists() else open(path, "wb") as file:
            yield file
    except OSError as error:
        if error.filename not in (path, str(target)):
            raise
        raise InputError(f"--output {path} cannot be written: {error.strerror}") from error
