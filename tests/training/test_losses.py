import pytest
import torch
from torch.nn import functional as F

from lightning_bpd.interfaces import TokenRows
from lightning_bpd.training.losses import decoder_inputs, summed_cross_entropy, token_mask, without_padding

ROWS = TokenRows(torch.tensor([[5, 6, 3], [7, 3, 0]]), torch.tensor([3, 2]))


def test_inputs_are_targets_one_place_later():
    assert decoder_inputs(ROWS, bos_id=2).tolist() == [[2, 5, 6], [2, 7, 3]]
    assert ROWS.tokens.tolist() == [[5, 6, 3], [7, 3, 0]]


def test_only_tokens_count():
    assert token_mask(ROWS).tolist() == [[True, True, True], [True, True, False]]
    hidden = torch.arange(6.0).view(2, 3, 1)
    kept, targets = without_padding(hidden, ROWS)
    assert kept.flatten().tolist() == [0, 1, 2, 3, 4]
    assert targets.tolist() == [5, 6, 3, 7, 3]
    full = TokenRows(ROWS.tokens[:, :2], torch.tensor([2, 2]))
    kept, targets = without_padding(hidden[:, :2], full)
    assert kept.flatten().tolist() == [0, 1, 3, 4]
    assert targets.tolist() == [5, 6, 7, 3]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothing_without_logits_equals_torch(smoothing):
    torch.manual_seed(0)
    hidden = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(13, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 13, (9,))
    loss, plain = summed_cross_entropy(hidden, weight, targets, smoothing)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    logits = hidden @ weight.T
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (hidden, weight)))
    torch.testing.assert_close(plain, F.cross_entropy(hidden @ weight.T, targets, reduction="sum").detach())
    assert not plain.requires_grad
