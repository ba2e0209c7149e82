"""Options are what they look like: all of all commands, gone over by their parsers."""

import shlex
import subprocess
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from jsonargparse import auto_parser
from pytorch_lightning import LightningDataModule
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from lightning_bpd.callbacks.checkpoints import BestCheckpoint
from lightning_bpd.cli import app
from lightning_bpd.cli.arguments import naming_options
from lightning_bpd.cli.entry import FUNCTION_COMMANDS, TRAINER_COMMANDS, main
from lightning_bpd.cli.finish import command_to_try
from lightning_bpd.codecs.images import ImageCodec
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, EncoderDecoder, ImageArchitecture, ImageTransformer
from lightning_bpd.saved.finished_model import GenerativeModel


def function_of(command):
    name = command.replace("-", "_")
    return getattr(import_module(f"lightning_bpd.cli.{name}"), name)


def refusal(capsys, *args):
    """The line of an error that is the user's."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    assert caught.value.code == 2, args
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def trainer_parsers():
    """The parsers of fit, validate, test and predict."""
    found = {}

    class Found(Exception):  # noqa: N818
        pass

    def take(self, parser, args):
        found.update(parser._subcommands_action._name_parser_map)
        raise Found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.CommandLine, "parse_arguments", take)
        with pytest.raises(Found):
            app.run(["fit"])
    assert set(found) == set(TRAINER_COMMANDS)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A finished model of text and one of images, both with heads, and input for them."""
    folder = tmp_path_factory.mktemp("options")
    (folder / "test.tsv").write_text("ein Haus\ta house\n" * 3)
    (folder / "lines").write_text("ein Haus\n")
    np.save(folder / "images.npy", np.zeros((1, 3, 3, 3), np.uint8))
    torch.manual_seed(1)
    tokenizer = train_tokenizer(["ein Haus", "a house"] * 20, 280, True, "identity")
    sizes = {"d_model": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 16}
    network = EncoderDecoder(Architecture(**sizes), 280, 280, tokenizer.bos_id, tokenizer.eos_id)
    heads = BlockHeads(16, HeadShape(4, 8))
    GenerativeModel(network, TextCodec(tokenizer, tokenizer), heads).save(folder / "text", {})
    shape = ImageArchitecture(height=6, width=6, channels=3, levels=32, scale=2, **sizes, local_block=16)
    codec = ImageCodec(height=6, width=6, channels=3, levels=32, factor=2)
    GenerativeModel(ImageTransformer(shape), codec, heads).save(folder / "images", {})
    return folder


