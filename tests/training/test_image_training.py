"""Training on images, by the same modules: a base, heads on it, and both together."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from small_training import trainer

from lightning_bpd.callbacks.block_measurement import BlockRule
from lightning_bpd.callbacks.blockwise_decoding import BlockwiseDecoding
from lightning_bpd.callbacks.samples import Predictions, Samples
from lightning_bpd.datamodules import Digits
from lightning_bpd.decoding import DecodingOptions, blockwise, greedy
from lightning_bpd.drafters import HeadShape
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, ImageArchitecture
from lightning_bpd.saved.finished_model import fingerprint, read_checkpoint, read_folder
from lightning_bpd.saved.translation import load
from lightning_bpd.training import BaseTraining, FrozenBaseHeadDistillation, JointFineTuning

SHAPE = ImageArchitecture(
    height=8, width=8, channels=1, levels=17, scale=2, d_model=16, heads=2, encoder_layers=1, decoder_layers=1,
    feed_forward=32, dropout=0.0, norm="pre", local_block=16,
)  # fmt: skip
HEADS = HeadShape(block_size=4, d_hidden=16)


def fit(module, path, **options):
    loop = trainer(
        **{"limit_train_batches": 30, "limit_val_batches": 2, "default_root_dir": path.parent, **options},
    )
    loop.fit(module, datamodule=Digits(batch_size=16))
    loop.save_checkpoint(path)
    return loop.callback_metrics


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image_base")
    torch.manual_seed(1)
    module = BaseTraining(images=SHAPE, warmup_steps=5, label_smoothing=0.0)
    metrics = fit(module, folder / "base.ckpt", callbacks=[Samples(3)])
    # Three rows of three panels: input, truth and output.
    width, height = Image.open(folder / "samples.png").size
    assert 0.8 < width / height < 1.3
    assert {"val/loss", "val/bits_per_dimension", "val/psnr", "val/ssim"} <= set(metrics)
    assert metrics["val/bits_per_dimension"] == pytest.approx(metrics["val/loss"] / torch.tensor(2.0).log())
    read_checkpoint(folder / "base.ckpt").save(folder / "model", {})
    return folder / "model"


def test_heads_on_a_frozen_base_and_together(base, tmp_path):
    rules = [BlockRule(4, "exact"), BlockRule(4, "distance-1"), BlockRule(4, "minimum-2")]
    untouched = fingerprint(read_folder(base).network)
    found = {}
    for name, build in (("frozen", FrozenBaseHeadDistillation), ("joint", JointFineTuning)):
        torch.manual_seed(2)
        module = build(str(base), HEADS, warmup_steps=5)
        metrics = fit(module, tmp_path / f"{name}.ckpt", callbacks=[BlockwiseDecoding(rules)])
        assert metrics["val/k4_exact/greedy_agreement"] == 1.0
        exact, near = (metrics[f"val/k4_{rule}/mean_accepted_block_size"] for rule in ("exact", "distance-1"))
        assert 1 <= exact <= near <= 4
        assert metrics["val/k4_minimum-2/mean_accepted_block_size"] >= 2
        found[name] = read_checkpoint(tmp_path / f"{name}.ckpt")
    assert fingerprint(found["frozen"].network) == untouched != fingerprint(found["joint"].network)
    found["joint"].save(tmp_path / "model", {})
    parts = read_folder(tmp_path / "model")
    assert parts.codec == Digits().codec
    model, drafter = parts.to("cpu").model, parts.drafter
    data = Digits(batch_size=5)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    one, many = greedy(model, batch.source), blockwise(model, drafter, batch.source, 4)
    assert one.rows() == many.rows()
    (image, *_) = parts.codec.decode(one.rows())
    assert image.shape == (8, 8, 1)


def test_predictions_are_pictures(base, tmp_path):
    module = FrozenBaseHeadDistillation(str(base), HEADS)
    loop = trainer(default_root_dir=tmp_path, limit_predict_batches=1, callbacks=[Predictions()])
    (batch,) = loop.predict(module, datamodule=Digits(batch_size=3))
    assert len(batch) in (2, 3)
    for index, image in batch.items():
        drawn = np.array(Image.open(tmp_path / "predictions" / f"{index:06}.png"))
        assert np.array_equal(drawn, image[..., 0])


def test_what_does_not_fit(base, tmp_path):
    for shape, words in (
        (
            {"images": ImageArchitecture(**{**asdict(SHAPE), "levels": 16})},
            "levels is 16, and that of the data's images 17",
        ),
        ({"architecture": Architecture()}, "this network is for text, and the data is images"),
    ):
        with pytest.raises(InputError, match=words):
            fit(BaseTraining(**shape), tmp_path / "base.ckpt")
    with pytest.raises(InputError, match="model of images, which cannot translate"):
        load(base)
    with pytest.raises(InputError, match="larger than the 4"):
        FrozenBaseHeadDistillation(str(base), HEADS, decode=DecodingOptions("blockwise", block_size=5))
