"""One hostile input tried, in this process."""

import contextlib
import io
import logging
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from damage import contents
from inputs import make_input

from lightning_bpd.cli.entry import main


def tried(number: int, seed: int, artefacts: Path, folder: Path) -> tuple[str, str | None]:
    """Run the command of an input.

    Args:
        number: Of the input.
        seed: Of all inputs.
        artefacts: What ``artefacts`` wrote.
        folder: The input's own, empty; it is gone afterwards.

    Returns:
        The command; and what is wrong with how it ended, None if nothing is.
    """
    kind, given = make_input(number, seed, artefacts, folder)
    before = contents(folder), contents(artefacts)
    words = f"{kind}: {' '.join(given.args)[:1500]}"
    earlier = Path.cwd()
    os.chdir(folder / "out")
    try:
        with streams(given.stdin) as (_, errors):
            code, fault = run(given.args)
    finally:
        os.chdir(earlier)
    wrong = fault or wrong_end(code, errors.getvalue().decode(errors="replace"))
    if wrong is None:
        changed = [path for path in written(before[0], contents(folder)) if not is_output(path)]
        changed += filter(lambda path: not is_output(path), written(before[1], contents(artefacts)))
        left = [path for path in contents(folder) if is_partial(path)]
        if changed or left:
            wrong = f"written outside its output: {changed[:5]}; left behind: {left[:5]}"
    shutil.rmtree(folder, ignore_errors=True)
    return words, wrong


def run(args: list[str]) -> tuple[int, str | None]:
    """The exit code of a command, and the traceback of what it did not explain."""
    # A message is shown by the stream of the moment.
    logging.getLogger("lightning_bpd").handlers.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            main(args)
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else int(bool(stopped.code)), None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return 1, "".join(traceback.format_exception(error))[-3000:]
    return 0, None


def wrong_end(code: int, errors: str) -> str | None:
    """What is wrong with an exit code and standard error: 0 and 1 (a row of certify differs) need no words."""
    lines = errors.splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    if "Traceback" in errors or "Logging error" in errors:
        return f"a traceback: {errors[-3000:]}"
    if code in (0, 1) and not said:
        return None
    if code != 2 or len(said) != 1 or said[0] != lines[-1] or len(said[0]) < 15:
        return f"exit code {code}, and on standard error: {errors[-1500:]}"
    return f"a line of {len(said[0])} characters: {said[0][:300]}" if len(said[0]) > 3000 else None


def written(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> list[str]:
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def is_output(path: str) -> bool:
    # A lock lies beside the folder of a run, and encoded text beside the text.
    return path.startswith("out/") or ".encoded" in path or path.endswith(".lock")


def is_partial(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return name.endswith(".partial") or name.startswith((".model-", ".o-"))


@contextlib.contextmanager
def streams(stdin: bytes) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Standard streams in memory; yields what is written to standard output and standard error."""
    before = sys.stdin, sys.stdout, sys.stderr
    output, errors = io.BytesIO(), io.BytesIO()
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    sys.stdout = io.TextIOWrapper(output, "utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(errors, "utf-8", errors="backslashreplace", write_through=True)
    streams_now = sys.stdout, sys.stderr
    try:
        yield output, errors
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        for stream in streams_now:
            # Kept by libraries that asked for the stream: it is not to be closed under them.
            stream.detach()
