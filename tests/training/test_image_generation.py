"""Training of a generator of images: its loss, its random orders, and its checkpoints."""

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from lightning_bpd.datamodules import LabelledDigits
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import TokenShape
from lightning_bpd.orders import order_of, plan_groups
from lightning_bpd.saved.finished_model import read_checkpoint, read_folder
from lightning_bpd.training import ImageGeneration
from lightning_bpd.training.image_generation import random_sizes

ORDERS = {
    "raster": {},
    "regions": {"regions": 4},
    "consecutive": {"regions": 4, "order": "consecutive"},
    "queries": {"order": "queries"},
}


def trained(tmp_path, order, epochs=1, ckpt_path=None, plan="regions-4"):
    pl.seed_everything(1)
    shape = TokenShape(d_model=16, heads=2, decoder_layers=1, feed_forward=24, **ORDERS[order])
    module = ImageGeneration(shape, schedule="constant", warmup_steps=2, plan=plan)
    trainer = pl.Trainer(
        max_epochs=epochs,
        limit_train_batches=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=2,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, LabelledDigits(cache=str(tmp_path / "cache")), ckpt_path=ckpt_path)
    return trainer, module


@pytest.mark.parametrize("order", ORDERS)
def test_validation_measures_bits_of_each_token_given_the_groups_before(order, tmp_path):
    trainer, module = trained(tmp_path, order)
    (found,) = trainer.validate(module, trainer.datamodule, verbose=False)
    network, total, count = module.network.eval(), 0.0, 0
    groups = plan_groups("regions-4", network.grid) if order == "queries" else network.groups
    place = order_of(groups)
    for number, (labels, tokens, _) in enumerate(trainer.datamodule.val_dataloader()):
        if number == 2:
            break
        if order == "queries":
            sizes = [len(group) for group in groups]
            hidden = network.hidden_of(labels, tokens, place.expand(len(tokens), -1), sizes)
        else:
            hidden = network.hidden(labels, tokens)
        logits = network.project(hidden).double()
        total += float(F.cross_entropy(logits.flatten(0, 1), tokens[:, place].flatten(), reduction="sum"))
        count += tokens.numel()
    bits = total / count / torch.log(torch.tensor(2.0)).item()
    assert found["val/bits_per_token"] == pytest.approx(bits, rel=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_a_checkpoint_is_a_finished_model_and_resumes(order, tmp_path):
    trainer, module = trained(tmp_path, order)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    model = read_checkpoint(tmp_path / "first.ckpt")
    model.save(tmp_path / "model", {})
    again = read_folder(tmp_path / "model")
    assert again.codec == trainer.datamodule.codec
    for name, weight in module.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name])
    assert again.network.architecture == module.architecture
    straight = trained(tmp_path, order, 2)[1].network.state_dict()
    resumed = trained(tmp_path, order, 2, tmp_path / "first.ckpt")[1].network.state_dict()
    for name, weight in straight.items():
        assert torch.equal(weight, resumed[name]), name
    # Orders, groups and hidden classes are drawn anew in every step.
    assert any(
        not torch.equal(weight, straight[name]) for name, weight in module.network.state_dict().items()
    )


def test_images_are_predicted_for_labels(tmp_path):
    trainer, module = trained(tmp_path, "queries")
    outputs = trainer.predict(module, trainer.datamodule)
    images = {index: image for batch in outputs for index, image in batch.items()}
    assert sorted(images) == list(range(200))
    assert all(image.shape == (8, 8, 1) for image in images.values())


def test_sizes_of_groups_fill_the_grid():
    torch.manual_seed(0)
    passes = set()
    for _ in range(200):
        sizes = random_sizes(64)
        assert sum(sizes) == 64
        assert min(sizes) >= 1
        passes.add(len(sizes))
    assert min(passes) == 1 or min(passes) == 2
    assert max(passes) > 50


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown plan"):
        trained(tmp_path, "queries", plan="spiral")
    with pytest.raises(InputError, match="do not divide a grid of 8 x 8"):
        trained(tmp_path, "queries", plan="regions-9")
    with pytest.raises(InputError, match="not an even number"):
        TokenShape(d_model=18, heads=6)
    with pytest.raises(InputError, match="leave sequential_start true"):
        TokenShape(transition="copied", sequential_start=False)
    with pytest.raises(InputError, match="leave regions out"):
        TokenShape(order="queries", regions=4)
