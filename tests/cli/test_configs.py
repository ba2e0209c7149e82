from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_bpd.cli import app
from lightning_bpd.cli.run_folder import lock
from lightning_bpd.codecs.images import ImageCodec
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.datamodules import DemoText
from lightning_bpd.drafters import ParallelDraft, ParallelDrafter
from lightning_bpd.faults import explain
from lightning_bpd.interfaces import InputError, Vocabularies
from lightning_bpd.models import Architecture, EncoderDecoder, ImageArchitecture, ImageTransformer
from lightning_bpd.saved.finished_model import GenerativeModel
from lightning_bpd.saved.translation import Translator
from lightning_bpd.training import (
    BaseTraining,
    FrozenBaseHeadDistillation,
    ImageGeneration,
    JointFineTuning,
    TokenizerTraining,
)

CONFIGS = Path(app.DEFAULT_CONFIG).parent
# What stacks on a configuration of data, and needs a base.
HEADS = {
    "translation/few_sentences.yaml": FrozenBaseHeadDistillation,
    "translation/frozen.yaml": FrozenBaseHeadDistillation,
    "translation/joint.yaml": JointFineTuning,
}
# And the data that it is meant for.
IMAGE_HEADS = {
    "super_resolution/frozen.yaml": (FrozenBaseHeadDistillation, "super_resolution/cifar10.yaml"),
    "super_resolution/joint.yaml": (JointFineTuning, "super_resolution/cifar10.yaml"),
    "super_resolution/digits_frozen.yaml": (FrozenBaseHeadDistillation, "super_resolution/digits_base.yaml"),
    "super_resolution/digits_joint.yaml": (JointFineTuning, "super_resolution/digits_base.yaml"),
}
# What stacks on image_generation/digits.yaml.
GENERATION = (
    "image_generation/mnist.yaml",
    "image_generation/regions.yaml",
    *(f"image_generation/sizes/{size}.yaml" for size in ("b", "l", "xl", "xxl", "3b")),
)
# What replaces the block heads of one of these.
DRAFTERS = ("translation/parallel.yaml",)
# What trains a base and its heads together from random weights.
FROM_NOTHING = ("default.yaml", "demo.yaml", "super_resolution/digits.yaml")
# Configurations of other programs: `grid`, and W&B's sweeps; and what needs a Hugging Face base (tests/hugging_face).
OTHERS = ("grids/", "sweeps/", "translation/prompts.yaml", "language_models/")
FILES = sorted(
    name
    for path in CONFIGS.rglob("*.yaml")
    if not (name := path.relative_to(CONFIGS).as_posix()).startswith(OTHERS)
    and name not in {**HEADS, **IMAGE_HEADS}
    and name not in (*DRAFTERS, *GENERATION)
)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Does all that the command line does before it trains."""
    monkeypatch.setattr(app.CommandLine, "_run_subcommand", lambda self, subcommand: None)
    monkeypatch.chdir(tmp_path)

    locks = []
    monkeypatch.setattr(app, "lock", lambda folder: locks.append(lock(folder)))

    def build(*args):
        try:
            return app.run(["fit", "--wandb", "disabled", "--trainer.accelerator", "cpu", *args])
        finally:
            while locks:
                locks.pop().close()  # as the end of the process does

    return build


@pytest.mark.parametrize("file", FILES)
def test_every_configuration_builds_what_it_names(build, file):
    command_line = build("--config", str(CONFIGS / file))
    expected = JointFineTuning if file in FROM_NOTHING else BaseTraining
    if file.startswith("image_generation/tokenizer"):
        expected = TokenizerTraining
    elif file.startswith("image_generation/"):
        expected = ImageGeneration
    assert isinstance(command_line.model, expected)


@pytest.mark.parametrize("file", GENERATION)
def test_configurations_stack_on_that_of_digits(build, file):
    command_line = build(
        "--config", str(CONFIGS / "image_generation" / "digits.yaml"), "--config", str(CONFIGS / file)
    )
    assert isinstance(command_line.model, ImageGeneration)
    shape = command_line.model.architecture
    sizes = {"b": 111, "l": 343, "xl": 775, "xxl": 1411, "3b": 3097}
    if (size := sizes.get(Path(file).stem)) is not None:
        with torch.device("meta"):
            network = replace(shape, order="regions").build(Vocabularies(1000, 16384, 16384, grid=(24, 24)))
        millions = sum(weight.numel() for weight in network.parameters()) / 1e6
        assert millions == pytest.approx(size, rel=0.02)


@pytest.mark.parametrize(
    ("options", "drafter"),
    [
        ((), True),
        (("--trainer.max_epochs", "1"), True),
        (("--model.drafter.block_size", "4", "--model.head_weights", "[1, 1, 1, 1]"), True),
        (("--model.drafter.block_size=8", "--model.base.d_model", "64"), True),
        (("--model.heads.block_size", "4"), False),
        (("--config", str(CONFIGS / "default.yaml")), False),
        (("-c", str(CONFIGS / "demo.yaml")), True),
    ],
)
def test_the_demo_is_trained_if_nothing_is_said_of_the_model(build, options, drafter):
    """A configuration of the user's own inherits no drafter that it does not name."""
    assert (build(*options).model.shape.__class__ is ParallelDraft) is drafter


