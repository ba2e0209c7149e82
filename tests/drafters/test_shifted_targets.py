import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd.drafters import shifted_targets
from lightning_bpd.interfaces import TokenRows


def test_known_rows():
    rows = TokenRows(torch.tensor([[5, 6, 3], [7, 3, 0]]), torch.tensor([3, 2]))
    targets, mask = shifted_targets(rows, 2)
    assert mask.tolist() == [
        [[True] * 2, [True] * 2, [True, False]],
        [[True] * 2, [True, False], [False] * 2],
    ]
    assert targets[mask].tolist() == [5, 6, 6, 3, 3, 7, 3, 3]


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 3), st.integers(1, 16))
def test_head_i_predicts_the_token_i_places_ahead(lengths, padding, block_size):
    width = max(lengths) + padding
    tokens = torch.randint(1, 100, (len(lengths), width))
    targets, mask = shifted_targets(TokenRows(tokens, torch.tensor(lengths)), block_size)
    assert targets.shape == mask.shape == (len(lengths), width, block_size)
    assert mask.dtype == torch.bool
    for row, length in enumerate(lengths):
        for place in range(width):
            for head in range(1, block_size + 1):
                exists = place + head - 1 < length
                assert mask[row, place, head - 1] == exists
                if exists:
                    # After the start token and ``place`` tokens, the next is token ``place``, counted from 0.
                    assert targets[row, place, head - 1] == tokens[row, place + head - 1]
