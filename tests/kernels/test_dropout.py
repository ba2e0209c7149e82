import pytest
import torch

from lightning_bpd.kernels.dropout import add_dropped, dropout, keep_mask


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.999])
def test_mask_has_the_rate_and_keeps_the_mean(probability):
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(1000, 1001), probability)
    kept = mask != 0
    assert float(kept.double().mean()) == pytest.approx(1 - probability, abs=0.002)
    assert torch.allclose(mask[kept], mask[kept][:1])
    assert float(mask.double().mean()) == pytest.approx(1.0, abs=0.002 / (1 - probability))


def test_neighbouring_elements_are_independent():
    """Four elements share one random draw: their sixteen bits must not be related."""
    torch.manual_seed(0)
    dropped = (keep_mask(torch.empty(400_000), 0.5) == 0).double().view(-1, 4)
    assert (torch.corrcoef(dropped.T) - torch.eye(4)).abs().max() < 0.01


def test_gradient_passes_where_the_value_does():
    torch.manual_seed(0)
    x = torch.ones(1000, requires_grad=True)
    y = dropout(x, 0.3, training=True)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_a_seed_repeats_and_evaluation_changes_nothing():
    x, residual = torch.randn(7, 5), torch.randn(7, 5)
    torch.manual_seed(3)
    first = add_dropped(residual, x, 0.2, training=True)
    torch.manual_seed(3)
    torch.testing.assert_close(first, residual + dropout(x, 0.2, training=True))
    assert dropout(x, 0.2, training=False) is x
    assert torch.equal(add_dropped(residual, x, 0.2, training=False), residual + x)
