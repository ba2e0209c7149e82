"""The entry of the command line: picks the subcommand and turns mistakes of the user into one line.

Nothing here imports torch or Lightning, so that ``--help`` and ``report`` do not wait for them.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from importlib import import_module
from inspect import signature
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any, TextIO, get_type_hints

from lightning_bpd.cli.late import late
from lightning_bpd.faults import explain, program, report_request
from lightning_bpd.files import shipped
from lightning_bpd.interfaces import InputError

HELP = """usage: {program} COMMAND [options]

Train, decode and measure blockwise parallel decoding models.

commands:
  fit        train a model; alone, it trains on the demo corpus and needs nothing else
  validate   measure a checkpoint on the validation set
  test       measure a checkpoint on the test set
  predict    write a checkpoint's output for the test set
  translate  translate text, line for line, with a finished model
  generate-images  images of classes, with a finished model that generates them
  upscale    enlarge images with a finished model of images
  certify    show that a finished model's blockwise output is its greedy output
  compare    measure greedy and blockwise decoding of a corpus side by side
  report     make tables and figures of what compare measured: report RUNS...
  distill    replace the target side of a corpus by a teacher's translations
  grid       the paper's table as a plan of runs: trains, measures and reports what is missing
  export     make a finished model of a checkpoint
  convert    make a finished model of a Marian model, such as those of opus-mt, or of LlamaGen or PAR

{program} COMMAND --help lists the options of a command.
"""

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
FUNCTION_COMMANDS = tuple(
    name for name in re.findall(r"^  ([\w-]+)  ", HELP, re.MULTILINE) if name not in TRAINER_COMMANDS
)


def main(args: list[str] | None = None) -> None:
    """Run one subcommand.

    Args:
        args: The arguments after the program's name; the process's own arguments by default.

    Raises:
        SystemExit: Code 0 after printing help; 2 after a mistake of the user or an error of the machine, with one line
            on standard error; 1 when the reader of the output has closed its pipe; 130 or 143 after an interruption.
        Exception: A fault of this package, with a note that asks for a report.
    """
    args = sys.argv[1:] if args is None else args
    _fill_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # Names of files are printed as they are, also those that are no text.
        sys.stdout.reconfigure(errors="surrogateescape")
    _send_log_to_stderr()
    try:
        try:
            _dispatch(args)
        finally:
            # Flushed here, so that a failing write is reported here and not when Python exits.
            sys.stdout.flush()
    except SystemExit as error:
        # Before the first step Lightning turns Ctrl-C into exit code 1.
        if isinstance(error.__context__, KeyboardInterrupt):
            sys.exit(130)
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe.
        _discard(sys.stdout)
        sys.exit(1)
    except Exception as error:
        message = explain(error)
        if message is None:
            error.add_note(report_request())
            raise
        _fail(message)


def _check_configs(args: list[str]) -> None:
    """Raise InputError for a configuration file without settings, because the parser's message lacks its name."""
    for option, following in zip_longest(args, args[1:], fillvalue=""):
        name, equals, value = option.partition("=")
        path = value if equals else following
        if name not in ("--config", "-c") or not os.path.isfile(path):
            continue
        import yaml

        try:
            with open(path, "rb") as file:
                settings = yaml.safe_load(file)
        except (OSError, ValueError, yaml.YAMLError):
            continue  # The parser reports the error.
        if not isinstance(settings, dict):
            raise InputError(
                f"--config {path}: the file holds no settings, which are lines such as NAME: VALUE"
            )


def _dispatch(args: list[str]) -> None:
    _check_configs(args)
    command = args[0] if args else "--help"
    if command in ("-h", "--help"):
        sys.stdout.write(HELP.format(program=program()))
        return
    args = shipped_configs(args)
    if command in FUNCTION_COMMANDS:
        _run_function(command, args[1:])
        return
    if command not in TRAINER_COMMANDS:
        known = ", ".join(TRAINER_COMMANDS + FUNCTION_COMMANDS)
        raise InputError(f"unknown command {command!r}: choose one of {known}")
    app = import_module("lightning_bpd.cli.app")
    app.run(args)


