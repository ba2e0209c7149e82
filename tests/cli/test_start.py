"""What is imported before a command answers."""

import subprocess
import sys
from importlib import import_module

import pytest
from jsonargparse import ArgumentParser

from lightning_bpd.cli.entry import FUNCTION_COMMANDS
from lightning_bpd.cli.late import late

# Answers on standard output, then says on standard error which of the slow libraries were imported.
ANSWER = """
import sys
from lightning_bpd.cli import main
try:
    main(sys.argv[1:])
except SystemExit as error:
    code = error.code
else:
    code = 0
slow = {"torch", "pytorch_lightning", "transformers", "sklearn", "scipy", "matplotlib", "wandb"}
sys.stderr.write(f"{code} {sorted(slow & set(sys.modules))}")
"""


def answer(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-c", ANSWER, *args], capture_output=True, text=True, cwd=cwd, timeout=300
    )


@pytest.mark.parametrize("args", [[], ["--help"], *([name, "--help"] for name in FUNCTION_COMMANDS)])
def test_help_comes_without_waiting_for_slow_libraries(args):
    answered = answer(*args)
    assert answered.stderr == "0 []"
    assert answered.stdout.startswith("usage:")


@pytest.mark.parametrize("command", FUNCTION_COMMANDS)
def test_a_wrong_option_is_refused_without_waiting_for_slow_libraries(command):
    answered = answer(command, "--not_an_option", "1")
    assert answered.stderr.startswith("error: ")
    assert answered.stderr.endswith("2 []")


def test_a_report_is_written_without_torch(tmp_path):
    answered = answer("report", "nothing_here", cwd=tmp_path)
    assert "torch" not in answered.stderr
    assert answered.stderr.startswith("error: ")


def test_what_only_some_runs_need_is_not_imported_for_all():
    # The other commands of Lightning's parser import the same. Lightning brings the rest of the slow libraries.
    answered = answer("fit", "--help")
    assert answered.stdout.startswith("usage:")
    assert answered.stderr.startswith("0 [")
    assert not {"sklearn", "wandb"} & set(answered.stderr.split("'"))


@pytest.mark.parametrize("command", FUNCTION_COMMANDS)
def test_the_parser_sees_what_the_function_itself_has(command):
    def described(function):
        parser = ArgumentParser(prog="prog")
        parser.add_function_arguments(function, as_positional=False)
        return parser.format_help()

    name = command.replace("-", "_")
    assert described(late(name)) == described(getattr(import_module(f"lightning_bpd.cli.{name}"), name))
