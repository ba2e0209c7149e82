"""Base training as a whole: token weighting, ranks, precision, what a checkpoint holds."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from small_training import SMALL, data, join, trainer

from lightning_bpd.datamodules import ParallelText
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture
from lightning_bpd.saved.translation import load, load_checkpoint
from lightning_bpd.training import BaseTraining


class Recorded(BaseTraining):
    """Writes each rank's losses, validation metrics and final weights beside the run."""

    def __init__(self, folder: Path, **options):
        super().__init__(**options)
        self.folder = folder
        self.record = {"loss": [], "tokens": [], "norm": []}

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.record["loss"].append(float(loss.detach()))
        self.record["tokens"].append(int(batch.target.lengths.sum()))
        return loss

    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        norm = torch.stack([p.grad.double().norm() for p in self.parameters() if p.grad is not None]).norm()
        self.record["norm"].append(float(norm))

    def write(self):
        self.record["steps"] = self.global_step
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(self.record))

    def on_fit_end(self):
        self.write()

    def on_validation_end(self):
        metrics = self.trainer.callback_metrics.items()
        self.record["metrics"] = {name: float(value) for name, value in metrics if "val/" in name}
        self.write()


def module(folder: Path, dropout: float = 0.0, **options) -> Recorded:
    torch.manual_seed(1)
    architecture = Architecture(**SMALL, dropout=dropout)
    decode = DecodingOptions(extra_length=5)
    return Recorded(folder, architecture=architecture, warmup_steps=4, decode=decode, **options)


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_accumulated_micro_batches_equal_one_large_batch(text, tmp_path):
    """Ragged micro-batches, no dropout, float64: the step's gradient is that of all its tokens together."""
    corpus = data(text, batch_tokens=64)
    corpus.prepare_data()
    corpus.setup("fit")
    batches = list(itertools.islice(iter(corpus.train_dataloader()), 3))
    assert len({int(batch.target.lengths.sum()) for batch in batches}) > 1
    runs = []
    for micro in (batches, [join(batches)]):
        model = module(tmp_path / str(len(micro)), label_smoothing=0.1)
        loop = trainer(
            accumulate_grad_batches=len(micro), max_steps=1, precision="64-true", limit_val_batches=0
        )
        given = data(text)
        given.train_dataloader = lambda micro=micro: torch.utils.data.DataLoader(micro, batch_size=None)
        loop.fit(model, datamodule=given)
        runs.append((model.record, model.network.state_dict()))
    (many, many_weights), (one, one_weights) = runs
    assert many["norm"] == pytest.approx(one["norm"], rel=1e-12)
    torch.testing.assert_close(many_weights, one_weights, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def two_ranks_and_one(text, tmp_path_factory):
    """The same training on two processes and on one that accumulates twice as much; then validation on both."""
    folder = tmp_path_factory.mktemp("ranks")
    two = {"devices": 2, "strategy": "ddp_spawn"}
    trainer(**two).fit(module(folder / "two", dropout=0.2), datamodule=data(text))
    model = module(folder / "one", dropout=0.2)
    loop = trainer(accumulate_grad_batches=2, enable_checkpointing=True, default_root_dir=folder)
    loop.fit(model, datamodule=data(text))
    loop.save_checkpoint(folder / "model.ckpt")
    for name, options in (("validate one", {}), ("validate two", two)):
        measured = module(folder / name, dropout=0.2)
        trainer(**options).validate(
            measured, datamodule=data(text), ckpt_path=folder / "model.ckpt", verbose=False
        )
    return folder


def test_two_ranks_validate_to_the_last_digit(two_ranks_and_one):
    """51 rows: an odd number, which a padding sampler would get wrong."""
    (one,) = records(two_ranks_and_one / "validate one")
    first, second = records(two_ranks_and_one / "validate two")
    assert one["metrics"].keys() == {"val/loss", "val/perplexity", "val/bleu", "val/chrf"}
    assert one["metrics"] == first["metrics"] == second["metrics"]


def test_two_ranks_train_as_one_process_with_twice_the_accumulation(two_ranks_and_one):
    (one,) = records(two_ranks_and_one / "one")
    first, second = records(two_ranks_and_one / "two")
    assert first["steps"] == second["steps"] == one["steps"] > 5
    # Step for step the ranks see the micro-batches of the one process in turn, with its very dropout; float32
    # sums in another order are all that differs. A last micro-batch without a partner is split between the ranks.
    pairs = len(one["loss"]) // 2
    for place in range(pairs):
        assert [first["tokens"][place], second["tokens"][place]] == one["tokens"][2 * place : 2 * place + 2]
        losses = [first["loss"][place], second["loss"][place]]
        assert losses == pytest.approx(one["loss"][2 * place : 2 * place + 2], rel=2e-4)
    assert sum(first["tokens"]) + sum(second["tokens"]) == sum(one["tokens"])
    assert first["norm"] == pytest.approx(second["norm"], rel=1e-9)
    assert first["norm"][:pairs] == pytest.approx(one["norm"][:pairs], rel=1e-3)


def test_bfloat16_trains(text, tmp_path):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        model = module(tmp_path / precision, dropout=0.2)
        trainer(precision=precision, max_steps=8, limit_val_batches=1).fit(model, datamodule=data(text))
        losses[precision] = model.record["loss"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.02)
    assert losses["bf16-mixed"] != losses["32-true"]


def test_a_loss_that_is_no_number_stops_training(text, tmp_path):
    model = module(tmp_path, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e30))
    with pytest.raises(InputError, match=r"not finite \(NaN or infinite\) by step \d+: lower"):
        trainer(gradient_clip_val=None, max_epochs=50, limit_val_batches=0).fit(model, datamodule=data(text))


