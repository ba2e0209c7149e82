"""What replay says from one teacher-forced call is what blockwise decoding does; float64."""

import sys

import pytest
import torch
from drafters import HeadLike, network, sources
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd.decoding import blockwise, greedy, replay


@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["pre", "post"]),
    positions=st.sampled_from(["sinusoidal", "learned"]),
    rows=st.integers(1, 6),
    extra=st.integers(0, 12),
    block_size=st.integers(1, 10),
)
@settings(max_examples=80, deadline=None)
def test_replay_equals_decoding(seed, norm, positions, rows, extra, block_size):
    model = network(seed, norm, positions)
    source = sources(rows, 5, seed)
    drafter = HeadLike(model, 10, seed)
    sizes = replay(model, drafter, source, greedy(model, source, extra), block_size)
    assert len(sizes) == block_size
    for smaller, replayed in enumerate(sizes, start=1):
        decoded = blockwise(model, drafter, source, smaller, extra_length=extra)
        assert torch.equal(replayed, decoded.accepted)


def test_long_blocks_occur():
    """The property above is not about blocks of one token."""
    seen = set()
    for seed in range(20):
        model, source = network(seed), sources(4, 5, seed)
        drafter = HeadLike(model, 6, seed)
        seen |= set(replay(model, drafter, source, greedy(model, source, 12), 6)[-1].flatten().tolist())
    assert seen == {0, 1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("most", [1, 7, 100])
def test_proposals_in_parts_change_nothing(most, monkeypatch):
    model, source = network(1), sources(5, 5, 1)
    drafter, result = HeadLike(model, 6, 1), greedy(model, source, 8)
    expected = replay(model, drafter, source, result, 6)
    monkeypatch.setattr(sys.modules[replay.__module__], "_MOST_PROPOSALS", most)
    for part, whole in zip(replay(model, drafter, source, result, 6), expected, strict=True):
        assert torch.equal(part, whole)
