import pytest
import torch

from lightning_bpd.training.optimisation import cosine, fuse_on_cpu, inverse_square_root, scale_gradients


def test_schedules_rise_to_one_and_fall():
    for schedule in (lambda step: inverse_square_root(step, 10), lambda step: cosine(step, 10, lambda: 100)):
        values = [schedule(step) for step in range(1, 101)]
        assert values[0] == pytest.approx(0.1)
        assert max(values) == pytest.approx(1.0) == values[9]
        assert values[9:] == sorted(values[9:], reverse=True)
    assert inverse_square_root(40, 10) == pytest.approx(0.5)
    assert cosine(55, 10, lambda: 100) == pytest.approx(0.5)
    for step in (100, 1000):
        assert cosine(step, 10, lambda: 100) == pytest.approx(0.0, abs=1e-12)


def test_no_warmup_starts_at_the_peak():
    assert inverse_square_root(1, 0) == 1.0
    assert cosine(1, 0, lambda: pytest.fail("asked too early")) == 1.0


def test_gradients_are_scaled_where_there_are_any():
    with_gradient, without = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    with_gradient.grad = torch.full((3,), 4.0)
    scale_gradients([with_gradient, without], torch.tensor(0.25, dtype=torch.float64))
    assert with_gradient.grad.tolist() == [1.0, 1.0, 1.0]
    assert without.grad is None


def test_fusing_changes_speed_only():
    weights = []
    for fuse in (False, True):
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 8)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01)
        if fuse:
            fuse_on_cpu(optimizer)
            assert optimizer.param_groups[0]["fused"]
        for _ in range(5):
            optimizer.zero_grad()
            layer(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
        weights.append(layer.weight.detach())
    torch.testing.assert_close(*weights)


def test_a_stated_choice_is_kept():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], fused=False)
    fuse_on_cpu(optimizer)
    assert optimizer.param_groups[0]["fused"] is False
