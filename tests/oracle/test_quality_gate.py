"""Two trained drafters whose blocks must not become shorter: no wrong output would show that a drafter broke."""

import pytest
import torch

from lightning_bpd.decoding import blockwise, greedy
from tools.quality_gate import acceptance_by_position, read

# The share of iterations in which the first, second, ... proposal was accepted, as `python -m tools.quality_gate`
# printed it; of the heads, which see one hidden state of a tiny base, only what is more than a few iterations.
FLOORS = {
    "heads": [0.2139, 0.0512],
    "parallel": [0.4453, 0.1998, 0.0850, 0.0404],
}


@pytest.mark.parametrize("name", FLOORS)
def test_blocks_are_as_long_as_they_were(name):
    base, drafters, source = read()
    measured = acceptance_by_position(base, drafters[name], source)
    for place, (share, floor) in enumerate(zip(measured, FLOORS[name], strict=False), 1):
        assert share >= 0.95 * floor, f"proposal {place}: {share:.3f} are accepted, {floor:.3f} were"


@pytest.mark.parametrize("name", FLOORS)
def test_the_output_is_that_of_greedy_decoding(name):
    base, drafters, source = read()
    plain = greedy(base, source).rows()
    assert len({tuple(row) for row in plain}) > len(plain) / 2
    for block_size in (2, 5):
        assert blockwise(base, drafters[name].drafter(base), source, block_size).rows() == plain


@torch.inference_mode()
def test_the_gate_sees_a_broken_drafter():
    base, drafters, source = read()
    drafters["parallel"].masks.zero_()
    measured = acceptance_by_position(base, drafters["parallel"], source)
    assert measured[-1] < 0.95 * FLOORS["parallel"][-1]
