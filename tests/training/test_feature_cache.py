"""The base's hidden states kept on disk: the same training, of which only the first epoch reads the base."""

import dataclasses

import pytest
import torch
from small_training import data, trainer
from test_block_training import bases, checkpoint_of, frozen  # noqa: F401  # a fixture

from lightning_bpd.datamodules.encoded_corpus import EncodedCorpus, RaggedRows
from lightning_bpd.drafters import HeadShape, ParallelDraft
from lightning_bpd.interfaces import InputError, Memory, ParallelBatch, Reading
from lightning_bpd.saved.translation import pad
from lightning_bpd.training.feature_cache import FeatureCache

ATTENDING = ParallelDraft(block_size=4, attention_heads=2, correction=8, candidates=50)


@pytest.fixture
def counted(monkeypatch):
    """Counts the batches that any base reads with gradients off, by the rows in them."""
    from lightning_bpd.models import EncoderDecoder

    read, rows = EncoderDecoder.read, []

    def counting(self, source, target):
        rows.append(len(target))
        return read(self, source, target)

    monkeypatch.setattr(EncoderDecoder, "read", counting)
    return rows


def weights(module):
    return {name: weight.detach().clone() for name, weight in module.heads.named_parameters()}


LAYERED = dataclasses.replace(ATTENDING, base_layers=[1])


@pytest.mark.parametrize(
    "shape", [ATTENDING, LAYERED, HeadShape(block_size=4, d_hidden=16)], ids=["attending", "layers", "heads"]
)
def test_training_is_the_same_and_the_base_reads_once(text, bases, tmp_path, counted, shape):  # noqa: F811
    found, options = [], {"precision": "64-true", "max_epochs": 3, "limit_val_batches": 0}
    given = {"heads": shape} if isinstance(shape, HeadShape) else {"drafter": shape}
    for cache in (None, 0.1):
        module = frozen(bases[0], cache_features=cache, **given)
        trainer(**options).fit(module, datamodule=data(text, cache=str(tmp_path / "cache")))
        found.append(weights(module))
        assert sum(counted) == (400 if cache else 3 * 400)
        counted.clear()
    # AdamW divides by the size of gradients, which makes rounding of tiny ones visible.
    torch.testing.assert_close(*found, rtol=0, atol=1e-8)
    # A later run finds them.
    module = frozen(bases[0], cache_features=0.1, **given)
    trainer(**options).fit(module, datamodule=data(text, cache=str(tmp_path / "cache")))
    assert not counted
    torch.testing.assert_close(weights(module), found[1], rtol=0, atol=0)


def test_another_precision_has_features_of_its_own(text, bases, tmp_path, counted):  # noqa: F811
    for precision in ("32-true", "bf16-mixed"):
        module = frozen(bases[0], cache_features=0.1)
        trainer(limit_val_batches=0, precision=precision).fit(
            module, datamodule=data(text, cache=str(tmp_path / "cache"))
        )
        assert sum(counted) == 400
        counted.clear()


def test_validation_and_other_bases_do_not_use_it(text, bases, tmp_path, counted):  # noqa: F811
    for base in bases[:2]:
        module = frozen(base, cache_features=0.1)
        trainer(limit_val_batches=1).fit(module, datamodule=data(text, cache=str(tmp_path / "cache")))
        assert sum(counted) > 400
        counted.clear()
    assert len(list((tmp_path / "cache").glob("features-*"))) == 2


def test_a_resumed_run_is_one_that_never_stopped(text, bases, tmp_path):  # noqa: F811
    def made():
        return frozen(bases[0], drafter=ATTENDING, cache_features=0.1)

    def corpus(name):
        return data(text, cache=str(tmp_path / name))

    whole = made()
    trainer(max_epochs=2, limit_val_batches=0).fit(whole, datamodule=corpus("one"))
    half = made()
    first = trainer(max_epochs=1, limit_val_batches=0)
    first.fit(half, datamodule=corpus("two"))
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = made()
    trainer(max_epochs=2, limit_val_batches=0).fit(
        resumed, datamodule=corpus("two"), ckpt_path=tmp_path / "half.ckpt"
    )
    torch.testing.assert_close(weights(whole), weights(resumed), rtol=0, atol=0)


def small_corpus():
    def rows(*lengths):
        starts = torch.tensor([0, *lengths]).cumsum(0).numpy()
        return RaggedRows(torch.arange(int(starts[-1])).int().numpy(), starts)

    sides = rows(3, 1, 5), rows(2, 4, 1)
    return EncodedCorpus(*sides, 0, 0, torch.arange(3).numpy())


def batch_of(*index):
    corpus = small_corpus()
    sides = (pad([side[row].tolist() for row in index]) for side in (corpus.source, corpus.target))
    return ParallelBatch(*sides, torch.tensor(index))


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_any_kind_comes_back(tmp_path, tokens, dtype):
    torch.manual_seed(0)

    def compute(batch):
        states = torch.randn(len(batch.index), batch.source.tokens.size(1) - 1, 4, dtype=dtype)
        present = torch.arange(states.size(1)) < batch.source.lengths[:, None] - 1
        following = batch.source.tokens[:, 1:].masked_fill(~present, 0) if tokens else None
        hidden = torch.randn(len(batch.index), batch.target.tokens.size(1), 4, dtype=dtype)
        return Reading(hidden, Memory(states, present, following))

    hidden, states = torch.empty(1, 1, 4), torch.empty(1, 0, 4)
    like = Reading(hidden, Memory(states, None))
    cache = FeatureCache(tmp_path, small_corpus(), "base", like, dtype, 1.0)
    first = cache.read(batch_of(2, 0), compute)
    again = FeatureCache(tmp_path, small_corpus(), "base", like, dtype, 1.0)
    second = again.read(batch_of(0, 2), compute)
    for row, other in ((0, 1), (1, 0)):
        length = int(batch_of(2, 0).target.lengths[row])
        assert torch.equal(first.hidden[row, :length], second.hidden[other, :length])
        present = first.memory.inside[row]
        assert torch.equal(present, second.memory.inside[other])
        assert torch.equal(first.memory.states[row, present], second.memory.states[other, present])
        if tokens:
            assert torch.equal(first.memory.tokens[row], second.memory.tokens[other])
    assert tokens == (second.memory.tokens is not None)
    # Row 1 is not known, so its whole batch is computed; what was known of row 0 stays.
    mixed = again.read(batch_of(0, 1), compute)
    assert not torch.equal(mixed.hidden[0, :2], second.hidden[0, :2])
    assert torch.equal(again.read(batch_of(0, 1), compute).hidden[0, :2], second.hidden[0, :2])


def test_limits(text, bases, tmp_path):  # noqa: F811
    module = frozen(bases[0], cache_features=1e-6)
    with pytest.raises(
        InputError, match=r"the features of 400 pairs take 0.0 GiB, and cache_features allows 1e-06"
    ):
        trainer().fit(module, datamodule=data(text, cache=str(tmp_path)))
