"""The end of a tokenizer's training, by the command line, and what the other commands make of it."""

import json

import pytest
import yaml
from PIL import Image

from lightning_bpd.cli import app, main
from lightning_bpd.datamodules import LabelledDigits
from lightning_bpd.measuring import generated_images

CONFIG = str(app.DEFAULT_CONFIG.parent / "image_generation" / "tokenizer.yaml")
SMALL = {
    "model": {
        "init_args": {"tokenizer": {"quantiser": "vq", "width": 8, "codebook_size": 16, "code_width": 4}}
    },
    "trainer": {"max_epochs": 2, "check_val_every_n_epoch": 1, "accelerator": "cpu"},
    "wandb": "disabled",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    train = generated_images.train_classifier
    monkeypatch.setattr(generated_images, "train_classifier", lambda *given: train(*given, steps=20))
    return tmp_path


def test_fit_ends_with_a_tokenizer(place, capsys):
    app.run(["fit", "--config", CONFIG, "--config", "small.yaml"])
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("4 x 4 codes of 16", "validation PSNR (dB)", "perplexity of the codes", "Fréchet distance"):
        assert part in shown
    run = place / "runs" / "tokenizer"
    assert f"--data.tokenizer {run.relative_to(place)}/tokenizer" in shown.replace("\n", "")
    for picture in ("reconstructions.png", "curves.png"):
        Image.open(run / picture).verify()
    metrics = json.loads((run / "tokenizer" / "metrics.json").read_text())
    assert metrics["training"]["regime"] == "tokenizer"
    assert metrics["validation"]["psnr"] > 5
    data = LabelledDigits(tokenizer=str(run / "tokenizer"))
    data.setup("fit")
    assert data.codec.vocabulary == 16
    app.run(["test", "--experiment", "tokenizer", "--trainer.accelerator", "cpu"])
    (measured,) = run.glob("test_*.json")
    assert {"test/psnr", "test/codebook_use"} <= set(json.loads(measured.read_text())["metrics"])
    app.run(["predict", "--experiment", "tokenizer", "--trainer.accelerator", "cpu"])
    assert len(list((run / "predictions").iterdir())) == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.tokenizer.halvings", "4"], "images of 8 x 8 pixels cannot be halved 4 times"),
        (["--model.tokenizer.codebook_size", "1"], "codebook_size must be at least 2"),
        (["--data.tokenizer", "nowhere"], "nowhere holds no tokenizer of images"),
        (["--data", "Digits"], "use LabelledImages or LabelledDigits"),
        (["--best_checkpoint.monitor", "val/bleu"], "validation logs val/loss, val/psnr, val/codebook_use"),
    ],
)
def test_bad_options(place, capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--config", CONFIG, "--config", "small.yaml", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
