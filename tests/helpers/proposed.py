"""The tokens that a drafter without memory proposes."""

import torch

from lightning_bpd.decoding import GREEDY


def proposed(drafter, hidden, count, sampler=GREEDY):
    """Tokens, int64 [..., count], proposed from hidden states [..., D] by greedy choice; block heads need no more."""
    flat = hidden.reshape(-1, hidden.size(-1))
    unused = torch.zeros(len(flat), dtype=torch.long)
    drafter.start(None, 0, sampler, None)
    tokens = drafter.proposals(flat, unused, unused, unused, count).tokens
    return tokens.view(*hidden.shape[:-1], count)
