"""Precisions that train are kept, those that would round training away are refused, and float16 may skip steps."""

from functools import partial

import pytest
import torch
from pytorch_lightning.plugins import HalfPrecision, MixedPrecision, Precision
from small_training import SMALL, data, trainer
from torch.optim import SGD

from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.drafters import HeadShape
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture
from lightning_bpd.saved.translation import load_checkpoint
from lightning_bpd.training import BaseTraining, FrozenBaseHeadDistillation, JointFineTuning
from lightning_bpd.training.step_loss import SKIPPED

HEADS = HeadShape(block_size=3, d_hidden=16, first_head="learned")
MODULES = ("base", "frozen", "joint", "joint from random weights")


@pytest.fixture(scope="module")
def base(text, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("precision")
    loop = trainer(max_steps=1, limit_val_batches=0, enable_checkpointing=True, default_root_dir=folder)
    loop.fit(BaseTraining(Architecture(**SMALL)), datamodule=data(text))
    loop.save_checkpoint(folder / "base.ckpt")
    load_checkpoint(folder / "base.ckpt").save(folder / "model", {})
    return str(folder / "model")


def module(name: str, base: str, kind=BaseTraining):
    torch.manual_seed(1)
    options = {"warmup_steps": 0, "schedule": "constant", "optimizer": partial(SGD, lr=0.1)}
    options["decode"] = DecodingOptions(extra_length=5)
    if name == "base":
        return kind(Architecture(**SMALL), **options)
    if name == "frozen":
        return FrozenBaseHeadDistillation(base, HEADS, **options)
    return JointFineTuning(base if name == "joint" else Architecture(**SMALL), HEADS, **options)


class NarrowBase(Precision):
    """Quantises what is not trained, as bitsandbytes does with layers that are not excepted."""

    precision = "base-16"

    def convert_module(self, module):
        module.network.half()
        return module


NARROW = {
    "bf16-true": {"precision": "bf16-true"},
    "16-true": {"precision": "16-true"},
    "plugin": {"plugins": [HalfPrecision("bf16-true")]},
    "plugin for the base alone": {"plugins": [NarrowBase()]},
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("narrow", NARROW)
def test_narrow_weights_are_refused_before_the_first_step(text, base, name, narrow):
    trained = module(name, base)
    loop = trainer(**NARROW[narrow], max_steps=1, limit_val_batches=0)
    with pytest.raises(InputError, match=r"^trainer.precision \S+ turns the weights into b?float16") as error:
        loop.fit(trained, datamodule=data(text))
    assert "bf16-mixed" in str(error.value)
    assert "\n" not in str(error.value)
    assert loop.global_step == 0


def float16() -> dict:
    """What 16-mixed is on a GPU; on a CPU Lightning would take bfloat16 in its place."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("mixed", [{"precision": "bf16-mixed"}, float16()], ids=["bf16-mixed", "16-mixed"])
def test_mixed_precision_trains(text, base, name, mixed):
    trained = module(name, base)
    loop = trainer(**mixed, max_steps=3, limit_val_batches=1)
    loop.fit(trained, datamodule=data(text))
    assert loop.global_step == 3
    assert {each.dtype for each in trained.parameters()} == {torch.float32}


class Overflowing(BaseTraining):
    """Has losses that are infinite at some micro-batches, with finite gradients; keeps the weights before each."""

    at: range

    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        self.before = [*getattr(self, "before", []), self.network.output_weight.detach().clone()]

    def _loss(self, batch, label_smoothing):
        loss, cross_entropy, tokens = super()._loss(batch, label_smoothing)
        return (loss + torch.inf if len(self.before) - 1 in self.at else loss), cross_entropy, tokens


def overflowing(text, at: range, **options) -> Overflowing:
    trained = module("base", "", kind=Overflowing)
    trained.at = at
    trainer(**options, max_steps=SKIPPED + 6, limit_val_batches=0).fit(trained, datamodule=data(text))
    return trained


def test_a_scaler_skips_steps_whose_loss_is_not_finite(text):
    trained = overflowing(text, range(3, 3 + SKIPPED), **float16())
    moved = [
        not torch.equal(one, other) for one, other in zip(trained.before, trained.before[1:], strict=False)
    ]
    assert moved == [True] * 3 + [False] * SKIPPED + [True] * (len(moved) - 3 - SKIPPED)
    assert torch.isfinite(trained.network.output_weight).all()


def test_losses_that_stay_infinite_stop_training_under_a_scaler_too(text):
    with pytest.raises(InputError, match=rf"not finite .*, {SKIPPED + 1} times in a row, by step \d+: lower"):
        overflowing(text, range(3, 100), **float16())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_without_a_scaler_one_infinite_loss_stops_training(text, precision):
    with pytest.raises(InputError, match=r"not finite \(NaN or infinite\) by step 3: lower"):
        overflowing(text, range(3, 4), precision=precision)


def test_the_base_that_drift_is_measured_against_leaves_the_device_with_the_module(base):
    """``meta`` stands for an accelerator."""
    trained = module("joint", base)
    (kept,) = trained.drift._base
    trained.to("meta")
    assert {each.device.type for each in kept.parameters()} == {"cpu"}, "not used yet"
    kept.to("meta")
    trained.to_empty(device="cpu")
    assert {each.device.type for each in kept.parameters()} == {"cpu"}
