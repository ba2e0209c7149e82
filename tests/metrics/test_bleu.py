import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd.metrics import CorpusBleu, TokenLoss, bleu_score, bleu_signature, bleu_statistics

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
