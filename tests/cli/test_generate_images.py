"""fit and generate-images, by the command line."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from lightning_bpd.cli import app, finish_generation, main
from lightning_bpd.measuring import generated_images

CONFIGS = app.DEFAULT_CONFIG.parent / "image_generation"
SMALL = {
    "model": {
        "init_args": {"architecture": {"d_model": 16, "heads": 2, "decoder_layers": 1, "feed_forward": 24}}
    },
    "trainer": {"max_epochs": 1, "check_val_every_n_epoch": 1, "accelerator": "cpu"},
    "wandb": "disabled",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
        train = generated_images.train_classifier
        patch.setattr(generated_images, "train_classifier", lambda *given: train(*given, steps=20))
        patch.setattr(finish_generation, "COUNT", 20)
        yield folder


@pytest.fixture(scope="module")
def finished(place):
    app.run(["fit", "--config", str(CONFIGS / "digits.yaml"), "--config", "small.yaml"])
    return place / "runs" / "digits_generation"


def generate(place, *options):
    main(
        [
            "generate-images",
            "--model",
            "runs/digits_generation/model",
            "--output",
            "out",
            "--device",
            "cpu",
            *options,
        ]
    )
    return place / "out"


def test_fit_ends_with_a_model_pictures_and_a_table(finished):
    figures = json.loads((finished / "plans.json").read_text())["plans"]
    assert list(figures) == ["raster", "regions-4", "regions-16", "halton-12", "locality-12"]
    assert [figures[plan]["passes"] for plan in figures] == [64, 19, 19, 12, 12]
    for each in figures.values():
        assert 0 < each["bits"] < 4.2
        assert 0 <= each["class_accuracy"] <= 1
    for picture in ("generated.png", "curves.png"):
        Image.open(finished / picture).verify()
    with Image.open(finished / "filling.gif") as animated:
        assert animated.n_frames == 13
    assert json.loads((finished / "model" / "metrics.json").read_text())["training"]["regime"] == "generation"


def test_images_are_written_and_repeat(finished, place):
    out = generate(place, "--plan", "halton-12", "--classes", "3,7", "--count", "2", "--gif", "true")
    names = sorted(path.name for path in out.iterdir())
    assert names == ["3_0.png", "3_1.png", "7_0.png", "7_1.png", "filling.gif", "grid.png"]
    first = {path.name: path.read_bytes() for path in out.glob("*_*.png")}
    # The noise of an image depends on its number, however many are generated together.
    generate(place, "--plan", "halton-12", "--classes", "3,7", "--count", "2", "--batch_size", "1")
    assert {path.name: path.read_bytes() for path in out.glob("*_*.png")} == first
    generate(
        place, "--plan", "halton-12", "--classes", "3,7", "--count", "2", "--seed", "1", "--guidance", "2"
    )
    assert {path.name: path.read_bytes() for path in out.glob("*_*.png")} != first
    assert np.asarray(Image.open(out / "3_0.png")).shape == (8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "cat"], "there is no class 'cat': choose from 0, 1, 2"),
        (["--plan", "regions-9"], "9 regions do not divide a grid of 8 x 8"),
        (["--plan", "spiral"], "unknown plan 'spiral'"),
        (["--plan", "random-65"], "65 passes cannot fill 64 cells"),
        (["--guidance", "-1"], "guidance is -1.0"),
        (["--temperature", "0"], "temperature must be more than 0"),
        (["--model", "nowhere"], "nowhere holds no finished model"),
    ],
)
def test_bad_options(finished, place, capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        generate(place, *options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_par_is_validated_and_tested(place, capsys):
    configs = ["--config", str(CONFIGS / "digits.yaml"), "--config", str(CONFIGS / "regions.yaml")]
    app.run(["fit", *configs, "--config", "small.yaml"])
    assert json.loads((place / "runs/regions/plans.json").read_text())["plans"]["own"]["passes"] == 19
    app.run(["test", "--experiment", "regions", "--trainer.accelerator", "cpu"])
    (measured,) = (place / "runs/regions").glob("test_*.json")
    assert "test/bits_per_token" in json.loads(measured.read_text())["metrics"]
    raster = [*configs, "--config", "small.yaml", "--model.init_args.architecture.regions", "1"]
    app.run(["fit", *raster, "--experiment", "raster", "--generated_images.plans", "[own, jacobi-8]"])
    figures = json.loads((place / "runs/raster/plans.json").read_text())["plans"]
    assert figures["own"].pop("passes") == 64 > figures["jacobi-8"].pop("passes")
    for name in ("bits", "class_accuracy", "frechet_distance"):
        assert figures["own"][name] == figures["jacobi-8"][name], "the same images"
    with pytest.raises(SystemExit):
        main(
            [
                "generate-images",
                "--model",
                "runs/regions/model",
                "--output",
                "o",
                "--plan",
                "raster",
                "--device",
                "cpu",
            ]
        )
    assert "was trained for one order of 19 passes" in capsys.readouterr().err
