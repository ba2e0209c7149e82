"""Training of tokenizers of images."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from small_training import trainer
from torch.optim import SGD

from lightning_bpd.callbacks.checkpoints import BestCheckpoint
from lightning_bpd.callbacks.reconstructions import Reconstructions
from lightning_bpd.callbacks.throughput import Throughput
from lightning_bpd.cli.finish_tokenizer import checkpoint_tokenizer
from lightning_bpd.codecs.image_tokenizers import read_tokenizer
from lightning_bpd.datamodules import Digits, LabelledDigits
from lightning_bpd.interfaces import InputError
from lightning_bpd.models.image_tokenizer import ImageTokenizer, TokenizerShape
from lightning_bpd.training import TokenizerTraining

VQ = TokenizerShape("vq", width=8, halvings=1, codebook_size=16, code_width=4)


def module(shape=VQ, **options):
    torch.manual_seed(1)
    return TokenizerTraining(shape, **{"warmup_steps": 2, **options})


def fit(own, folder, data=None, ckpt_path=None, **options):
    settings = {
        "limit_train_batches": 6,
        "max_epochs": 2,
        "default_root_dir": folder,
        "enable_checkpointing": True,
    }
    options.setdefault("callbacks", [BestCheckpoint("val/psnr")])
    loop = trainer(**{**settings, **options})
    loop.fit(own, datamodule=data or LabelledDigits(batch_size=50), ckpt_path=ckpt_path)
    return loop


@pytest.mark.parametrize("quantiser", ["vq", "fsq", "residual_vq"])
def test_training_measures_and_draws(tmp_path, quantiser):
    shape = TokenizerShape(quantiser, 8, 1, codebook_size=16, code_width=4, codebooks=2, levels=(4, 4))
    callbacks = [BestCheckpoint("val/psnr"), Reconstructions(5), Throughput()]
    own = module(shape)
    loop = fit(own, tmp_path, callbacks=callbacks, limit_train_batches=28, max_epochs=4)
    metrics = {name: float(value) for name, value in loop.callback_metrics.items()}
    assert 0 < metrics["val/codebook_use"] <= 1
    assert 1 <= metrics["val/codebook_perplexity"] <= 16
    # Intensities are clamped to 0..255 and rounded, the outputs of the network are not.
    assert 0 < metrics["val/psnr"] - 10 * np.log10(4 / metrics["val/loss"]) < 0.3
    data = loop.datamodule
    spread = data.references("validation").astype(float)
    constant = 10 * np.log10(255**2 / spread.var())
    assert metrics["val/psnr"] > constant + 1
    # 5 images above their reconstructions, of 64 pixels with lines between them.
    assert Image.open(tmp_path / "reconstructions.png").size == (5 * 68 - 4, 2 * 68 - 4)
    tokenizer = checkpoint_tokenizer(tmp_path / "checkpoints" / "best.ckpt")
    tokenizer.save(tmp_path / "tokenizer", {})
    codes = LabelledDigits(tokenizer=str(tmp_path / "tokenizer"), batch_size=8)
    codes.setup("fit")
    batch = next(iter(codes.train_dataloader()))
    assert codes.codec.grid == ((4, 4, 2) if quantiser == "residual_vq" else (4, 4))
    assert batch.tokens.shape == (8, codes.codec.length)
    again = read_tokenizer(str(tmp_path / "tokenizer"), (8, 8, 1))
    assert (again.encode(codes.references("train")[batch.index]) == batch.tokens.numpy()).all()


def test_a_resumed_run_repeats_an_uninterrupted_one(tmp_path):
    # A cosine would depend on the number of epochs.
    whole, half, resumed = (module(schedule="constant") for _ in range(3))
    fit(whole, tmp_path, max_epochs=3)
    fit(half, tmp_path, max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    fit(resumed, tmp_path, max_epochs=3, ckpt_path=tmp_path / "half.ckpt")
    expected = whole.network.state_dict()
    for name, tensor in resumed.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_micro_batches_give_the_step_of_their_batch(tmp_path):
    fsq = TokenizerShape("fsq", width=8, halvings=1, levels=(4, 4))
    whole, parts = module(fsq), module(fsq)
    fit(whole, tmp_path, LabelledDigits(batch_size=1400), max_epochs=1)
    fit(
        parts,
        tmp_path,
        LabelledDigits(batch_size=140),
        limit_train_batches=10,
        max_epochs=1,
        accumulate_grad_batches=10,
    )
    expected = whole.network.state_dict()
    for name, tensor in parts.network.state_dict().items():
        assert torch.allclose(tensor, expected[name], atol=1e-4), name


def test_a_collapsing_codebook_is_named(tmp_path, caplog):
    # An encoder whose outputs are all alike, which does not learn.
    own = TokenizerTraining(VQ, optimizer=partial(SGD, lr=0.0), warmup_steps=2)
    own.network = ImageTokenizer(VQ, 1)
    torch.nn.init.zeros_(own.network.encoder[-1].weight)
    with caplog.at_level(logging.WARNING, "lightning_bpd"):
        fit(own, tmp_path)
    assert "the codebook collapses: " in caplog.text
    assert "1 of 16 codes are used, with a perplexity of 1.0" in caplog.text
    assert 'use quantiser "fsq"' in caplog.text
    assert own.collapsed is not None


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="images of 8 x 8 pixels cannot be halved 4 times"):
        fit(module(TokenizerShape(halvings=4)), tmp_path)
    with pytest.raises(InputError, match="trained on the intensities of images, and the data is images"):
        fit(module(), tmp_path, Digits())


def test_a_checkpoint_of_other_images(tmp_path):
    fit(module(), tmp_path).save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["lightning_bpd"]["fingerprints"]["image size"] = "9 x 9 x 1, 17 levels"
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="another image size"):
        fit(module(), tmp_path, ckpt_path=tmp_path / "a.ckpt")
