"""Training of block heads, frozen and joint: what is trained, what is kept, what is refused."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from proposed import proposed
from pytorch_lightning.callbacks import EMAWeightAveraging
from safetensors.torch import load_file, save_file
from small_training import SMALL, data, join, trainer
from torch.optim import SGD

from lightning_bpd.callbacks.blockwise_decoding import BlockRule, BlockwiseDecoding
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.drafters import HeadShape
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture
from lightning_bpd.saved.finished_model import fingerprint
from lightning_bpd.saved.translation import load, load_checkpoint
from lightning_bpd.training import BaseTraining, FrozenBaseHeadDistillation, JointFineTuning
from lightning_bpd.training.blocks import heads_of_step

DECODE = DecodingOptions(extra_length=5)
SHAPE = HeadShape(block_size=4, d_hidden=16)


def checkpoint_of(module, text: Path, path: Path, **options) -> Path:
    loop = trainer(
        **{"limit_val_batches": 1, "enable_checkpointing": True, "default_root_dir": path.parent, **options}
    )
    loop.fit(module, datamodule=data(text))
    loop.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def bases(text, tmp_path_factory) -> tuple[str, str]:
    """Two finished models of one shape and tokenizer."""
    folder = tmp_path_factory.mktemp("bases")
    for seed in (1, 2):
        torch.manual_seed(seed)
        module = BaseTraining(Architecture(**SMALL, dropout=0.2), warmup_steps=4, decode=DECODE)
        path = checkpoint_of(module, text, folder / f"{seed}.ckpt", max_steps=20)
        load_checkpoint(path).save(folder / f"model{seed}", {})
    return str(folder / "model1"), str(folder / "model2")


def frozen(base: str, **options) -> FrozenBaseHeadDistillation:
    torch.manual_seed(5)
    return FrozenBaseHeadDistillation(
        base, **{"heads": SHAPE, "warmup_steps": 4, "decode": DECODE, **options}
    )


def joint(base, **options) -> JointFineTuning:
    torch.manual_seed(5)
    return JointFineTuning(base, **{"heads": SHAPE, "warmup_steps": 4, "decode": DECODE, **options})


def test_averaging_spares_the_frozen_base_and_the_candidates(text, bases, tmp_path):
    average = partial(EMAWeightAveraging, decay=0.5)
    with pytest.raises(InputError, match="would average the frozen base too"):
        trainer(callbacks=[average(use_buffers=False)]).fit(frozen(bases[0]), datamodule=data(text))
    shape = replace(SHAPE, candidates=50)
    with pytest.raises(InputError, match="use_buffers: false"):
        trainer(callbacks=[average()]).fit(joint(bases[0], heads=shape), datamodule=data(text))
    plain, averaged = joint(bases[0], heads=shape), joint(bases[0], heads=shape)
    checkpoint_of(plain, text, tmp_path / "plain.ckpt", max_steps=4)
    callbacks = [average(use_buffers=False)]
    checkpoint_of(averaged, text, tmp_path / "averaged.ckpt", max_steps=4, callbacks=callbacks)
    kept = load_checkpoint(tmp_path / "averaged.ckpt").heads
    assert torch.equal(kept.candidates, plain.heads.candidates)
    assert not torch.equal(kept.hidden_weight, plain.heads.hidden_weight)


@pytest.mark.parametrize("build", [frozen, joint])
def test_a_base_that_is_its_own_teacher_is_warned_of_unless_that_is_meant(text, bases, caplog, build):
    words = "made by the base itself"
    for teacher, meant, warned in ((0, False, True), (0, True, False), (1, False, False)):
        distilled = data(text)
        distilled.distilled_by = fingerprint(load(bases[teacher]).network)
        distilled.self_distillation = meant
        caplog.clear()
        trainer(max_steps=1, limit_val_batches=0).fit(build(bases[0]), datamodule=distilled)
        assert (words in caplog.text) is warned


@pytest.mark.parametrize("loss", ["all", "sampled"])
@pytest.mark.parametrize("targets", ["data", "distill"])
def test_a_frozen_base_stays_as_it_is(text, bases, tmp_path, loss, targets):
    module = frozen(bases[0], loss=loss, targets=targets)
    heads_before = {name: tensor.clone() for name, tensor in module.heads.state_dict().items()}
    path = checkpoint_of(module, text, tmp_path / "heads.ckpt", max_steps=10)
    untouched = load(bases[0]).network.state_dict()
    for name, tensor in module.network.state_dict().items():
        assert torch.equal(tensor, untouched[name]), name
    assert not any(part.training for part in module.network.modules())
    assert all(part.training for part in module.heads.modules())
    (group,) = module.optimizers().param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in module.heads.parameters()}
    moved = module.heads.state_dict()
    assert all(not torch.equal(moved[name], before) for name, before in heads_before.items())
    # The checkpoint holds the heads alone.
    stored = torch.load(path, weights_only=True)
    assert set(stored["state_dict"]) == {f"heads.{name}" for name in heads_before}
    assert stored["lightning_bpd"]["heads"]["base"] == fingerprint(load(bases[0]).network)


def test_frozen_training_learns(text, bases):
    module = frozen(bases[0], optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01))
    loop = trainer(max_epochs=6, check_val_every_n_epoch=6)
    loop.validate(module, datamodule=data(text), verbose=False)
    before = {name: float(value) for name, value in loop.callback_metrics.items()}
    loop.fit(module, datamodule=data(text))
    after = {name: float(value) for name, value in loop.callback_metrics.items()}
    for head in (2, 3, 4):
        assert after[f"val/head_{head}/loss"] < before[f"val/head_{head}/loss"] - 0.1
        assert after[f"val/head_{head}/accuracy"] > before[f"val/head_{head}/accuracy"]
    for name in ("val/loss", "val/bleu", "val/head_1/loss"):
        assert after[name] == before[name], "p_1 is the base"


def gradient_step(module, batches, text: Path, **options) -> dict[str, torch.Tensor]:
    """The weights after one optimiser step over these micro-batches: plain descent, so each shows its gradient."""
    module.network.eval()  # no dropout, which would differ
    torch.nn.init.normal_(module.heads.output_weight, std=0.3, generator=torch.Generator().manual_seed(1))
    given = data(text)
    given.train_dataloader = lambda: torch.utils.data.DataLoader(batches, batch_size=None)
    options = {
        "max_steps": 1,
        "precision": "64-true",
        "limit_val_batches": 0,
        "gradient_clip_val": None,
        **options,
    }
    trainer(**options).fit(module, datamodule=given)
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


DESCENT = {"optimizer": partial(SGD, lr=1.0), "schedule": "constant", "warmup_steps": 1}


@pytest.mark.parametrize("candidates", [None, 50])
@pytest.mark.parametrize("make", [frozen, joint, partial(frozen, targets="distill")])
def test_accumulated_micro_batches_equal_one_large_batch(text, bases, make, candidates):
    """Heads have different shares of targets in each micro-batch, and the gradient is that of the whole batch."""
    corpus = data(text, batch_tokens=64)
    corpus.prepare_data()
    corpus.setup("fit")
    batches = sorted(corpus.train_dataloader(), key=lambda batch: batch.target.tokens.size(1))
    batches = [batches[place] for place in (0, len(batches) // 2, -1)]
    settings = {"heads": replace(SHAPE, candidates=candidates), "head_weights": [8, 4, 0, 1], **DESCENT}
    many, one = (
        gradient_step(make(bases[0], **settings), micro, text, accumulate_grad_batches=len(micro))
        for micro in (batches, [join(batches)])
    )
    torch.testing.assert_close(many, one, rtol=0, atol=1e-12)


def test_two_ranks_train_as_one_process_with_twice_the_accumulation(text, bases, tmp_path):
    weights = []
    for options in ({"devices": 2, "strategy": "ddp_spawn"}, {"accumulate_grad_batches": 2}):
        module = joint(bases[0], heads=replace(SHAPE, candidates=50), **DESCENT).double()
        module.network.eval()
        options |= {"max_steps": 3, "precision": "64-true", "limit_val_batches": 0, "gradient_clip_val": None}
        trainer(**options, default_root_dir=tmp_path).fit(module, datamodule=data(text))
        assert module.heads.output_weight.any()
        weights.append(dict(module.named_parameters()))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-12)


def test_heads_belong_to_their_base(text, bases, tmp_path):
    path = checkpoint_of(frozen(bases[0]), text, tmp_path / "heads.ckpt", max_steps=3)
    one, other = (fingerprint(load(base).network) for base in bases)
    assert one != other
    with pytest.raises(
        InputError, match=rf"trained on a base with fingerprint {one}, and \S*model2 is {other}"
    ):
        trainer().validate(frozen(bases[1]), datamodule=data(text), ckpt_path=path)
    with pytest.raises(
        InputError, match=f"fingerprint {one}.*name the one that they were trained on with --base"
    ):
        load_checkpoint(path, base=bases[1])
    with pytest.raises(InputError, match=r"holds heads of the shape.*let model.heads say the same"):
        trainer().validate(
            frozen(bases[0], heads=HeadShape(block_size=3, d_hidden=16)),
            datamodule=data(text),
            ckpt_path=path,
        )
    # The finished model has all it needs, and knows when its parts were mixed.
    translator = load_checkpoint(path)
    translator.save(tmp_path / "model", {})
    lines = ["The old man buys a house.", "Where is it?"]
    expected = load(bases[0]).translate(lines, extra_length=5)
    assert load(tmp_path / "model").translate(lines, "blockwise", extra_length=5) == expected
    (tmp_path / "model" / "model.safetensors").write_bytes(
        (Path(bases[1]) / "model.safetensors").read_bytes()
    )
    with pytest.raises(InputError, match=rf"fingerprint {one}, and \S*model.safetensors is {other}"):
        load(tmp_path / "model")


def test_a_base_may_be_a_checkpoint(text, bases):
    module = frozen(str(Path(bases[0]).parent / "1.ckpt"))
    assert module.fingerprint == frozen(bases[0]).fingerprint
    with pytest.raises(InputError, match="holds no finished model"):
        frozen("nowhere")


def test_joint_training_moves_the_base_by_its_own_rate(text, bases, tmp_path):
    def rates(parameters):
        return SGD(parameters, lr=0.5)

    module = joint(bases[0], optimizer=rates, base_learning_rate=0.0, warmup_steps=1, schedule="constant")
    loop = trainer(limit_train_batches=3)
    loop.fit(module, datamodule=data(text))
    heads, base = module.optimizers().param_groups
    assert (heads["lr"], base["lr"]) == (0.5, 0.0)
    assert fingerprint(module.network) == fingerprint(load(bases[0]).network), "a rate of zero moves nothing"
    metrics = {name: float(value) for name, value in loop.callback_metrics.items()}
    assert metrics["val/drift/agreement"] == 1.0
    assert metrics["val/drift/kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["val/drift/base_bleu"] == metrics["val/bleu"]

    module = joint(bases[0], optimizer=rates, base_learning_rate=0.2, warmup_steps=1, schedule="constant")
    path = checkpoint_of(module, text, tmp_path / "joint.ckpt", limit_train_batches=5, limit_val_batches=None)
    metrics = module.trainer.callback_metrics
    assert fingerprint(module.network) != fingerprint(load(bases[0]).network)
    assert float(metrics["val/drift/agreement"]) < 1.0
    assert float(metrics["val/drift/kl"]) > 1e-3
    # The checkpoint is a whole model.
    translator = load_checkpoint(path)
    assert fingerprint(translator.network) == fingerprint(module.network)
    lines = ["The old man buys a house.", "Where is it?"]
    assert translator.translate(lines, "blockwise", block_size=3) == translator.translate(lines)


@pytest.mark.parametrize("first_head", ["identity", "learned"])
def test_joint_training_from_random_weights(text, tmp_path, first_head):
    shape = HeadShape(block_size=3, d_hidden=16, second_matrix="dense", first_head=first_head)
    module = joint(Architecture(**SMALL), heads=shape, loss="sampled")
    path = checkpoint_of(module, text, tmp_path / "model.ckpt", limit_val_batches=None)
    assert "val/drift/kl" not in module.trainer.callback_metrics
    translator = load_checkpoint(path)
    translator.save(tmp_path / "model", {})
    lines = ["The old man buys a house.", "Where is it?"]
    again = load(tmp_path / "model")
    assert again.translate(lines, "blockwise") == again.translate(lines) == translator.translate(lines)


def test_sampled_heads_are_uniform_and_known_to_every_rank():
    def draw(weights=None, candidates=range(2, 9)):
        places = [(epoch, batch) for epoch in range(10) for batch in range(700)]
        drawn = [heads_of_step("sampled", candidates, weights, 1, *place) for place in places]
        assert all(len(which) == 1 and counts is None for which, counts in drawn)
        return Counter(which.start for which, _ in drawn)

    assert draw() == draw()
    assert set(draw()) == set(range(2, 9))
    assert all(850 < count < 1150 for count in draw().values())
    weighted = draw(torch.tensor([9.0, 3.0, 1.0, 0.0]), range(2, 5))
    assert set(weighted) == {2, 3}
    assert weighted[2] / weighted[3] == pytest.approx(3, rel=0.1)
    which, weights = heads_of_step("all", range(2, 5), torch.tensor([9.0, 3.0, 1.0, 0.0]), 1, 3, 5)
    assert which == range(2, 5)
    assert weights.tolist() == [3.0, 1.0, 0.0]


def test_wrong_settings_say_what_to_do(text, bases):
    with pytest.raises(InputError, match="has nothing to train: raise block_size"):
        frozen(bases[0], heads=HeadShape(block_size=1))
    with pytest.raises(InputError, match="temperature must be greater than 0"):
        frozen(bases[0], targets="distill", temperature=0.0)
    with pytest.raises(InputError, match="block_size 5 is larger than the 4 that the heads were trained for"):
        frozen(bases[0], decode=DecodingOptions("blockwise", block_size=5))
    with pytest.raises(
        InputError, match=r"the tokens of text have no order: choose exact, top-N or minimum-N"
    ):
        frozen(bases[0], decode=DecodingOptions("blockwise", acceptance="distance-2"))
    for module in (frozen(bases[0]), joint(bases[0])):
        with pytest.raises(
            InputError, match=r"source tokenizer \(700 tokens.*not that of the base .*let data.tokenizer"
        ):
            trainer().fit(module, datamodule=data(text, vocab_size=700))
    base = BaseTraining(Architecture(**SMALL), decode=DecodingOptions("blockwise"))
    with pytest.raises(InputError, match="this model has no block heads"):
        trainer().fit(base, datamodule=data(text))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("make", [frozen, joint])
@pytest.mark.parametrize("loss", ["all", "sampled"])
@pytest.mark.parametrize("candidates", [None, 50])
def test_head_weights_give_the_trained_heads_a_share(text, bases, make, loss, candidates):
    options = {"loss": loss, "heads": replace(SHAPE, candidates=candidates)}
    useless = [
        [1.0, 2.0],
        [],
        [1.0] * 5,
        [0.0] * 4,
        [1, -1, 1, 1],
        [1, NAN, 1, 1],
        [1, INF, 1, 1],
        [3e38] * 4,
    ]
    for weights in [*useless, *([[1, 0, 0, 0]] if make is frozen else [])]:
        with pytest.raises(InputError, match=r"head_weights \[.*\] must be 4 numbers.*heads [12] to 4"):
            make(bases[0], head_weights=weights, **options)
    for weights in ([0, 0, 0, 1], [1, 0, 2, 0], *([[1, 0, 0, 0]] if make is joint else [])):
        module = make(bases[0], head_weights=weights, **options)
        before = module.heads.hidden_bias.clone()
        trainer(limit_train_batches=3, limit_val_batches=0).fit(module, datamodule=data(text))
        moved = (module.heads.hidden_bias != before).any(1).tolist()
        assert all(parameter.isfinite().all() for parameter in module.parameters())
        if loss == "all":
            assert moved == [weight > 0 for weight in weights[1:]]
            logged = {name for name in module.trainer.callback_metrics if name.startswith("train/head")}
            trained = range(module.heads.first if make is frozen else 1, 5)
            assert logged == {
                f"train/head_{head}/{name}"
                for head in trained
                for name in ("loss", "accuracy")
                if weights[head - 1]
            }


@pytest.mark.parametrize("make", [frozen, joint])
def test_a_loss_that_is_no_number_stops_training(text, bases, make):
    module = make(bases[0], optimizer=lambda parameters: SGD(parameters, lr=1e30))
    with pytest.raises(InputError, match=r"not finite \(NaN or infinite\) by step \d+: lower"):
        trainer(gradient_clip_val=None, max_epochs=50, limit_val_batches=0).fit(module, datamodule=data(text))


@pytest.mark.parametrize("make", [frozen, joint])
def test_a_resumed_run_is_one_that_never_stopped(text, bases, tmp_path, make):
    whole = make(bases[0], loss="sampled")
    trainer(max_epochs=2, limit_val_batches=1).fit(whole, datamodule=data(text))
    path = checkpoint_of(make(bases[0], loss="sampled"), text, tmp_path / "half.ckpt", max_epochs=1)
    resumed = make(bases[0], loss="sampled")
    trainer(max_epochs=2, limit_val_batches=1).fit(resumed, datamodule=data(text), ckpt_path=path)
    assert resumed.global_step == whole.global_step
    for one, other in ((whole.heads, resumed.heads), (whole.network, resumed.network)):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


class Written(FrozenBaseHeadDistillation):
    """Writes each rank's metrics of validation or test."""

    folder: Path

    def on_validation_end(self):
        metrics = {
            name: float(value)
            for name, value in self.trainer.callback_metrics.items()
            if not name.startswith("train/")
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(metrics))

    on_test_end = on_validation_end


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_two_ranks_measure_what_one_does(text, bases, tmp_path, command):
    """Every metric but the speed-up, which is a time, to the last digit; fit with steps that move nothing."""
    rules = [BlockRule(), BlockRule(3, "top-2"), BlockRule(4, "minimum-2")]
    for name, options in (("one", {}), ("two", {"devices": 2, "strategy": "ddp_spawn"})):
        torch.manual_seed(5)
        module = Written(bases[0], heads=SHAPE, decode=DECODE, optimizer=partial(SGD, lr=0.0))
        torch.nn.init.normal_(module.heads.output_weight, std=0.3)
        module.folder = tmp_path / name
        callback = BlockwiseDecoding(rules)
        loop = trainer(**options, callbacks=[callback], default_root_dir=tmp_path, limit_train_batches=4)
        getattr(loop, command)(module, datamodule=data(text, test="val"))
    (one,) = [json.loads(path.read_text()) for path in (tmp_path / "one").glob("*.json")]
    both = [json.loads(path.read_text()) for path in sorted((tmp_path / "two").glob("*.json"))]
    assert len(both) == 2
    timed = [name for name in one if name.endswith("speedup")]
    assert len(timed) == 3
    for metrics in (one, *both):
        for name in timed:
            assert metrics.pop(name) > 0
    stage = "test" if command == "test" else "val"
    names = ("k4_exact/bleu", "replay/mean_accepted_block_size_k3", "head_4/accuracy")
    assert {f"{stage}/{name}" for name in names} <= set(one)
    assert one == both[0] == both[1]


