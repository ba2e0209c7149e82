"""Blocks that end where a further proposal would not pay: never another output, and the best lengths; float64."""

import pytest
import torch
from drafters import network, row_of, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from test_parallel_drafter import FAMILIES, SAMPLED, VOCABULARY, Recorder, case, drafter_of
from test_seeing_heads import heads_of

from lightning_bpd.decoding import (
    GREEDY,
    Adaptive,
    DecodingOptions,
    blockwise,
    costs,
    decode,
    decoding_costs,
    parse_acceptance,
    sequential,
)
from lightning_bpd.decoding.costs import proposals_that_pay
from lightning_bpd.interfaces import InputError

samplers = pytest.mark.parametrize("sampler", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


@given(
    confidence=st.integers(1, 4).flatmap(
        lambda rows: st.lists(
            st.lists(st.floats(0, 1), min_size=rows, max_size=rows), min_size=0, max_size=7
        ).map(lambda columns: torch.tensor(columns, dtype=torch.double).view(-1, rows).T)
    ),
    seconds=st.lists(st.floats(0.01, 10), min_size=8, max_size=8),
)
@settings(max_examples=200, deadline=None)
def test_the_number_of_proposals_gives_the_most_tokens_a_second(confidence, seconds):
    rates = []
    for count in range(confidence.size(1) + 1):
        tokens = sum(1 + sum(float(row[: i + 1].prod()) for i in range(count)) for row in confidence)
        rates.append(tokens / seconds[count])
    chosen = proposals_that_pay(confidence, torch.tensor(seconds, dtype=torch.double))
    assert rates[chosen] == pytest.approx(max(rates))


@pytest.mark.parametrize("family", FAMILIES)
@samplers
def test_the_output_is_the_same_for_any_costs(family, sampler):
    lengths = set()
    for seed in range(3):
        model, source = case(family, seed)
        plain = sequential(model, source, 7, sampler)
        drafter = drafter_of(model, seed, candidates=[None, 5, 5][seed]).drafter(model)
        for block_size in (1, 2, 5, 8):
            seconds = (1 + torch.rand(8) * torch.arange(8)).tolist()
            counting = Counting(model)
            decoded = blockwise(counting, drafter, source, block_size, Adaptive(seconds=seconds), 7, sampler)
            assert decoded.rows() == plain.rows(), (seed, block_size)
            assert max(counting.fed) <= block_size
            lengths |= set(counting.fed)
    assert len(lengths) > 3, "blocks have all the same length"


@pytest.mark.parametrize("heads", [{}, {"following": True, "correction": 3}], ids=["heads", "corrected"])
@samplers
def test_block_heads_say_how_sure_they_are(heads, sampler):
    model, source = network(1, vocabulary=VOCABULARY), sources(4, 5, 1, VOCABULARY)
    plain = sequential(model, source, 9, sampler)
    drafter = heads_of(model, 1, candidates=5, **heads).drafter(model)
    counting = Counting(model)
    rule = Adaptive(seconds=[1.0, 1.1, 1.3, 1.6, 2.0, 3.0])
    decoded = blockwise(counting, drafter, source, 6, rule, 9, sampler)
    assert decoded.rows() == plain.rows()
    assert len(set(counting.fed)) > 1


@pytest.mark.parametrize("rows", [3, 12], ids=["by NumPy", "by torch"])
@pytest.mark.parametrize("candidates", [None, 5])
def test_confidence_is_the_probability_of_the_proposal(rows, candidates):
    """Both ways of choosing say the same as the definition, for each row by itself."""
    model, source = case("pre", 2, rows=rows)
    drafter = Sure(drafter_of(model, 2, candidates=candidates).drafter(model))
    blockwise(model, drafter, source, 6, extra_length=7)
    chooser = drafter.drafter._chooser
    assert drafter.pairs
    for (logits, following), proposal in drafter.pairs:
        previous = following
        for place, token in enumerate(proposal.tokens.unbind(1)):
            corrected = (logits[:, place] + chooser._corrections(previous)).softmax(1)
            torch.testing.assert_close(
                proposal.confidence()[:, place], corrected.amax(1), check_dtype=False, rtol=1e-6, atol=1e-6
            )
            previous = token


def test_calls_are_measured_once_for_each_size_of_a_batch(monkeypatch):
    model, source = network(3, vocabulary=VOCABULARY), sources(5, 5, 3, VOCABULARY)
    drafter, measured = drafter_of(model, 3).drafter(model), []
    monkeypatch.setattr(
        costs, "decoding_costs", lambda *given, **named: measured.append(1) or decoding_costs(*given, **named)
    )
    options = DecodingOptions("blockwise", extra_length=7, acceptance="adaptive")
    plain = decode(model, source, DecodingOptions(extra_length=7))
    for _ in range(2):
        assert decode(model, source, options, drafter).rows() == plain.rows()
    assert len(measured) == 1
    decode(model, row_of(source, 0), options, drafter)
    assert len(measured) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_costs_are_measured_of_every_family(family):
    model, source = case(family, 0)
    measured = decoding_costs(model, drafter_of(model).drafter(model), source, 7, turns=1, calls=1)
    assert [len(measured.call), len(measured.propose), measured.propose[0]] == [8, 8, 0.0]
    assert min([measured.start, *measured.call, *measured.propose[1:]]) > 0


@pytest.mark.parametrize("name", ["adaptive-3", "adaptive+top-2", "minimum-2+adaptive"])
def test_adaptive_has_no_number_and_no_other_rule(name):
    with pytest.raises(InputError, match="there is no acceptance rule"):
        parse_acceptance(name)


class Counting:
    """A model that notes how many tokens each call is fed."""

    def __init__(self, model):
        self.model, self.fed = model, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def step(self, tokens, state):
        self.fed.append(tokens.size(1))
        return self.model.step(tokens, state)


class Sure(Recorder):
    """Keeps the logits and certain tokens that proposals were chosen from."""

    def __init__(self, drafter):
        super().__init__(drafter)
        self.pairs, self.given = [], []
        choose = drafter._chooser.choose
        drafter._chooser.choose = lambda logits, following, *rest: (
            self.given.append((logits.clone(), following.clone())) or choose(logits, following, *rest)
        )

    def propose(self, verified, following, count):
        proposal = self.drafter.propose(verified, following, count)
        self.pairs.append((self.given[-1], proposal))
        return proposal
