"""compare of images: what it writes is what decoding gives, adds up, and makes a report."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ENVIRONMENT
from PIL import Image

import lightning_bpd
from lightning_bpd.cli.compare import compare
from lightning_bpd.cli.report import report
from lightning_bpd.codecs.images import ImageCodec
from lightning_bpd.datamodules import Digits, Images
from lightning_bpd.decoding import Distance, blockwise, greedy
from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.metrics.images import ssim
from lightning_bpd.models import ImageArchitecture, ImageTransformer
from lightning_bpd.saved.finished_model import GenerativeModel, read_folder

ROWS = 7


def write_model(folder: Path, codec: ImageCodec) -> Path:
    """A model whose heads are right now and then, and a base of the same."""
    torch.manual_seed(1)
    shape = ImageArchitecture(
        height=codec.height, width=codec.width, channels=codec.channels, levels=codec.levels, scale=codec.factor,
        d_model=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=32, dropout=0.0, local_block=16,
    )  # fmt: skip
    network = ImageTransformer(shape)
    heads = BlockHeads(16, HeadShape(block_size=4, d_hidden=8))
    training = {"regime": "frozen", "data": "gold", "seed": 3}
    GenerativeModel(network, codec, heads).save(folder / "heads" / "model", {"training": training})
    GenerativeModel(network, codec).save(folder / "base" / "model", {"training": {"regime": "base"}})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("digits"), Digits().codec)


def read(path):
    return json.loads(path.read_text())


def test_numbers_add_up_and_make_a_report(folder, tmp_path, capsys):
    model = folder / "heads" / "model"
    options = {"rows": ROWS, "timed": 2, "batch_size": 3, "device": "cpu"}
    compare(str(model), "digits", "validation", rules=["exact", "distance-1"], **options)
    assert "equal" in capsys.readouterr().out
    measured = read(folder / "heads" / "compare_validation.json")
    assert (measured["format"], measured["kind"], measured["intensities"]) == (2, "images", 64)
    assert measured["training"] == {"regime": "frozen", "data": "gold", "block_size": 4, "seed": 3}
    assert (measured["corpus"]["folder"], measured["corpus"]["rows"]) == ("digits", ROWS)
    assert "references" not in measured
    assert not any("bleu" in key for key in (*measured, *measured["arms"][0], *measured["settings"]))
    truths = Digits().references("validation")[[place * 197 // ROWS for place in range(ROWS)]]
    parts = read_folder(model)
    p_1, drafter = parts.to("cpu").model, parts.drafter
    tokens = torch.from_numpy(parts.codec.source_tokens(truths))
    source = TokenRows(tokens, torch.full((ROWS,), 16))
    plain = greedy(p_1, source)
    near = blockwise(p_1, drafter, source, 4, Distance(1))
    arms = measured["arms"]
    assert [(arm["block_size"], arm["acceptance"]) for arm in arms] == [
        *((size, "exact") for size in (1, 2, 4)),
        (4, "distance-1"),
    ]
    for arm, result in zip(arms, (plain, plain, plain, near), strict=True):
        images = np.stack(parts.codec.decode(result.rows()))
        errors = ((images.astype(int) - truths.astype(int)) ** 2).sum((1, 2, 3))
        assert arm["squared_errors"] == errors.tolist()
        assert arm["ssims"] == ssim(images, truths)
        assert arm["quality"]["psnr"] == pytest.approx(10 * math.log10(255**2 * ROWS * 64 / errors.sum()))
        assert arm["quality"]["ssim"] == pytest.approx(np.mean(arm["ssims"]), abs=1e-5)
        assert arm["mean_accepted_block_size"] == sum(arm["tokens"]) / sum(arm["iterations"])
        assert arm["tokens"] == [64] * ROWS
        assert arm["speed_up"] > 0
    for arm in arms[:3]:
        assert arm["to_greedy"] == {"psnr": None, "ssim": 1.0}
        assert arm["greedy_agreement"] == 1.0
        assert measured["replay"]["iterations"][arm["block_size"] - 1] == sum(arm["iterations"])
    assert sum(measured["acceptance_by_position"]) == pytest.approx(arms[2]["mean_accepted_block_size"])
    assert len(measured["costs"]["call"]) == 4

    compare(str(folder / "base" / "model"), "digits", "validation", **options)
    report([str(folder)], str(tmp_path / "report"), resamples=100)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "BLEU" not in page
    assert "Table 2, exact rule: PSNR (dB) / mean accepted block size" in page
    # The frozen model's images are its base's.
    assert "±0.00 dB, p: 1.000" in page


def test_images_are_those_of_the_run(tmp_path):
    """Which images are measured on, and of what size, is what the run's own configuration says."""
    draw = np.random.default_rng(3)
    (tmp_path / "all").mkdir()
    for number in range(40):
        Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(
            tmp_path / "all" / f"{number}.png"
        )
    settings = {"height": 6, "width": 6, "channels": 3, "levels": 32, "factor": 2, "validation_share": 0.3}
    images = Images(str(tmp_path / "all"), **settings)
    write_model(tmp_path, images.codec)
    data = {
        "class_path": "lightning_bpd.datamodules.Images",
        "init_args": {"path": str(tmp_path / "all"), **settings},
    }
    model = str(tmp_path / "base" / "model")
    with pytest.raises(InputError, match=r"there is no .*config\.yaml, .*give --data"):
        compare(model, corpus="validation")
    (tmp_path / "base" / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    compare(model, corpus="validation", timed=0)
    own = read(tmp_path / "base" / "compare_validation.json")
    assert own["corpus"]["rows"] == len(images.references("validation")) > 5
    assert own["corpus"]["folder"] == str(tmp_path / "all")
    assert own["arms"][0]["quality"].keys() == {"psnr", "ssim"}
    assert own["arms"][0]["seconds"] is None
    # The same images elsewhere, in the parts that the run has.
    (tmp_path / "all").rename(tmp_path / "moved")
    compare(model, str(tmp_path / "moved"), "validation", timed=0)
    assert read(tmp_path / "base" / "compare_validation.json")["corpus"]["hash"] == own["corpus"]["hash"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"corpus": "val"}, "measured on validation or test"),
        ({"data": "nowhere"}, "nowhere"),
        ({"rules": ["distance-1"], "block_sizes": [5]}, "larger than the 4"),
    ],
)
def test_what_cannot_be_compared(folder, options, words):
    with pytest.raises(InputError, match=words):
        compare(
            str(folder / "heads" / "model"),
            **{"data": "digits", "corpus": "test", "device": "cpu", **options},
        )