def shipped_configs(args: list[str]) -> list[str]:
    """Let ``--config configs/...`` name a shipped file if the working folder has no such file."""
    found = list(args)
    for position, argument in enumerate(args):
        option, equals, value = argument.partition("=")
        if position and args[position - 1] in ("--config", "-c"):
            option, equals, value = "", "", argument
        elif option != "--config" or not equals:
            continue
        if not Path(value).exists() and (path := shipped(value)).is_file():
            found[position] = f"{option}{equals}{path}"
    return found


def _run_function(command: str, args: list[str]) -> None:
    from jsonargparse import ArgumentParser, auto_cli

    class Strict(ArgumentParser):
        """A parser that names missing options, and refuses null in a file for an option that cannot be null.

        It refuses empty text, too: an empty name, usually a mistake in a script, would mean the current folder.
        """

        def validate(self, cfg: Any, *given: Any, **options: Any) -> None:
            for name in (name for name, value in vars(cfg).items() if value == ""):
                raise InputError(f"--{name} is empty: give a value, or leave the option out")
            for name in (name for name in required if getattr(cfg, name, "") is None):
                raise InputError(f"--{name} is missing; `{program()} {command} --help` says what it takes")
            super().validate(cfg, *given, **{**options, "skip_unset": False})

    function = late(command.replace("-", "_"))
    parameters = signature(function).parameters.values()
    required = [each.name for each in parameters if each.default is each.empty]
    if command == "report":
        # Folders first, without an option's name.
        folders = list(takewhile(lambda argument: not argument.startswith("-"), args))
        if folders:
            args = ["--runs", json.dumps(folders), *args[len(folders) :]]
    # --block-size as well as --block_size
    args = [re.sub(r"^--[\w-]+", lambda name: f"--{name[0][2:].replace('-', '_')}", arg) for arg in args]
    args = _with_true(args, {f"--{name}" for name, kind in get_type_hints(function).items() if kind is bool})
    prog = f"{os.path.basename(sys.argv[0])} {command}"
    # No abbreviations: code that handles the full name of an option would miss them.
    options: dict[str, Any] = {
        "as_positional": False,
        "exit_on_error": False,
        "allow_abbrev": False,
        "prog": prog,
    }
    auto_cli(function, args=args, parser_class=Strict, **options)


def _with_true(args: list[str], switches: set[str]) -> list[str]:
    """--dry_run as well as --dry_run true."""
    given = []
    for argument, following in zip_longest(args, args[1:], fillvalue="--"):
        alone = argument in switches and following.startswith("-")
        given.append(f"{argument}=true" if alone else argument)
    return given


def _fail(message: str) -> None:
    line = " ".join(message.split())
    if len(line) > 1000:  # an option's value may be of any length
        line = f"{line[:700]} ... {line[-250:]}"
    try:
        sys.stderr.write(f"error: {line}\n")
        # Flushed here, because Python would otherwise flush standard output again at exit.
        sys.stdout.flush()
    except OSError:
        _discard(sys.stdout, sys.stderr)
    sys.exit(2)


def _fill_closed_streams() -> None:
    """Open the null device for each closed standard stream, so that no other file gets the stream's number.

    Nothing can be read from the null device, and output to it is lost. ``sys.__stdin__`` and ``sys.__stdout__``
    still show that a stream was closed.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # The smallest free number is the number of this stream, because all earlier streams are open.
            number = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8"))


def _discard(*streams: TextIO) -> None:
    """Discard the buffered output of streams, whose flush at exit would fail."""
    for stream in streams:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _send_log_to_stderr() -> None:
    """Send the log of the package to standard error, one plain line for each message."""
    logger = logging.getLogger("lightning_bpd")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
