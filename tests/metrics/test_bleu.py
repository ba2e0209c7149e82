from functools import partial
from typing import get_args
from urllib.error import URLError

import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import BleuTokenizer, train_tokenizer
from lightning_bpd.datamodules import ParallelText
from lightning_bpd.interfaces import InputError
from lightning_bpd.metrics import (
    CorpusBleu,
    CorpusChrf,
    TokenLoss,
    bleu,
    bleu_score,
    bleu_signature,
    bleu_statistics,
    chrf_score,
    chrf_statistics,
)

words = st.sampled_from(["a", "b", "c", "the", "cat", "sat", ".", ",", "Ein", "Haus"])
sentences = st.lists(words, max_size=12).map(" ".join)


@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=30), st.integers(1, 7))
@settings(max_examples=80, deadline=None)
def test_any_split_gives_sacrebleu_to_the_last_digit(pairs, size):
    outputs, references = map(list, zip(*pairs, strict=True))
    metric = CorpusBleu()
    for first in range(0, len(pairs), size):
        metric.update(outputs[first : first + size], references[first : first + size])
    expected = sacrebleu.corpus_bleu(outputs, [references]).score
    assert float(metric.compute()) == expected
    assert bleu_score(bleu_statistics(outputs, references)) == expected


def test_the_signature_names_case_tokenizer_and_version():
    parts = dict(part.split(":") for part in bleu_signature().split("|"))
    assert parts == {
        "nrefs": "1", "case": "mixed", "eff": "no", "tok": "13a", "smooth": "exp", "version": sacrebleu.__version__
    }  # fmt: skip


def test_nothing_scored_is_zero():
    metric = CorpusBleu()
    metric.update([], [])
    assert float(metric.compute()) == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 1e6, width=32), st.integers(1, 5000)), min_size=1, max_size=20),
    st.randoms(),
)
def test_token_loss_does_not_depend_on_order(batches, random):
    first, second = TokenLoss(), TokenLoss()
    for loss, tokens in batches:
        first.update(torch.tensor(loss), tokens)
    random.shuffle(batches)
    for loss, tokens in batches:
        second.update(torch.tensor(loss), tokens)
    assert float(first.compute()) == float(second.compute())
    exact = sum(loss for loss, _ in batches) / sum(tokens for _, tokens in batches)
    assert abs(float(first.compute()) - exact) < 1e-6


def test_token_loss_shows_a_loss_that_is_no_number():
    for bad in (1, 2, 9, 16, 100):
        metric = TokenLoss()
        metric.update(torch.tensor(3.0), 2)
        for _ in range(bad):
            metric.update(torch.tensor(torch.nan), 2)
        metric.update(torch.tensor(3.0), 2)
        assert metric.compute().isnan()


CHINESE = st.lists(st.sampled_from(["你好", "世界", "。", "ok", " ", "2", "ー"]), max_size=12).map("".join)
OFFLINE = ["none", "zh", "13a", "intl", "char"]


@pytest.mark.parametrize("tokenizer", OFFLINE)
@given(st.lists(st.tuples(CHINESE, CHINESE), min_size=1, max_size=20), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_any_tokenizer_and_chrf_give_sacrebleu_to_the_last_digit(tokenizer, pairs, size):
    outputs, references = map(list, zip(*pairs, strict=True))
    parts = [CorpusBleu(tokenizer), CorpusChrf()]
    for first in range(0, len(pairs), size):
        for metric in parts:
            metric.update(outputs[first : first + size], references[first : first + size])
            assert not metric.sums.is_floating_point()
    found, chrf = (float(metric.compute()) for metric in parts)
    assert found == sacrebleu.corpus_bleu(outputs, [references], tokenize=tokenizer).score
    assert chrf == sacrebleu.corpus_chrf(outputs, [references]).score
    assert chrf_score(chrf_statistics(outputs, references)) == chrf


@pytest.mark.parametrize("tokenizer", OFFLINE)
def test_the_tokenizer_is_in_the_signature(tokenizer):
    assert f"|tok:{tokenizer}|" in bleu_signature(tokenizer)


def test_the_names_are_sacrebleus():
    assert set(get_args(BleuTokenizer)) == set(BLEU.TOKENIZERS)
    with pytest.raises(InputError, match="sacreBLEU has no tokenizer 'latin': choose one of none, zh, 13a"):
        bleu_signature("latin")


@pytest.mark.parametrize(
    ("tokenizer", "error", "message"),
    [
        ("ja-mecab", RuntimeError("\n\nPlease\n"), r"needs a package .* pip install 'sacrebleu\[ja\]'$"),
        ("ko-mecab", ImportError("no"), r"needs a package .* pip install 'sacrebleu\[ko\]'$"),
        ("flores200", URLError("no network"), "cannot be loaded .*no network.* downloads its model once"),
        ("flores101", SystemExit(1), "cannot be loaded .* downloads its model once"),
    ],
)
@pytest.mark.parametrize("stage", ["score", "data"])
def test_what_a_tokenizer_lacks_is_one_error_before_training(
    tokenizer, error, message, stage, monkeypatch, tmp_path
):
    def fail(*_, **__):
        raise error

    bleu._bleu.cache_clear()
    monkeypatch.setattr(BLEU, "__init__", fail)
    first = {
        "data": ParallelText(str(tmp_path), bleu_tokenizer=tokenizer).prepare_data,
        "score": partial(bleu_statistics, ["a"], ["a"], tokenizer),
    }
    with pytest.raises(InputError, match=message) as caught:
        first[stage]()
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    bleu._bleu.cache_clear()


def test_the_choice_stays_with_the_model(tmp_path):
    tokenizer = train_tokenizer(["a b c d"] * 9, 269)
    codec = TextCodec(tokenizer, tokenizer, "zh")
    assert TextCodec.from_description(codec.describe()).bleu_tokenizer == "zh"
    assert TextCodec.read(tmp_path, codec.write(tmp_path)).bleu_tokenizer == "zh"
    assert "|tok:zh|" in codec.signature()
    assert set(codec.quality()) == {"bleu", "chrf"}
    # Folders and checkpoints of earlier versions do not say.
    older = {name: value for name, value in codec.write(tmp_path).items() if name != "bleu_tokenizer"}
    assert TextCodec.read(tmp_path, older).bleu_tokenizer == "13a"