def test_training_goes_on_from_the_heads_of_the_base(text, bases, tmp_path):
    first = frozen(bases[0], optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01))
    load_checkpoint(checkpoint_of(first, text, tmp_path / "heads.ckpt", max_steps=5)).save(
        tmp_path / "model", {}
    )
    for make in (frozen, joint):
        further = make(str(tmp_path / "model"))
        torch.testing.assert_close(further.heads.state_dict(), first.heads.state_dict(), rtol=0, atol=0)
        chosen = make(str(tmp_path / "model"), heads=HeadShape(block_size=4, d_hidden=16, candidates=9))
        assert torch.equal(chosen.heads.output_weight, first.heads.output_weight)
        anew = make(str(tmp_path / "model"), heads=HeadShape(block_size=5, d_hidden=16))
        assert not anew.heads.output_weight.any()


def test_candidates_are_the_most_frequent_words_and_change_no_output(text, bases, tmp_path):
    shape = HeadShape(block_size=4, d_hidden=16, candidates=50)
    for make, path in ((frozen, "frozen.ckpt"), (joint, "joint.ckpt")):
        module = make(bases[0], heads=shape)
        checkpoint_of(module, text, tmp_path / path, max_steps=5)
        counts = Counter(
            token for row in module.trainer.train_dataloader for token in row.target.tokens.flatten().tolist()
        )
        translator = load_checkpoint(tmp_path / path)
        translator.save(tmp_path / "model", {})
        translator = load(tmp_path / "model")
        chosen = translator.heads.candidates.tolist()
        assert len(set(chosen)) == 50
        assert translator.network.eos_id in chosen
        least = min(counts[token] for token in chosen)
        assert all(count <= least for token, count in counts.items() if token not in chosen and token != 0)
        lines = ["The old man buys a house.", "Where is it?", "The women sleep in the garden."]
        assert translator.translate(lines, "blockwise") == translator.translate(lines)
        hidden = torch.randn(500, SMALL["d_model"])
        assert set(proposed(translator.drafter, hidden, 3).flatten().tolist()) <= set(chosen)


