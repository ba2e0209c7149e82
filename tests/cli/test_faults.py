"""One line for what the user or the machine did; a traceback and a request for a report for what is our fault."""

import errno
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from lightning_bpd.cli import app, entry
from lightning_bpd.cli.entry import FUNCTION_COMMANDS, TRAINER_COMMANDS, main
from lightning_bpd.faults import explain
from lightning_bpd.files import whole_folder
from lightning_bpd.interfaces import InputError

QUICK = ("--wandb", "disabled", "--trainer.enable_progress_bar", "false")


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command of the tiny training in a folder of its own and returns the one line that refuses it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "DEFAULT_CONFIG", Path(__file__).with_name("tiny.yaml"))
    levels = {name: logging.getLogger(name).level for name in ("pytorch_lightning", "lightning_fabric")}

    def run(*args: str) -> str:
        with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
            main(list(args))
        errors = capsys.readouterr().err.splitlines()
        lines = [line for line in errors if line.startswith("error: ")]
        assert stopped.value.code == 2, errors
        assert len(lines) == 1, errors
        assert lines[0] == errors[-1]
        assert len(lines[0]) > 20, lines
        assert "Traceback" not in "".join(errors)
        assert not list(tmp_path.rglob("*.partial"))
        return lines[0]

    yield run
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("command", sorted({*FUNCTION_COMMANDS, *TRAINER_COMMANDS} - {"fit", "grid"}))
def test_a_command_without_arguments_says_what_it_needs(refused, command):
    refused(command)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--seed_everything", "-1"), "-1"),
        (("--model.learning_rate", "-1"), "learning rate"),
        (("--trainer.val_check_interval", "100"), "val_check_interval"),
        (("--trainer.barebones", "true"), "barebones"),
        (("--trainer.max_epochs", "-7"), "max_epochs"),
        (("--trainer.precision", "7"), "precision"),
        (("--trainer.strategy", "nonsense"), "strategy"),
        (("--trainer.accelerator", "nonsense"), "accelerator"),
        (("--trainer.devices", "0"), "devices"),
        (("--trainer.devices", str(10**30), "--trainer.accelerator", "cpu"), "too large"),
        (("--trainer.max_time", "soon"), "DD:HH:MM:SS"),
        (("--trainer.gradient_clip_algorithm", "nonsense", "--trainer.gradient_clip_val", "1"), "clip"),
        (("--trainer.overfit_batches", "-3"), "overfit_batches"),
        (("--trainer.profiler", "nonsense"), "profiler"),
        (("--trainer.accumulate_grad_batches", "x"), "accumulate_grad_batches"),
        (("--model", "nonsense"), "nonsense"),
        (("--config", "absent.yaml"), "absent.yaml"),
        (("--config", "."), "."),
    ],
)
def test_what_the_libraries_refuse_is_one_line(refused, given, words):
    assert words in refused("fit", *QUICK, *given)


def test_resuming_with_another_shape_is_one_line(refused, run):
    # In a process of its own, which gives the lock of the run's folder back.
    assert run("fit", *QUICK, "--trainer.max_epochs", "1")[0] == 0
    line = refused("fit", *QUICK, "--ckpt_path", "last", "--model.inputs", "5")
    assert "cannot be resumed from" in line
    assert "of another model" in line
    assert "layer.weight" in line


@pytest.mark.parametrize(
    "text", ["[" * 5000, "a: [", "a: &a [*a]", "? {a: b}", "- a", "\0", "a: !!python/name:os.x"]
)
def test_a_configuration_that_cannot_be_read_is_one_line(refused, tmp_path, text):
    (tmp_path / "hostile.yaml").write_text(text)
    refused("fit", *QUICK, "--config", "hostile.yaml")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE])
@pytest.mark.parametrize("file", ["some/file", None])
def test_an_error_of_the_system_is_one_line(refused, monkeypatch, number, file):
    def fail(_):
        raise OSError(number, "what the system says", file)

    monkeypatch.setattr(entry, "_dispatch", fail)
    line = refused("fit")
    assert "what the system says: " in line
    assert file is None or line.startswith(f"error: {file}: ")


def test_a_fault_of_ours_shows_its_traceback_and_asks_for_a_report(monkeypatch):
    def fail(_):
        raise KeyError("ours")

    monkeypatch.setattr(entry, "_dispatch", fail)
    with pytest.raises(KeyError) as raised:
        main(["fit"])
    assert "Please report it" in raised.value.__notes__[0]


def test_code_of_ours_that_raises_what_libraries_raise_is_a_fault():
    with pytest.raises(ValueError, match="no mistake") as raised:
        raise ValueError("no mistake of the user")
    assert explain(raised.value) is None


@pytest.mark.parametrize("device", ["meta", "cuda:99", "mps:3", "", "cpu,cuda"])
def test_a_device_that_cannot_compute_is_one_line(refused, device):
    assert "--device" in refused("translate", "--model", "none", "--device", device)


COMMAND = "import sys; from lightning_bpd.cli import main; main(sys.argv[1:])"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("--help >&-", 0, ""),
        ("--help 2>&-", 0, ""),
        ("--help <&-", 0, ""),
        ("--help | head -1", 1, ""),
        ("--help >/dev/full", 2, "No space left on device: make room"),
        ("nonsense 2>&-", 2, ""),
        ("nonsense >&- 2>&- <&-", 2, ""),
        ("nonsense 2>/dev/full", 2, ""),
        ("nonsense >/dev/full", 2, "unknown command"),
    ],
)
def test_standard_streams_may_be_closed_or_full(tmp_path, command, code, words):
    given = f'set -o pipefail; "{sys.executable}" -c "{COMMAND}" {command}'
    done = subprocess.run(["bash", "-c", given], capture_output=True, text=True, cwd=tmp_path)
    errors = done.stderr
    # `head` may leave before or after all was written.
    assert done.returncode == code or ("head" in command and done.returncode == 0)
    assert words in errors
    assert errors.count("\n") == bool(words)


def test_a_value_of_any_length_makes_a_short_line(refused):
    line = refused("translate", "--model", "9" * 5000)
    assert len(line) < 1100


def test_a_loop_of_links_is_one_line(refused, tmp_path):
    (tmp_path / "compare_test.json").symlink_to("compare_test.json")
    assert "compare_test.json" in refused("report", str(tmp_path))


@pytest.mark.parametrize("option", ["data.batches", "model.pause", "trainer.num_nodes"])
def test_null_is_refused_by_commands_that_train(refused, option):
    assert option.rpartition(".")[2] in refused("fit", *QUICK, f"--{option}", "null")


@pytest.mark.parametrize("command", FUNCTION_COMMANDS)
def test_a_value_without_a_character_is_refused(refused, command):
    """Not read as the folder that the command runs in."""
    option = {"grid": "runs", "certify": "model", "translate": "input"}.get(command, "output")
    assert f"--{option} is empty" in refused(command, f"--{option}=")


@pytest.mark.parametrize("output", [".", "..", "/"])
def test_a_folder_without_a_name_is_refused(refused, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    refused("export", "--checkpoint", "nowhere.ckpt", "--output", output)
    with pytest.raises(InputError, match="give it a name"), whole_folder(Path(output), replace=True):
        pass


@pytest.mark.parametrize(("command", "option"), [("grid", "kind"), ("translate", "beam")])
def test_null_in_a_file_is_refused_where_the_option_cannot_be_null(refused, tmp_path, command, option):
    (tmp_path / "settings.yaml").write_text(f"model: none\n{option}: null\n"[12 * (command == "grid") :])
    assert option in refused(command, "--config", str(tmp_path / "settings.yaml"))