def test_images_of_another_size(tmp_path):
    write_model(tmp_path, ImageCodec(6, 6, 1, 17, 2))
    with pytest.raises(
        InputError, match=r"the model makes images of 6 x 6 x 1, .* the data's are of 8 x 8 x 1"
    ):
        compare(str(tmp_path / "base" / "model"), "digits")


@pytest.mark.slow
def test_from_training_to_report(tmp_path):
    """As it is called: what the run was trained on need not be said again."""
    train = Path(lightning_bpd.__file__).parents[1] / "train.py"

    def run(*args):
        done = subprocess.run(
            [sys.executable, str(train), *args], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(
        *("fit", "--config", str(train.parent / "configs" / "super_resolution" / "digits.yaml")),
        *(
            "--trainer.max_epochs",
            "1",
            "--trainer.limit_train_batches",
            "3",
            "--trainer.limit_val_batches",
            "1",
        ),
        *("--trainer.check_val_every_n_epoch", "1", "--wandb", "disabled", "--trainer.accelerator", "cpu"),
    )
    rules = ("--rules", "[exact, distance-1]", "--device", "cpu")
    table = run("compare", "--model", "runs/digits/model", "--rows", "6", "--timed", "1", *rules)
    assert "k = 6, distance-1" in table
    measured = read(tmp_path / "runs" / "digits" / "compare_test.json")
    assert (measured["kind"], measured["corpus"]["folder"]) == ("images", "digits")
    run("report", "runs/digits")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "The same by distance-1: PSNR (dB) / mean accepted block size" in text