def shorter(option, others):
    """Abbreviations of an option that are not another option's full name."""
    lengths = {len(option) - 1, (len(option) + 3) // 2}
    return [option[:length] for length in lengths if length > 3 and option[:length] not in others]


@pytest.mark.parametrize("command", FUNCTION_COMMANDS)
def test_abbreviations_are_refused(command, capsys):
    parser = auto_parser(function_of(command), as_positional=False)
    options = [option for option in parser._option_string_actions if option.startswith("--")]
    assert options
    for option in options:
        for abbreviated in shorter(option, options):
            line = refusal(capsys, command, f"{abbreviated}=1")
            # Of some commands another option is missing, which may be said first.
            assert "unrecognized arguments" in line or "is required" in line, line


def test_a_required_option_does_not_hide_an_abbreviation(capsys):
    line = refusal(capsys, "translate", "--model", "x", "--acc", "top-2")
    assert line == "error: unrecognized arguments: --acc top-2; write options in full, as --help lists them"


@pytest.mark.parametrize("command", TRAINER_COMMANDS)
def test_abbreviations_of_a_trainers_options_are_refused(command, trainer_parsers):
    parser = trainer_parsers[command]
    options = parser._option_string_actions
    assert len(options) > 50
    for option in options:
        for abbreviated in shorter(option, options):
            matched = parser._parse_optional(f"{abbreviated}=x")
            actions = [each[0] for each in matched] if isinstance(matched, list) else [matched and matched[0]]
            # Options of a class begin with the name of that option: what follows is looked up in the class.
            assert all(
                action is None or abbreviated.startswith(tuple(action.option_strings)) for action in actions
            )


@pytest.mark.parametrize(
    "option", ["--exp", "--ckpt", "--run", "--conf", "--trainer.max_st", "--model.bas", "--data.fold"]
)
def test_an_abbreviation_that_code_would_miss(option, capsys, tmp_path):
    for args in ([f"{option}=last"], [option, "last"]):
        line = refusal(capsys, "fit", "--runs", str(tmp_path / "runs"), *args)
        assert "unrecognized arguments" in line or "is not accepted" in line, line
        assert line.endswith("write options in full, as --help lists them")
        assert len(line) < 200
    assert not (tmp_path / "runs").exists()


def test_all_forms_of_the_options_that_name_a_run():
    args = [
        "-cA",
        "-c",
        "B",
        "-c=C",
        "--config",
        "D",
        "--config=E",
        "--experiment=F",
        "--runs",
        "G",
        "--trainer.x",
        "H",
    ]
    assert naming_options(args) == args[:-2]


COMMANDS = {
    "translate": ["--model", "text", "--input", "lines", "--decoder", "blockwise"],
    "certify": ["--model", "text", "--input", "lines"],
    "upscale": ["--model", "images", "--input", "images.npy", "--output", "out", "--decoder", "blockwise"],
    "compare": [
        "--model",
        "text",
        "--data",
        ".",
        "--corpus",
        "test.tsv",
        "--source_language",
        "de",
        "--output",
        "out",
    ],
    "distill": ["--teacher", "text", "--data", "lines", "--output", "out", "--processes", "1"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_have_bounds(command, models, capsys, monkeypatch):
    monkeypatch.chdir(models)
    hints = get_type_hints(function_of(command))
    numbers = [
        name for name, kind in hints.items() if kind in (int, float) or {int, float} & {*get_args(kind)}
    ]
    for name in numbers:
        if name in ("max_length_ratio",):
            continue
        line = refusal(capsys, command, *COMMANDS[command], f"--{name}=-100")
        assert name in line, line
        line = refusal(capsys, command, *COMMANDS[command], f"--{name.replace('_', '-')}", "-100")
        assert name in line, line
    for name in {"beam", "batch_size", "block_size", "extra_length", "timed_batch_size"} & set(numbers):
        line = refusal(capsys, command, *COMMANDS[command], f"--{name}={10**30}")
        assert name in line, line
    assert not Path("out").exists()


@pytest.mark.parametrize("command", TRAINER_COMMANDS + FUNCTION_COMMANDS)
@pytest.mark.parametrize("content", ["", "# nothing yet\n", "- a\n", "text\n", "---\n"])
def test_a_configuration_without_settings(command, content, tmp_path, capsys):
    path = tmp_path / "empty.yaml"
    path.write_text(content)
    for args in (["--config", str(path)], [f"--config={path}"]):
        assert refusal(capsys, command, *args) == (
            f"error: --config {path}: the file holds no settings, which are lines such as NAME: VALUE"
        )


@pytest.mark.parametrize("value", ["no", "off", "yes", "12"])
@pytest.mark.parametrize("command", ["distill", "fit"])
def test_what_yaml_reads_otherwise(command, value, tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    if command == "fit":
        path.write_text(
            f"data:\n  class_path: ParallelText\n  init_args:\n    folder: x\n    target_language: {value}\n"
        )
    else:
        path.write_text(f"teacher: x\ndata: x\noutput: x\ntarget_language: {value}\n")
    line = refusal(capsys, command, "--config", str(path))
    assert "target_language" in line
    assert line.endswith("write the value in quotes")


@pytest.mark.parametrize("command", ["translate", "certify", "compare", "distill", "upscale"])
def test_a_hugging_face_folder_needs_its_prefix(command, tmp_path, models, capsys, monkeypatch):
    (tmp_path / "marian").mkdir()
    (tmp_path / "marian" / "config.json").write_text('{"model_type": "marian"}')
    monkeypatch.chdir(models)
    folder = str(tmp_path / "marian")
    args = [folder if each in ("text", "images") else each for each in COMMANDS[command]]
    assert refusal(capsys, command, *args) == f"error: {folder} holds a Hugging Face model: give hf:{folder}"


@pytest.mark.parametrize(
    "source", ["a house", 'it\'s $HOME `x` "y"', "-n", "-e a\\nb", "a\\tb\\c", "!! *", "ä; rm x", "%s"]
)
def test_the_line_to_try_can_be_pasted(source):
    model = Path("runs/a b's/model")
    line = command_to_try(source, model, f" --base {shlex.quote('hf:x y')}")
    shown = 'python() { cat; printf "%s|" "$@"; }; '
    for shell in ("sh", "bash"):
        out = subprocess.run([shell, "-c", shown + line], capture_output=True, text=True, check=True).stdout
        assert out == f"{source}\ntrain.py|translate|--model|{model}|--base|hf:x y|"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rules", "[exat]"], "exat"),
        (["--rules", "[top-2, top-]"], "top-"),
        (["--kind", "images", "--mixes", "[gold]", "--corpus", "tset"], "--corpus tset"),
    ],
)
def test_a_grid_is_refused_before_hours_are_spent(options, words, models, tmp_path, capsys):
    where = ["--data", str(models), "--corpus", "test", "--runs", str(tmp_path / "runs")]
    where += ["--base_configs", "[configs/default.yaml]"]
    assert words in refusal(capsys, "grid", *where, *options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "monitor", ["val/blue", "bleu", "loss", "val_loss", "vall/loss", "", "val/psnr", "val/K4_exact/bleu"]
)
@pytest.mark.parametrize("heads", [True, False])
def test_what_is_never_logged_is_refused_before_training(monitor, heads):
    codec = SimpleNamespace(likelihood=lambda: {"perplexity": 0}, quality=lambda: {"bleu": 0})
    module = SimpleNamespace(**({"block_decoder": None} if heads else {}))
    logged = ["val/loss", "val/bleu", "val/perplexity", "train/loss"]
    of_heads = ["val/mean_accepted_block_size", "val/k4_exact/bleu", "val/head_2/loss", "val/drift/kl"]
    for name, fits in [
        (monitor, False),
        *((each, True) for each in logged),
        *((each, heads) for each in of_heads),
    ]:
        for other in (BestCheckpoint(name), EarlyStopping(name)):
            callbacks = [BestCheckpoint("val/loss"), other, ModelCheckpoint()]
            trainer = SimpleNamespace(datamodule=SimpleNamespace(codec=codec), callbacks=callbacks)
            if fits:
                callbacks[0].on_fit_start(trainer, module)
                continue
            with pytest.raises(
                InputError, match=r"monitor is .*, but validation logs val/loss, val/perplexity"
            ):
                callbacks[0].on_fit_start(trainer, module)


@pytest.mark.parametrize("prefix", ["--model.decode", "--model.init_args.decode"])
def test_decoding_options_under_the_model_would_be_lost(prefix, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, "fit", "--model.base", "runs/x", f"{prefix}.extra_length", "5")
    assert line.endswith(f"{prefix}.extra_length would be ignored: write --decode.extra_length")


def test_the_classes_of_data_that_a_message_names_can_be_used():
    names = app.class_names(LightningDataModule)
    assert {"DemoText", "Digits", "Images", "ParallelText", "Prompts"} <= names
    assert not names & {"LightningDataModule", "PartsOfData", "SuperResolution"}


@pytest.mark.parametrize("command", sorted(set(FUNCTION_COMMANDS) - {"grid"}))
def test_a_missing_option_is_named(capsys, command):
    assert f"is missing; `python train.py {command} --help` says what it takes" in refusal(capsys, command)