@pytest.mark.parametrize("make", [frozen, joint])
def test_more_candidates_than_tokens_are_no_restriction(text, bases, tmp_path, make):
    """The same training as without candidates, resumed too, and what earlier versions wrote is read."""
    shape = HeadShape(block_size=4, d_hidden=16, candidates=1000)
    average = [EMAWeightAveraging(use_buffers=False, decay=0.5)] if make is joint else []
    free, wide = make(bases[0]), make(bases[0], heads=shape)
    for name, module in (("free", free), ("wide", wide)):
        checkpoint_of(module, text, tmp_path / name, limit_train_batches=4, limit_val_batches=None)
    assert torch.equal(wide.heads.candidates, torch.arange(600))
    for name, tensor in free.heads.state_dict().items():
        assert torch.equal(wide.heads.state_dict()[name], tensor), name
    metrics = [module.trainer.callback_metrics for module in (free, wide)]
    for head in range(1, 5):
        for name in (f"val/head_{head}/loss", f"val/head_{head}/accuracy"):
            assert metrics[0][name] == metrics[1][name]

    # A checkpoint of an earlier version: the list is filled with repetitions.
    stored = torch.load(tmp_path / "wide", weights_only=True)
    stored["state_dict"]["heads.candidates"] = (torch.arange(1000) % 600).sort().values
    torch.save(stored, tmp_path / "earlier")
    lines = ["The old man buys a house.", "Where is it?"]
    expected = load_checkpoint(tmp_path / "free").translate(lines, "blockwise")
    for name in ("wide", "earlier"):
        translator = load_checkpoint(tmp_path / name)
        assert translator.translate(lines, "blockwise") == expected
        translator.save(tmp_path / "model", {})
        assert load(tmp_path / "model").translate(lines, "blockwise") == expected
        for command in ("fit", "validate"):
            loop = trainer(max_epochs=2, limit_train_batches=4, limit_val_batches=1, callbacks=average)
            getattr(loop, command)(
                make(bases[0], heads=shape), datamodule=data(text), ckpt_path=tmp_path / name
            )
    heads_file = tmp_path / "model" / "heads.safetensors"
    weights = load_file(heads_file)
    weights["candidates"] = stored["state_dict"]["heads.candidates"]
    save_file(weights, heads_file)
    assert load(tmp_path / "model").translate(lines, "blockwise") == expected