@pytest.mark.parametrize("file", sorted(HEADS))
def test_heads_go_on_a_finished_model(build, tmp_path, file):
    """On any configuration of data, which is then cut by the base's tokenizer."""
    tokenizer = train_tokenizer(["the old man buys a house", "a dog sleeps"] * 20, vocab_size=300)
    architecture = Architecture(d_model=8, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=8)
    network = EncoderDecoder(architecture, 300, 300, tokenizer.bos_id, tokenizer.eos_id)
    Translator(network, TextCodec(tokenizer, tokenizer)).save(tmp_path / "base", {})
    for data in ("default.yaml", "translation/multi30k.yaml", "translation/own_text.yaml"):
        configs = ("--config", str(CONFIGS / data), "--config", str(CONFIGS / file))
        command_line = build(*configs, "--model.base", str(tmp_path / "base"))
        assert isinstance(command_line.model, HEADS[file])
        for drafter in DRAFTERS if data != "default.yaml" else ():
            configs_of_drafter = (*configs, "--config", str(CONFIGS / drafter))
            other = build(*configs_of_drafter, "--model.base", str(tmp_path / "base"))
            assert isinstance(other.model.heads, ParallelDrafter)
        assert command_line.model.heads.shape.d_hidden == 512
        assert command_line.config["fit"]["data"]["init_args"]["tokenizer"] == str(
            tmp_path / "base" / "tokenizer.model"
        )
        with pytest.raises(ValueError) as refused:  # noqa: PT011  # the parser wraps it
            build(*configs)
        assert explain(refused.value).startswith("no base is named: --model.base takes the folder")


@pytest.mark.parametrize("file", sorted(IMAGE_HEADS))
def test_heads_go_on_a_finished_model_of_images(build, tmp_path, file):
    kind, data = IMAGE_HEADS[file]
    codec = ImageCodec(32, 32) if "cifar10" in data else ImageCodec(8, 8, 1, 17, 2)
    shape = ImageArchitecture(
        *(codec.height, codec.width, codec.channels, codec.levels, codec.factor),
        *(8, 2, 1, 1, 8),  # width, attention heads, layers and feed-forward
    )
    GenerativeModel(ImageTransformer(shape), codec).save(tmp_path / "base", {})
    configs = ("--config", str(CONFIGS / data), "--config", str(CONFIGS / file))
    command_line = build(*configs, "--model.base", str(tmp_path / "base"))
    assert isinstance(command_line.model, kind)
    assert command_line.datamodule.codec == codec


def test_everything_of_a_run_goes_below_its_folder(build, tmp_path):
    trainer = build("--experiment", "one", "--runs", "all").trainer
    assert Path(trainer.default_root_dir) == Path("all/one")
    assert Path(trainer.log_dir) == Path("all/one")
    assert Path(trainer.loggers[0].path) == Path("all/one/metrics.csv")


def test_data_folder_in_short(build, tmp_path):
    (tmp_path / "text").mkdir()
    assert Path(build("--data", "text").datamodule.folder) == Path("text")


def test_data_is_a_folder_or_one_of_our_classes(build):
    assert isinstance(build("--data", "DemoText").datamodule, DemoText)
    with pytest.raises(InputError, match=r"--data no/folder: no such folder, .*DemoText.*ParallelText"):
        build("--data", "no/folder")


def test_a_logger_of_the_configuration_stays(build):
    assert build("--trainer.logger", "false").trainer.loggers == []


def test_a_checkpoint_of_another_run_starts_a_new_run(build, tmp_path):
    def write(path):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
        return path

    ours, theirs = (write(f"runs/{name}/checkpoints/last.ckpt") for name in ("default", "other"))
    assert build("--ckpt_path", ours).config["fit"]["ckpt_path"] == ours
    assert build("--ckpt_path", "last").config["fit"]["ckpt_path"] == ours
    assert build("--trainer.fast_dev_run", "true").trainer.fast_dev_run
    assert (tmp_path / ours).is_file()
    build("--ckpt_path", theirs)
    assert not (tmp_path / ours).exists()
    assert (tmp_path / "runs/default.1/checkpoints/last.ckpt").is_file()
    assert (tmp_path / theirs).is_file()