def test_a_checkpoint_holds_the_model_and_refuses_another_tokenizer(text, tmp_path):
    model = module(tmp_path)
    loop = trainer(max_steps=3, enable_checkpointing=True, default_root_dir=tmp_path, limit_val_batches=1)
    loop.fit(model, datamodule=data(text))
    model.train()
    loop.save_checkpoint(tmp_path / "model.ckpt")
    assert all(part.training for part in model.network.modules()), "saving must not disturb training"
    translator = load_checkpoint(tmp_path / "model.ckpt")
    translator.save(tmp_path / "model", {"bleu": 1.5})
    lines = ["The old man buys a house.", "", "Where is it?"]
    expected = translator.translate(lines, extra_length=5)
    weights = translator.network.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.network.state_dict().items())
    assert load(tmp_path / "model").translate(lines, extra_length=5) == expected
    assert json.loads((tmp_path / "model" / "metrics.json").read_text()) == {"bleu": 1.5}

    other = ParallelText(str(text), vocab_size=700, batch_tokens=256)
    with pytest.raises(InputError, match="was trained with another source tokenizer"):
        trainer().validate(module(tmp_path), datamodule=other, ckpt_path=tmp_path / "model.ckpt")


def test_settings_that_cannot_work_are_refused_before_training(text, tmp_path):
    with pytest.raises(InputError, match="the cosine schedule must know its end"):
        trainer(max_epochs=-1).fit(module(tmp_path, schedule="cosine"), datamodule=data(text))
    short = module(tmp_path)
    short.architecture = Architecture(**SMALL, positions="learned", max_length=100)
    with pytest.raises(InputError, match=r"data.max_length is 256 tokens .* learned positions end at 100"):
        trainer().fit(short, datamodule=data(text))


def test_a_schedule_that_loads_the_data_too_early_cannot_spoil_resuming(text, tmp_path):
    class Early(Recorded):
        def configure_optimizers(self):
            assert self.trainer.estimated_stepping_batches > 0
            return super().configure_optimizers()

    options = {"architecture": Architecture(**SMALL), "decode": DecodingOptions(extra_length=5)}
    loop = trainer(max_steps=3, limit_val_batches=1, enable_checkpointing=True, default_root_dir=tmp_path)
    loop.fit(Early(tmp_path, **options), datamodule=data(text))
    loop.save_checkpoint(tmp_path / "early.ckpt")
    with pytest.raises(InputError, match="asked for the number of training batches before the checkpoint"):
        trainer().fit(Early(tmp_path, **options), datamodule=data(text), ckpt_path=tmp_path / "early.ckpt")
