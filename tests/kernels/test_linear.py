from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lightning_bpd.kernels import linear as module
from lightning_bpd.kernels.linear import Linear, linear


@pytest.fixture
def onednn_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the products that went to oneDNN."""
    if not module._HAS_ONEDNN:
        pytest.skip("this build of torch has no oneDNN")
    calls: list[tuple[int, ...]] = []
    plain = module._onednn

    def counted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        calls.append((*x.shape, len(weight)))
        return plain(x, weight, bias)

    monkeypatch.setattr(module, "_onednn", counted)
    return calls


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "wide", "out"), [((3, 50), 64, 256), ((150,), 256, 64), ((5, 10, 3), 112, 112)]
)
def test_values_and_gradients_are_those_of_torch(
    onednn_calls: list[tuple[int, ...]], rows: tuple[int, ...], wide: int, out: int, with_bias: bool
) -> None:
    torch.manual_seed(1)
    # Not contiguous, as what attention hands on may be.
    x = torch.randn(wide, *rows).movedim(0, -1).requires_grad_()
    weight = torch.randn(out, wide, requires_grad=True)
    inputs = [x, weight, torch.randn(out, requires_grad=True)] if with_bias else [x, weight]
    seed = torch.randn(*rows, out)
    ours, theirs = linear(*inputs), F.linear(*inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    gradients = torch.autograd.grad(ours, inputs, seed)
    assert len(onednn_calls) == 3
    for mine, other in zip(gradients, torch.autograd.grad(theirs, inputs, seed), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(linear(*inputs), theirs.detach(), atol=1e-4, rtol=1e-5)
    assert len(onednn_calls) == 4


def test_a_frozen_layer_costs_no_gradient_of_its_own(onednn_calls: list[tuple[int, ...]]) -> None:
    layer = Linear(128, 128).requires_grad_(False)
    x = torch.randn(200, 128, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    assert len(onednn_calls) == 2


def test_only_large_float32_products_go_to_onednn(onednn_calls: list[tuple[int, ...]]) -> None:
    weight = torch.randn(256, 256)
    linear(torch.randn(2, 256), weight)
    linear(torch.randn(200, 256).double(), weight.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.randn(200, 256), weight).dtype == torch.bfloat16
    assert onednn_calls == []
    linear(torch.randn(200, 256), weight)
    assert len(onednn_calls) == 1


def test_layers_store_their_weights_as_torch_does() -> None:
    assert Linear(3, 5).state_dict().keys() == torch.nn.Linear(3, 5).state_dict().keys()


@pytest.mark.parametrize("shape", [(48,), (1, 48), (1, 1, 48)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_single_row_is_no_exception(shape: tuple[int, ...], with_bias: bool) -> None:
    torch.manual_seed(1)
    weight, bias = torch.randn(20, 48), torch.randn(20) if with_bias else None
    # Every second element, so that the row is not contiguous.
    x = torch.randn(*shape[:-1], 96)[..., ::2]
    expected = F.linear(x, weight, bias)
    torch.testing.assert_close(linear(x, weight, bias), expected, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias), expected, atol=1e-5, rtol=1e-5)
