import dataclasses

import pytest
import torch
from drafters import EOS, HeadLike, Knowing, network, sources

from lightning_bpd.decoding import blockwise, compare, greedy
from lightning_bpd.interfaces import DecodeResult


def changed(result: DecodeResult, row: int, place: int, token: int) -> DecodeResult:
    tokens = result.tokens.clone()
    tokens[row, place] = token
    return dataclasses.replace(result, tokens=tokens)


@pytest.fixture(scope="module")
def case():
    """Source, greedy output, and a row with a place where the two best tokens and their margin are known."""
    model, source = network(3), sources(5, 5, 3)
    result = greedy(model, source, 8)
    row = int(result.lengths.argmax())
    place = int(result.lengths[row]) - 2
    assert place >= 2
    with torch.inference_mode():
        state = model.start(source, None, 20)
        fed = torch.cat((torch.full((5, 1), model.bos_id), result.tokens[:, :place]), 1)
        logits = model.project(model.step(fed, state)[row, -1])
    return model, source, result, row, place, logits


def test_what_blockwise_decoding_gives_is_identical():
    for seed in range(5):
        model, source = network(seed), sources(5, 5, seed)
        expected = greedy(model, source, 8)
        for drafter in (HeadLike(model, 6, seed), Knowing(model, source, 8, wrong=0.3)):
            verdicts = compare(model, source, expected, blockwise(model, drafter, source, 6, extra_length=8))
            assert [verdict.kind for verdict in verdicts] == ["identical"] * 5


def test_another_token_is_divergent_and_its_margin_is_stated(case):
    model, source, result, row, place, logits = case
    best, second = logits.topk(2).indices.tolist()
    assert int(result.tokens[row, place]) == best
    for one, other in (
        (result, changed(result, row, place, second)),
        (changed(result, row, place, second), result),
    ):
        verdicts = compare(model, source, one, other)
        assert [verdict.kind for verdict in verdicts].count("identical") == 4
        verdict = verdicts[row]
        assert (verdict.kind, verdict.place) == ("divergent", place)
        assert verdict.margin == pytest.approx(float(logits[best] - logits[second]), abs=1e-12)


def test_the_bound_decides_what_a_near_tie_is(case):
    model, source, result, row, place, logits = case
    best, second, third = logits.topk(3).values.tolist()
    other = changed(result, row, place, int(logits.topk(2).indices[1]))
    units = (best - second) / (max(abs(best), 1.0) * torch.finfo(torch.float64).eps)
    assert compare(model, source, result, other, bound=units * 1.01)[row].kind == "near-tie"
    assert compare(model, source, result, other, bound=units * 0.99)[row].kind == "divergent"
    # Within the bound of each other is not enough: both must be near the best.
    one, other = (changed(result, row, place, int(token)) for token in logits.topk(3).indices[1:])
    assert compare(model, source, one, other)[row].margin == pytest.approx(best - third, abs=1e-12)


def test_what_comes_after_the_first_difference_does_not_matter(case):
    model, source, result, row, place, logits = case
    second = int(logits.topk(2).indices[1])
    once = changed(result, row, place, second)
    twice = changed(once, row, place + 1, EOS)
    assert compare(model, source, result, once) == compare(model, source, result, twice)


def test_a_row_that_goes_on_is_divergent_whatever_the_bound(case):
    model, source, result, row, _, _ = case
    shorter = result.lengths.clone()
    shorter[row] -= 1
    verdict = compare(model, source, result, dataclasses.replace(result, lengths=shorter), bound=1e30)[row]
    assert (verdict.kind, verdict.place, verdict.margin) == ("divergent", int(shorter[row]), float("inf"))
