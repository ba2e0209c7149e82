"""Sampling is greedy decoding of perturbed logits: the same tokens by every decoder, and the right distribution."""

from collections import Counter
from itertools import product

import pytest
import torch
from drafters import BOS, EOS, HeadLike, Knowing, network, row_of, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from lightning_bpd.decoding import (
    Exact,
    Sampled,
    Speculative,
    blockwise,
    parse_acceptance,
    replay,
    sequential,
)
from lightning_bpd.decoding.samplers import uniform
from lightning_bpd.interfaces import InputError, TokenRows

samplers = st.builds(
    Sampled,
    temperature=st.sampled_from([0.3, 0.8, 1.0, 1.7]),
    top_k=st.sampled_from([None, 1, 2, 4, 100]),
    top_p=st.sampled_from([0.2, 0.7, 0.95, 1.0]),
    seed=st.sampled_from([0, 1, 2**40 + 7, 2**63 - 1]),
)


@given(
    sampler=samplers,
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 6),
    extra=st.integers(0, 10),
    block_size=st.integers(1, 8),
    wrong=st.sampled_from([0.0, 0.3, 1.0, None]),
)
@settings(max_examples=100, deadline=None)
def test_exact_blocks_equal_plain_sampling(sampler, seed, rows, extra, block_size, wrong):
    model = network(seed, positions=("sinusoidal", "learned")[seed % 2])
    source = sources(rows, 5, seed)
    numbers = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:rows]
    expected = sequential(model, source, extra, sampler, numbers)
    if wrong is None:
        drafter = HeadLike(model, 8, seed)
        replayed = replay(model, drafter, source, expected, block_size, sampler, numbers)[-1]
    else:
        drafter, replayed = Knowing(model, source, extra, wrong, sampler, numbers), None
    result = blockwise(model, drafter, source, block_size, Exact(), extra, sampler, numbers)
    assert torch.equal(result.tokens, expected.tokens)
    assert torch.equal(result.lengths, expected.lengths)
    assert replayed is None or torch.equal(result.accepted, replayed)
    if wrong == 0.0 and block_size > 1 and int(expected.lengths.max()) > 2:
        assert int(result.accepted.max()) > 1


@given(sampler=samplers, seed=st.integers(0, 10_000), rule=st.sampled_from(["exact", "top-2", "minimum-2"]))
@settings(max_examples=30, deadline=None)
def test_a_batch_equals_single_rows(sampler, seed, rule):
    model, source = network(seed, norm="post"), sources(5, 5, seed)
    drafter, acceptance = HeadLike(model, 4, seed), parse_acceptance(rule)
    numbers = torch.tensor([7, 0, 123_456_789, 7, 3])
    together = blockwise(model, drafter, source, 4, acceptance, 7, sampler, numbers)
    for row in range(5):
        one = row_of(source, row), 4, acceptance, 7, sampler, numbers[row : row + 1]
        assert together.rows()[row] == blockwise(model, drafter, *one).rows()[0]


def test_rows_positions_and_seeds_draw_differently():
    model, source = (
        network(3),
        TokenRows(torch.ones(64, 1, dtype=torch.long), torch.ones(64, dtype=torch.long)),
    )
    drawn = [sequential(model, source, 5, Sampled(2.0, seed=seed)).rows() for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    assert len(set(map(tuple, drawn[0]))) > 16
    same = sequential(model, source, 5, Sampled(2.0), torch.full((64,), 5)).rows()
    assert len(set(map(tuple, same))) == 1


def probabilities(model, source, limit, sampler):
    """The probability of every row that can be drawn, from logits computed without a cache."""
    found, open_rows = {}, {(): 1.0}
    while open_rows:
        prefix, probability = open_rows.popitem()
        logits = model.project(model(source, torch.tensor([[BOS, *prefix]]))[:, -1])
        for token, share in enumerate(sampler.probabilities(logits)[0].tolist()):
            row, chance = (*prefix, token), probability * share
            (found if token == EOS or len(row) == limit else open_rows)[row] = chance
    return {row: chance for row, chance in found.items() if chance > 0}


SETTINGS = [Sampled(1.0), Sampled(0.7, top_k=3), Sampled(1.5, top_p=0.8)]


@pytest.mark.parametrize("way", ["sequential", "exact", "speculative", "speculative without q"])
@pytest.mark.parametrize("sampler", SETTINGS, ids=["plain", "top_k", "top_p"])
@torch.inference_mode()
def test_samples_have_the_distribution_of_the_model(way, sampler):
    count, limit = 6000, 3
    model = network(18, vocabulary=4)
    model.output.weight.data *= 0.4  # so that every row is possible
    one = TokenRows(torch.tensor([[3]]), torch.tensor([1]))
    many = TokenRows(one.tokens.expand(count, -1), one.lengths.expand(count))
    drafter = HeadLike(model, 3, 1)
    if way == "speculative without q":
        draw, drafter.propose = drafter.propose, lambda *given: draw(*given)._replace(probabilities=None)
    if way == "sequential":
        result = sequential(model, many, limit - 1, sampler)
    else:
        rule = Exact() if way == "exact" else Speculative(sampler)
        result = blockwise(model, drafter, many, 3, rule, limit - 1, sampler)
        assert int(result.accepted.max()) == 3
    seen, expected = Counter(map(tuple, result.rows())), probabilities(model, one, limit, sampler)
    assert set(seen) <= set(expected)
    # Rows that are rare are counted together, as the test of chi squares wants it.
    common = {row: p for row, p in expected.items() if count * p >= 5}
    cells = [(seen[row], count * p) for row, p in common.items()]
    cells.append((count - sum(n for n, _ in cells), count * (1 - sum(common.values())) + 1e-9))
    assert sum((n - mean) ** 2 / mean for n, mean in cells) < chi2.isf(1e-4, len(cells) - 1)


def test_noise_is_uniform_and_independent_of_its_neighbours():
    rows, positions, tokens = (torch.arange(64) for _ in range(3))
    noise = uniform(3, rows[:, None, None], positions[:, None], tokens)
    assert float(noise.min()) > 0
    assert float(noise.max()) < 1
    counts = torch.histc(noise.float(), 64, 0, 1)
    assert float(((counts - 4096) ** 2 / 4096).sum()) < chi2.isf(1e-4, 63)
    for one, other in product(range(3), range(3)):
        if one != other:
            shifted = noise.transpose(one, other)
            correlation = torch.corrcoef(torch.stack((noise.flatten(), shifted.flatten())))[0, 1]
            assert abs(float(correlation)) < 0.02
    for dimension in range(3):
        pair = torch.stack((noise.flatten(), noise.roll(1, dimension).flatten()))
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.01
    others = [uniform(4, rows, positions, tokens), uniform(3, rows, positions, tokens, stream=1)]
    assert all(not torch.equal(uniform(3, rows, positions, tokens), other) for other in others)


def test_noise_stays_as_it_is():
    """A seed gives the same text in every later version."""
    at = torch.tensor([0, 1, 2**40])
    values = (uniform(2**62 + 5, at, torch.tensor([0, 7, 99]), torch.tensor([0, 3, 250_000])) * 2**32).long()
    assert values.tolist() == NOISE


NOISE = [114026936, 704839936, 4003207936]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be more than 0"),
        ({"temperature": float("nan")}, "temperature must be more than 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must be more than 0"),
        ({"top_p": 1.1}, "top_p must be more than 0"),
        ({"seed": -1}, "seed must be between 0"),
        ({"seed": 2**63}, "seed must be between 0"),
    ],
)
def test_numbers_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        Sampled(**settings)
