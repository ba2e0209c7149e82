from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_bpd.datamodules.encoded_corpus import RaggedRows
from lightning_bpd.datamodules.token_batches import TokenBatchSampler, collate
from lightning_bpd.interfaces import InputError

LENGTHS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=80)


def make(pairs, batch_tokens=24, shuffle=True, seed=3, rank=0, world_size=1, epoch=0):
    lengths = np.array(pairs, dtype=np.int64)
    sampler = TokenBatchSampler(lengths[:, 0], lengths[:, 1], batch_tokens, shuffle, seed, rank, world_size)
    sampler.set_epoch(epoch)
    return sampler


def many_pairs(count=200):
    return np.random.default_rng(0).integers(2, 9, size=(count, 2))


@given(LENGTHS, st.integers(8, 60), st.integers(1, 5), st.booleans(), st.integers(0, 3))
def test_ranks_partition_the_corpus_within_the_budget(pairs, batch_tokens, world_size, shuffle, epoch):
    try:
        samplers = [
            make(pairs, batch_tokens, shuffle, rank=rank, world_size=world_size, epoch=epoch)
            for rank in range(world_size)
        ]
    except InputError:
        # Only where pairs are fewer than the batches that equal counts take.
        batches = len(make(pairs, batch_tokens, shuffle=False))
        assert len(pairs) < (-(-batches // world_size) * world_size if shuffle else world_size)
        return
    of_rank = [list(sampler) for sampler in samplers]
    assert [len(batches) for batches in of_rank] == [len(sampler) for sampler in samplers]
    if shuffle:
        assert len(set(map(len, of_rank))) == 1
    else:
        assert max(map(len, of_rank)) - min(map(len, of_rank)) <= 1
        assert min(map(len, of_rank)) >= 1, "Lightning lets such a rank miss collective calls"
    everything = [batch for batches in of_rank for batch in batches]
    assert sorted(row for batch in everything for row in batch) == list(range(len(pairs)))
    for batch in everything:
        assert len(batch) == 1 or len(batch) * max(max(pairs[row]) for row in batch) <= batch_tokens


@given(LENGTHS, st.integers(0, 90))
def test_start_at_gives_the_rest_of_the_order_of_this_epoch(pairs, start):
    whole = list(make(pairs, epoch=2))
    sampler = make(pairs, epoch=2)
    sampler.start_at(start)
    assert len(sampler) == len(whole)
    # A loader with workers makes two iterators and uses the second.
    iter(sampler)
    assert list(sampler) == whole[start:]
    sampler.set_epoch(2)
    assert list(sampler) == whole[start:]
    sampler.set_epoch(3)
    assert list(sampler) == list(make(pairs, epoch=3))


def test_an_iterator_keeps_the_epoch_and_start_it_was_made_with():
    sampler = make(many_pairs())
    sampler.start_at(5)
    begun = iter(sampler)
    sampler.set_epoch(1)
    assert list(begun) == list(make(many_pairs()))[5:]


def test_epochs_differ_in_order_and_not_in_shapes():
    pairs = many_pairs()
    orders = [list(make(pairs, epoch=epoch)) for epoch in (0, 1)]
    assert orders[0] == list(make(pairs, epoch=0))
    assert orders[0] != orders[1]
    assert orders[0] != list(make(pairs, seed=4))
    shapes = [sorted((len(batch), pairs[batch].max(axis=0).tolist()) for batch in order) for order in orders]
    assert shapes[0] == shapes[1]
    # Ties are drawn anew too: the sets of rows differ, not only the order of the batches.
    assert {frozenset(batch) for batch in orders[0]} != {frozenset(batch) for batch in orders[1]}


def test_lightning_reaches_set_epoch():
    sampler = make(many_pairs())
    assert sampler.sampler is sampler


def test_rows_of_a_batch_have_neighbouring_source_lengths():
    pairs = many_pairs(5000)
    batches = list(make(pairs, batch_tokens=80))
    single = [batch for batch in batches if len(set(pairs[batch][:, 0])) == 1]
    assert len(single) > 0.9 * len(batches)


def test_without_shuffling_the_longest_come_first_and_epochs_agree():
    sampler = make(many_pairs(), shuffle=False)
    order = list(sampler)
    sampler.set_epoch(7)
    assert list(sampler) == order
    longest = [many_pairs()[batch][:, 0].max() for batch in order]
    assert longest == sorted(longest, reverse=True)


def test_ranks_share_what_one_process_sees_at_as_many_accumulated_batches():
    pairs, world_size = many_pairs(203), 3
    alone = list(make(pairs))
    shared = [list(make(pairs, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len(alone) % world_size
    for step in range(len(shared[0])):
        together = sorted(row for batches in shared for row in batches[step])
        assert together == sorted(chain.from_iterable(alone[step * world_size : (step + 1) * world_size]))


def test_leftover_batches_are_split_evenly():
    samplers = [make([(4, 4)] * 11, batch_tokens=44, rank=rank, world_size=3) for rank in range(3)]
    assert [len(batch) for sampler in samplers for batch in sampler] == [4, 4, 3]


def test_a_pair_longer_than_the_budget_is_alone():
    batches = make([(2, 2), (30, 3), (2, 2), (3, 40)], batch_tokens=8)
    assert sorted(map(sorted, batches)) == [[0, 2], [1], [3]]


def test_too_few_pairs_for_the_processes():
    with pytest.raises(InputError, match="2 pairs is too small for 3 processes"):
        make([(2, 2)] * 2, world_size=3)


def test_pairs_too_long_to_share_equally():
    with pytest.raises(InputError, match="raise batch_tokens or use fewer processes"):
        make([(20, 20)] * 5, batch_tokens=24, world_size=2)


@pytest.mark.parametrize(("batch_tokens", "seed", "message"), [(0, 1, "batch_tokens is 0"), (8, -1, "-1")])
def test_settings_that_cannot_be_used(batch_tokens, seed, message):
    with pytest.raises(InputError, match=message):
        make([(2, 2)], batch_tokens=batch_tokens, seed=seed)


@given(st.data())
def test_collate_gives_back_every_row_padded_with_zero(data):
    rows = st.lists(st.lists(st.integers(1, 60000), min_size=1, max_size=7), min_size=6, max_size=6)
    sides = data.draw(rows), data.draw(rows)
    chosen = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=6))
    batch = collate(ragged(sides[0]), ragged(sides[1]), chosen)
    assert batch.index.tolist() == chosen
    for side, token_rows in zip(sides, (batch.source, batch.target), strict=True):
        wanted = [side[row] for row in chosen]
        width = max(map(len, wanted))
        assert token_rows.tokens.tolist() == [row + [0] * (width - len(row)) for row in wanted]
        assert token_rows.lengths.tolist() == list(map(len, wanted))
        assert token_rows.tokens.dtype == token_rows.lengths.dtype == batch.index.dtype == torch.int64


def ragged(rows):
    offsets = np.cumsum([0, *map(len, rows)])
    return RaggedRows(np.fromiter(chain.from_iterable(rows), dtype=np.uint16), offsets)
