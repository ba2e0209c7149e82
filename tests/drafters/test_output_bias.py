"""A base that adds something to its logits: losses, gradients and proposals with it are the plain ones."""

import pytest
import torch
from proposed import proposed
from torch.nn import functional as F

from lightning_bpd.drafters import BlockHeads, HeadDrafter, HeadShape, head_losses
from lightning_bpd.drafters.targets import shifted_targets
from lightning_bpd.interfaces import TokenRows

ROWS = TokenRows(
    torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(1)), torch.tensor([6, 4, 1])
)


def parts(candidates=None):
    torch.manual_seed(0)
    heads = BlockHeads(8, HeadShape(block_size=3, d_hidden=5, candidates=candidates)).double()
    torch.nn.init.normal_(heads.output_weight)
    hidden = torch.randn(3, 6, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    bias = (3 * torch.randn(11, dtype=torch.float64)).requires_grad_()
    return heads, hidden, weight, bias


def naive(heads, hidden, weight, bias):
    targets, mask = shifted_targets(ROWS, 3)
    logits = heads(hidden, range(1, 4)) @ weight.T + bias
    losses = [
        F.cross_entropy(logits[..., head, :][mask[..., head]], targets[..., head][mask[..., head]])
        for head in range(3)
    ]
    return sum(losses) / 3


@pytest.mark.parametrize("most_logits", [11, None])
def test_loss_and_gradients(most_logits):
    heads, *inputs = parts()
    wanted = [*inputs, *heads.parameters()]
    expected = naive(heads, *inputs)
    gradients = torch.autograd.grad(expected, wanted)
    hidden, weight, bias = inputs
    found = head_losses(heads, hidden, weight, ROWS, range(1, 4), most_logits=most_logits, bias=bias)
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(torch.autograd.grad(found.loss, wanted), gradients)


@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("candidates", [None, 6])
def test_tokens_that_never_come(temperature, candidates):
    """Their bias is -inf: as if the projection had no row for them."""
    heads, hidden, weight, bias = parts(candidates)
    rows = TokenRows(ROWS.tokens % 10, ROWS.lengths)
    bias = bias.detach().clone()
    bias[10] = -torch.inf
    arguments = rows, range(1, 4), None, temperature
    found = head_losses(heads, hidden, weight, *arguments, bias=bias)
    without = head_losses(heads, hidden, weight[:10], *arguments, bias=bias[:10])
    torch.testing.assert_close(found.sums, without.sums)
    assert torch.isfinite(torch.autograd.grad(found.loss, hidden)[0]).all()


@pytest.mark.parametrize("candidates", [None, 6])
@pytest.mark.parametrize("eight_bits", [False, True])
def test_proposals(candidates, eight_bits):
    heads, hidden, weight, bias = (each.float() for each in parts(candidates))
    possible = HeadDrafter(BlockHeads(8, HeadShape(block_size=2)), torch.zeros(200_000, 8)).eight_bits
    if eight_bits and not possible:
        pytest.skip("this processor has no VNNI")
    drafter = HeadDrafter(heads, weight, eight_bits, bias=bias)
    words = heads.candidates if candidates else torch.arange(11)
    with torch.no_grad():
        logits = heads(hidden, range(2, 4)) @ weight[words].T + bias[words]
    best = logits.max(-1).values
    chosen = proposed(drafter, hidden, 2)
    places = (chosen[..., None] == words).long().argmax(-1, keepdim=True)
    # Rounding to 8 bits may turn a near-tie.
    allowed = 0.2 if eight_bits else 1e-6
    assert (best - logits.gather(-1, places).squeeze(-1)).max() < allowed
    assert len(chosen.unique()) > 1


def test_hidden_states_of_a_narrower_type_than_the_heads():
    heads, hidden, weight, bias = parts()
    narrow = proposed(
        HeadDrafter(heads.float(), weight.bfloat16(), bias=bias.bfloat16()), hidden.bfloat16(), 2
    )
    wide = proposed(HeadDrafter(heads.float(), weight.float(), bias=bias.float()), hidden.float(), 2)
    assert (narrow == wide).float().mean() > 0.7
