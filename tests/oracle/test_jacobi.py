"""Speculative Jacobi decoding gives what plain decoding gives, whatever it guesses."""

from collections import Counter
from itertools import product

import pytest
import torch
from drafters import HeadLike, network, row_of, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from test_canvas import network as token_network
from test_parallel_drafter import SAMPLED, case, drafter_of
from test_sampling import SETTINGS, probabilities

from lightning_bpd.decoding import (
    GREEDY,
    DecodingOptions,
    JacobiDrafter,
    Speculative,
    blockwise,
    decode,
    sequential,
)
from lightning_bpd.decoding.jacobi import row_length
from lightning_bpd.interfaces import InputError, TokenRows, VerifiedBlock

GUESSES = ["left", "above", "random"]


@pytest.mark.parametrize("family", ["pre", "post", "images"])
@pytest.mark.parametrize("sampler", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize("carry", [False, True])
def test_the_output_is_that_of_plain_decoding(family, sampler, guess, carry):
    for seed in range(3):
        model, source = case(family, seed, rows=1 + 2 * seed)
        expected = sequential(model, source, 7, sampler).rows()
        for window in (2, 3, 8, 20):
            drafter = JacobiDrafter(window, guess, 4, carry)
            assert (
                blockwise(model, drafter, source, window, extra_length=7, sampler=sampler).rows() == expected
            )


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 5),
    longest=st.integers(1, 5),
    extra=st.integers(0, 30),
    window=st.integers(2, 40),
    sampled=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_ragged_batches_of_any_length(seed, rows, longest, extra, window, sampled):
    model, source = network(seed), sources(rows, longest, seed)
    sampler = SAMPLED if sampled else GREEDY
    numbers = torch.randperm(100, generator=torch.Generator().manual_seed(seed))[:rows]
    together = blockwise(
        model, JacobiDrafter(window), source, window, extra_length=extra, sampler=sampler, rows=numbers
    )
    assert together.rows() == sequential(model, source, extra, sampler, numbers).rows()
    for row in range(rows):
        alone = blockwise(
            model,
            JacobiDrafter(window),
            row_of(source, row),
            window,
            extra_length=extra,
            sampler=sampler,
            rows=numbers[row : row + 1],
        )
        assert alone.accepted[0].tolist() == together.accepted[row, : alone.accepted.size(1)].tolist()


@pytest.mark.parametrize("sampler", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_heads_and_attention_may_guess_first(sampler):
    for seed in range(3):
        model, source = case("pre", seed, rows=4)
        expected = sequential(model, source, 7, sampler).rows()
        for first, window in product(
            (HeadLike(model, 4, seed), drafter_of(model, seed).drafter(model)), (3, 8, 12)
        ):
            drafter = JacobiDrafter(window, first=first)
            assert (
                blockwise(model, drafter, source, window, extra_length=7, sampler=sampler).rows() == expected
            )


def test_generators_of_images_are_decoded_with_the_neighbour_above():
    model = token_network()
    source = TokenRows(torch.tensor([[0], [2], [3]]), torch.ones(3, dtype=torch.long))
    assert row_length(model) == 4
    assert row_length(case("images", 0, rows=1)[0]) is not None
    assert row_length(network(0)) is None
    for guess in GUESSES:
        options = DecodingOptions("jacobi", block_size=6, sampler=SAMPLED, guess=guess)
        found = decode(model, source, options)
        assert torch.equal(found.tokens, sequential(model, source, sampler=SAMPLED).tokens)


def test_what_was_chosen_is_proposed_and_the_rest_is_guessed():
    drafter = JacobiDrafter(6, "above", row_length=3)
    drafter.start(TokenRows(torch.zeros(1, 1).long(), torch.ones(1).long()), 20, GREEDY, None)
    drafter.tokens[0, :4] = torch.tensor([5, 6, 7, 8])
    # Positions 4, 5 and 6 were proposed after the certain token at 3; the first of them stays.
    verified = VerifiedBlock(
        torch.tensor([[8, 9, 1, 1]]),
        torch.tensor([4]),
        torch.tensor([0]),
        torch.zeros(1, 4, 2),
        torch.zeros(1, 4, 10),
        torch.tensor([[9, 3, 2, 4]]),
        torch.tensor([2]),
    )
    found = drafter.propose(verified, torch.tensor([3]), 5).tokens
    # 2 and 4 were chosen for positions 6 and 7; 8, 9 and 10 are those above, of which two are proposals themselves.
    assert found.tolist() == [[2, 4, 3, 2, 4]]
    assert drafter.tokens[0, :11].tolist() == [5, 6, 7, 8, 9, 3, 2, 4, 3, 2, 4]
    drafter.reorder(torch.tensor([0, 0]))
    assert drafter.tokens.shape == (2, 32)


def test_certain_rows_are_accepted_whole():
    """A model that repeats one token: the left neighbour is always right."""
    model, source = network(0), sources(2, 5, 0)
    model.project = lambda hidden: torch.nn.functional.one_hot(torch.full(hidden.shape[:-1], 3), 6).double()
    result = blockwise(model, JacobiDrafter(5), source, 5, extra_length=20)
    assert set(result.accepted[result.accepted > 0].tolist()) <= {5, 1, 2, 3, 4}
    assert (result.accepted[:, 1:4] == 5).all()


@pytest.mark.parametrize("sampler", SETTINGS, ids=["plain", "top_k", "top_p"])
@pytest.mark.parametrize("batches", [1, 4])
@torch.inference_mode()
def test_the_speculative_rule_keeps_the_distribution(sampler, batches):
    """The paper's p/q rule; by the exact rule the tokens themselves are those of plain sampling."""
    count, limit = 6000, 4
    model = network(18, vocabulary=4)
    model.output.weight.data *= 0.4  # so that every row is possible
    one = TokenRows(torch.tensor([[3]]), torch.tensor([1]))
    seen = Counter()
    together = count // batches
    for first in range(0, count, together):
        many = TokenRows(one.tokens.expand(together, -1), one.lengths.expand(together))
        drafter = JacobiDrafter(4, "random", distributions=True)
        numbers = torch.arange(first, first + together)
        result = blockwise(model, drafter, many, 4, Speculative(sampler), limit - 1, sampler, numbers)
        seen.update(map(tuple, result.rows()))
    expected = probabilities(model, one, limit, sampler)
    assert set(seen) <= set(expected)
    common = {row: p for row, p in expected.items() if count * p >= 5}
    cells = [(seen[row], count * p) for row, p in common.items()]
    cells.append((count - sum(n for n, _ in cells), count * (1 - sum(common.values())) + 1e-9))
    assert sum((n - mean) ** 2 / mean for n, mean in cells) < chi2.isf(1e-4, len(cells) - 1)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="window must be at least 2"):
        JacobiDrafter(1)
    with pytest.raises(InputError, match="needs a grid"):
        JacobiDrafter(4, "above")
    with pytest.raises(InputError, match="unknown guess 'below'"):
        JacobiDrafter(4, "below")
    with pytest.raises(InputError, match="block_size must be at least 2"):
        DecodingOptions("jacobi", block_size=1)
    model, source = network(0), sources(2, 5, 0)
    with pytest.raises(InputError, match="needs a grid"):
        decode(model, source, DecodingOptions("jacobi", guess="above"))
