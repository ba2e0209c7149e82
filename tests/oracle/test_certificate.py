import dataclasses
import itertools

import pytest
import torch
from drafters import EOS, HeadLike, Knowing, network, sources

from lightning_bpd.decoding import blockwise, compare, greedy
from lightning_bpd.interfaces import DecodeResult, TokenRows


def changed(result: DecodeResult, row: int, place: int, token: int) -> DecodeResult:
    tokens = result.tokens.clone()
    tokens[row, place] = token
    return dataclasses.replace(result, tokens=tokens)


def continued(model, source, result: DecodeResult, row: int, prefix: list[int], limit: int) -> DecodeResult:
    """The result with this row replaced: the prefix, and what greedy decoding makes of it."""
    tokens = list(prefix)
    alone = TokenRows(source.tokens[row : row + 1], source.lengths[row : row + 1])
    with torch.inference_mode():
        while tokens[-1] != EOS and len(tokens) < limit:
            state = model.start(alone, None, limit + 1)
            hidden = model.step(torch.tensor([[model.bos_id, *tokens]]), state)
            tokens.append(int(model.project(hidden[0, -1]).argmax()))
    width = result.tokens.size(1)
    padded = torch.nn.functional.pad(result.tokens, (0, max(limit - width, 0)))
    padded[row, : len(tokens)] = torch.tensor(tokens)
    lengths = result.lengths.clone()
    lengths[row] = len(tokens)
    return dataclasses.replace(result, tokens=padded, lengths=lengths)


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
    other, worse = (
        continued(
            model, source, result, row, [*result.rows()[row][:place], token], int(source.lengths[row]) + 8
        )
        for token in logits.topk(3).indices[1:].tolist()
    )
    units = (best - second) / (max(abs(best), 1.0) * torch.finfo(torch.float64).eps)
    assert compare(model, source, result, other, bound=units * 1.01)[row].kind == "near-tie"
    assert compare(model, source, result, other, bound=units * 0.99)[row].kind == "divergent"
    # Within the bound of each other is not enough: both must be near the best.
    for one, two in ((other, worse), (worse, other)):
        assert compare(model, source, one, two)[row].margin == pytest.approx(best - third, abs=1e-12)


@pytest.fixture(scope="module", params=[True, False], ids=["ended", "at the limit"])
def tie(request):
    """A row that took the second best token at its start and then went on greedily, and the bound that excuses it."""
    for seed, row in itertools.product(range(20), range(5)):
        model, source = network(seed), sources(5, 5, seed)
        result = greedy(model, source, 8)
        with torch.inference_mode():
            state = model.start(source, None, 20)
            logits = model.project(model.step(torch.full((5, 1), model.bos_id), state)[row, -1])
        best, second = logits.topk(2).values.tolist()
        limit = int(source.lengths[row]) + 8
        token = int(logits.topk(2).indices[1])
        other = continued(model, source, result, row, [token], limit)
        length = int(other.lengths[row])
        if length > 3 and int(result.lengths[row]) > 3 and (other.rows()[row][-1] == EOS) is request.param:
            bound = 1.01 * (best - second) / (max(abs(best), 1.0) * torch.finfo(torch.float64).eps)
            return model, source, result, other, row, limit, bound
    raise AssertionError("no row fits")


def test_a_row_that_goes_on_greedily_after_a_tie_is_a_near_tie(tie):
    model, source, result, other, row, _, bound = tie
    verdict = compare(model, source, result, other, bound)[row]
    assert (verdict.kind, verdict.place) == ("near-tie", 0)
    assert compare(model, source, result, other)[row].kind == "divergent"


def test_nonsense_after_a_tie_is_divergent(tie):
    """Each later token is checked after the row's own prefix; the first that nothing explains is named."""
    model, source, result, other, row, limit, bound = tie
    tokens = other.tokens[row, : int(other.lengths[row])].tolist()
    for place in range(1, len(tokens)):
        with torch.inference_mode():
            state = model.start(source, None, 20)
            fed = torch.tensor([[model.bos_id, *tokens[:place]]]).expand(5, -1)
            logits = model.project(model.step(fed, state)[row, -1])
        worst = int(logits.argmin())
        for made in (
            continued(model, source, result, row, [*tokens[:place], worst], limit),
            changed(other, row, place, worst),
        ):
            verdict = compare(model, source, result, made, bound)[row]
            assert (verdict.kind, verdict.place) == ("divergent", place)
            assert verdict.margin == pytest.approx(float(logits.max() - logits.min()), abs=1e-12)


def test_a_row_that_parts_at_a_tie_must_end_by_the_rules(tie):
    model, source, result, other, row, _, bound = tie
    length, greedy_length = int(other.lengths[row]), int(result.lengths[row])

    def verdict_of(length: int, **options):
        lengths = other.lengths.clone()
        lengths[row] = length
        tokens = torch.nn.functional.pad(other.tokens, (0, 1), value=EOS)
        made = dataclasses.replace(other, tokens=tokens, lengths=lengths)
        return compare(model, source, result, made, **options)[row]

    assert verdict_of(length, bound=bound).kind == "near-tie"
    # It stops too early, before the greedy row shows that the limit is not reached.
    for stop in range(1, min(length, greedy_length)):
        verdict = verdict_of(stop, bound=bound)
        assert (verdict.kind, verdict.place, verdict.margin) == ("divergent", stop, float("inf"))
    # It goes on after its end token, whatever p_1 would say there.
    if other.tokens[row, length - 1] == EOS:
        assert verdict_of(length + 1, bound=1e30).kind == "divergent"


def test_after_a_divergence_nothing_changes_the_verdict(case):
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
