"""Training of the drafter that attends: frozen and joint, resumed, accumulated, on two ranks, and stored."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from small_training import SMALL, data, join, trainer
from test_block_training import DECODE, DESCENT, bases, checkpoint_of, frozen, joint  # noqa: F401  # a fixture
from torch.optim import SGD

from lightning_bpd.callbacks.blockwise_decoding import BlockRule, BlockwiseDecoding
from lightning_bpd.drafters import HeadShape, ParallelDraft
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture
from lightning_bpd.saved.finished_model import fingerprint
from lightning_bpd.saved.translation import load, load_checkpoint

SHAPE = ParallelDraft(block_size=4, attention_heads=2, correction=8)
LINES = ["The old man buys a house.", "Where is it?", ""]
both = pytest.mark.parametrize("make", [frozen, joint])


@pytest.mark.parametrize("targets", ["data", "distill"])
@pytest.mark.parametrize("candidates", [None, 50])
def test_frozen_training_learns_and_keeps_the_base(text, bases, tmp_path, targets, candidates):  # noqa: F811
    shape = replace(SHAPE, candidates=candidates, kept=0.6, dropout=0.1)
    module = frozen(
        bases[0], drafter=shape, targets=targets,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    )  # fmt: skip
    loop = trainer(max_epochs=4, check_val_every_n_epoch=4)
    loop.validate(module, datamodule=data(text), verbose=False)
    before = {name: float(value) for name, value in loop.callback_metrics.items()}
    path = checkpoint_of(module, text, tmp_path / "drafter.ckpt", max_epochs=4, limit_val_batches=None)
    after = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
    for head in (2, 3, 4) if targets == "data" else ():  # this base's distribution is far from the data's
        assert after[f"val/head_{head}/loss"] < before[f"val/head_{head}/loss"] - 0.1
    assert after["val/head_1/loss"] == before["val/head_1/loss"]
    untouched = load(bases[0])
    assert fingerprint(module.network) == fingerprint(untouched.network)
    stored = torch.load(path, weights_only=True)
    assert all(name.startswith("heads.") for name in stored["state_dict"])

    # Checkpoint and folder rebuild it by its class_path.
    load_checkpoint(path).save(tmp_path / "model", {})
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["heads"]["class_path"] == "lightning_bpd.drafters.parallel.ParallelDraft"
    again = load(tmp_path / "model")
    assert again.heads.shape == shape
    for block_size in (2, 4):
        assert again.translate(LINES, "blockwise", block_size=block_size) == untouched.translate(LINES)


@both
def test_a_resumed_run_is_one_that_never_stopped(text, bases, tmp_path, make):  # noqa: F811
    shape = replace(SHAPE, candidates=50, kept=0.6, dropout=0.1)
    whole = make(bases[0], drafter=shape)
    trainer(max_epochs=2, limit_val_batches=1).fit(whole, datamodule=data(text))
    path = checkpoint_of(make(bases[0], drafter=shape), text, tmp_path / "half.ckpt", max_epochs=1)
    resumed = make(bases[0], drafter=shape)
    trainer(max_epochs=2, limit_val_batches=1).fit(resumed, datamodule=data(text), ckpt_path=path)
    for one, other in ((whole.heads, resumed.heads), (whole.network, resumed.network)):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("make", [frozen, joint, partial(frozen, targets="distill")])
def test_accumulated_micro_batches_equal_one_large_batch(text, bases, make):  # noqa: F811
    corpus = data(text, batch_tokens=64)
    corpus.prepare_data()
    corpus.setup("fit")
    batches = sorted(corpus.train_dataloader(), key=lambda batch: batch.target.tokens.size(1))
    batches = [batches[place] for place in (0, len(batches) // 2, -1)]
    weights = []
    for micro in (batches, [join(batches)]):
        module = make(bases[0], drafter=replace(SHAPE, candidates=50), **DESCENT)
        module.network.eval()
        given = data(text)
        given.train_dataloader = lambda micro=micro: torch.utils.data.DataLoader(micro, batch_size=None)
        options = {"precision": "64-true", "limit_val_batches": 0, "gradient_clip_val": None}
        trainer(max_steps=1, accumulate_grad_batches=len(micro), **options).fit(module, datamodule=given)
        weights.append({name: weight.detach().clone() for name, weight in module.named_parameters()})
    torch.testing.assert_close(*weights, rtol=0, atol=1e-11)


def test_two_ranks_train_as_one_process_with_twice_the_accumulation(text, bases, tmp_path):  # noqa: F811
    weights = []
    for options in ({"devices": 2, "strategy": "ddp_spawn"}, {"accumulate_grad_batches": 2}):
        module = joint(bases[0], drafter=replace(SHAPE, candidates=50), **DESCENT).double()
        module.network.eval()
        options |= {"max_steps": 3, "precision": "64-true", "limit_val_batches": 0, "gradient_clip_val": None}
        trainer(**options, default_root_dir=tmp_path).fit(module, datamodule=data(text))
        weights.append(dict(module.named_parameters()))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-11)


def test_two_ranks_train_one_head_at_a_time(text, bases, tmp_path):  # noqa: F811
    """Each rank has a gradient for each weight, whatever head was drawn: DDP would wait for ever."""
    module = joint(bases[0], drafter=SHAPE, loss="sampled", **DESCENT)
    before = module.heads.masks.detach().clone()
    options = {"devices": 2, "strategy": "ddp_spawn", "default_root_dir": tmp_path}
    trainer(max_steps=6, limit_val_batches=0, **options).fit(module, datamodule=data(text))
    assert not torch.equal(module.heads.masks, before)


def test_joint_training_from_random_weights_is_measured(text, tmp_path):
    module = joint(Architecture(**SMALL), drafter=SHAPE, optimizer=partial(SGD, lr=0.1))
    callback = BlockwiseDecoding([BlockRule(), BlockRule(3, "top-2")])
    path = checkpoint_of(
        module, text, tmp_path / "model.ckpt", limit_val_batches=None, callbacks=[callback], max_epochs=1
    )
    metrics = module.trainer.callback_metrics
    assert 1 <= metrics["val/k4_exact/mean_accepted_block_size"] <= 4
    assert metrics["val/k4_exact/greedy_agreement"] == 1
    assert not any("replay" in name for name in metrics), "it cannot be replayed"
    translator = load_checkpoint(path)
    assert translator.translate(LINES, "blockwise") == translator.translate(LINES)


def test_training_goes_on_from_a_drafter_of_the_same_shape(text, bases, tmp_path, caplog):  # noqa: F811
    path = checkpoint_of(frozen(bases[0], drafter=SHAPE), text, tmp_path / "drafter.ckpt", max_steps=3)
    load_checkpoint(path).save(tmp_path / "model", {})
    trained = load(tmp_path / "model").heads.state_dict()
    with caplog.at_level("INFO", "lightning_bpd"):
        again = frozen(str(tmp_path / "model"), drafter=SHAPE)
        assert "going on from them" in caplog.text
        torch.testing.assert_close(again.heads.state_dict(), trained)
        for other in ({"drafter": replace(SHAPE, layers=2)}, {"heads": HeadShape(block_size=4, d_hidden=16)}):
            caplog.clear()
            frozen(str(tmp_path / "model"), **other)
            assert "of another shape, starting anew" in caplog.text
    with pytest.raises(InputError, match=r"holds heads of the shape.*let model.heads say the same"):
        trainer().validate(
            frozen(bases[0], drafter=replace(SHAPE, layers=2)), datamodule=data(text), ckpt_path=path
        )


def test_a_folder_that_names_no_drafter_is_refused(text, bases, tmp_path):  # noqa: F811
    path = checkpoint_of(frozen(bases[0], drafter=SHAPE), text, tmp_path / "drafter.ckpt", max_steps=1)
    load_checkpoint(path).save(tmp_path / "model", {})
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    for named, message in (
        ("nowhere.Drafter", "cannot be imported"),
        ("Drafter", "cannot be imported"),
        ("lightning_bpd.drafters.Absent", "cannot be imported"),
        ("subprocess.Popen", "is no DrafterShape"),
        ("lightning_bpd.drafters.BlockHeads", "is no DrafterShape"),
    ):
        config["heads"]["class_path"] = named
        file.write_text(json.dumps(config))
        with pytest.raises(InputError, match=message):
            load(tmp_path / "model")
