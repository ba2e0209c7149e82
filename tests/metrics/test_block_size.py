import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from lightning_bpd.interfaces import DecodeResult, TokenRows
from lightning_bpd.metrics import (
    AcceptedSizes,
    GreedyComparison,
    count_accepted_sizes,
    equal_rows,
    mean_accepted_block_size,
    shares,
    shares_at_least,
)


def pad(rows):
    tokens = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return TokenRows(tokens, torch.tensor([len(row) for row in rows]))


def result(rows, calls):
    tokens, lengths = pad(rows)
    return DecodeResult(tokens, lengths, None, torch.tensor(calls))


def test_sizes_are_counted_without_padding():
    accepted = torch.tensor([[3, 1, 0, 0], [2, 2, 2, 1]])
    counts = count_accepted_sizes(accepted, 4)
    assert counts.tolist() == [0, 2, 3, 1, 0]
    assert mean_accepted_block_size(counts) == 11 / 6
    assert shares(counts) == [0, 2 / 6, 3 / 6, 1 / 6, 0]
    assert shares_at_least(counts) == [1, 1, 4 / 6, 1 / 6, 0]


@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=6), st.integers(1, 5)
)
def test_the_mean_is_over_iterations_however_they_are_batched(rows, split):
    whole, parts = AcceptedSizes(5), AcceptedSizes(5)
    whole.update(pad(rows).tokens)
    for first in range(0, len(rows), split):
        parts.update(pad(rows[first : first + split]).tokens)
    sizes = [size for row in rows for size in row]
    for metric in (whole, parts):
        assert mean_accepted_block_size(metric.compute()) == sum(sizes) / len(sizes)
        assert metric.compute().tolist() == [sizes.count(size) for size in range(6)]


def test_a_block_size_of_one_keeps_its_shape():
    metric = AcceptedSizes(1)
    metric.update(torch.ones(2, 3, dtype=torch.long))
    assert metric.compute().tolist() == [0, 6]


def test_a_size_larger_than_the_block_is_not_lost_in_silence():
    metric = AcceptedSizes(2)
    with pytest.raises(RuntimeError):
        metric.update(torch.tensor([[3]]))


def test_rows_are_equal_up_to_their_length():
    one = result([[1, 2, 3], [4, 5], [6]], [0, 0, 0])
    other = result([[1, 2, 3, 9], [4, 5], [7]], [0, 0, 0])
    other.tokens[1, 2:] = 8
    assert equal_rows(one, other).tolist() == equal_rows(other, one).tolist() == [False, True, False]


def test_ratios_are_of_sums():
    metric = GreedyComparison()
    metric.update(result([[5, 2]], [2]), result([[5, 2]], [2]), 40, 30)
    metric.update(result([[5, 6, 2], [7, 7]], [2, 1]), result([[5, 6, 2], [7, 2]], [3, 2]), 10, 70)
    found = metric.compute()
    assert found == (2 / 3, 5 / 3, 7 / 5, 100 / 50)
    metric.reset()
    metric.update(result([[5, 2]], [2]), result([[5, 2]], [2]), 40, 30)
    assert metric.compute() == (1.0, 2.0, 1.0, 0.75)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_measured_is_no_number():
    assert math.isnan(mean_accepted_block_size(AcceptedSizes(3).compute()))
    assert all(map(math.isnan, GreedyComparison().compute()))
