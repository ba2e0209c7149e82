import pytest
import torch
from proposed import proposed

from lightning_bpd.decoding import GREEDY
from lightning_bpd.drafters import BlockHeads, FirstHead, HeadDrafter, HeadShape
from lightning_bpd.drafters.head_drafter import EIGHT_BITS_FROM, _multiplies_eight_bits
from lightning_bpd.interfaces import InputError, VerifiedBlock

needs_eight_bits = pytest.mark.skipif(not _multiplies_eight_bits(), reason="this processor has no VNNI")


def random_heads(width=16, **shape):
    torch.manual_seed(2)
    heads = BlockHeads(width, HeadShape(**{"block_size": 5, "d_hidden": 8, **shape}))
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return heads


def test_proposals_are_read_at_the_last_accepted_token():
    heads, weight = random_heads(), torch.randn(40, 16)
    drafter = HeadDrafter(heads, weight)
    hidden = torch.randn(3, 5, 16)
    accepted = torch.tensor([1, 5, 3])
    tokens, start = torch.zeros(3, 5, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    block = VerifiedBlock(tokens, start, start, hidden, torch.zeros(3, 5, 40), tokens, accepted)
    drafter.start(None, 9, GREEDY, None)
    for count in range(1, 5):
        proposal = drafter.propose(block, torch.tensor([7, 8, 9]), count)
        assert proposal.probabilities is None
        expected = [
            (heads(hidden[row, accepted[row] - 1])[:count] @ weight.T).argmax(-1).tolist() for row in range(3)
        ]
        assert proposal.tokens.tolist() == expected
    assert drafter.block_size == 5


def test_proposals_of_many_positions_at_once():
    drafter = HeadDrafter(random_heads(), torch.randn(40, 16))
    hidden = torch.randn(2, 3, 16)
    tokens = proposed(drafter, hidden, 4)
    assert tokens.shape == (2, 3, 4)
    assert tokens[1, 2].tolist() == proposed(drafter, hidden[1, 2], 4).tolist()
    assert tokens[..., :2].tolist() == proposed(drafter, hidden, 2).tolist()


@pytest.mark.parametrize("first_head", ["identity", "learned"])
def test_more_proposals_than_heads_are_refused(first_head):
    drafter = HeadDrafter(random_heads(first_head=first_head), torch.randn(40, 16))
    with pytest.raises(InputError, match="choose from heads 1 to 5"):
        proposed(drafter, torch.randn(16), 5)


def test_candidates_alone_are_proposed():
    heads, weight = random_heads(candidates=3), torch.randn(40, 16)
    counts = torch.zeros(40, dtype=torch.long)
    counts[[30, 4, 17]] = torch.tensor([3, 2, 1])
    heads.choose_candidates(counts)
    hidden = torch.randn(50, 16)
    tokens = proposed(HeadDrafter(heads, weight), hidden, 4)
    logits = heads(hidden) @ weight.T
    others = torch.ones(40, dtype=torch.bool)
    others[[30, 4, 17]] = False
    assert tokens.tolist() == logits.masked_fill(others, -torch.inf).argmax(-1).tolist()


@pytest.mark.parametrize("candidates", [40, 41, 100])
def test_candidates_that_fill_the_vocabulary_are_no_restriction(candidates):
    heads, weight, hidden = random_heads(candidates=candidates), torch.randn(40, 16), torch.randn(50, 16)
    expected = proposed(HeadDrafter(random_heads(), weight), hidden, 4)
    assert torch.equal(proposed(HeadDrafter(heads, weight), hidden, 4), expected)
    heads.choose_candidates(torch.arange(40))
    assert torch.equal(proposed(HeadDrafter(heads, weight), hidden, 4), expected)


@pytest.mark.parametrize("words", [5, 16, 17])
@pytest.mark.parametrize("first_head", ["identity", "learned"])
@pytest.mark.parametrize("second_matrix", ["per_head", "dense"])
def test_few_words_are_proposed_through_one_product_less(words, first_head, second_matrix):
    """Fewer words than hidden dimensions, as intensities are: the same proposals from a matrix made once."""
    heads = random_heads(first_head=first_head, second_matrix=second_matrix).double()
    weight, bias = torch.randn(words, 16, dtype=torch.float64), torch.randn(words, dtype=torch.float64)
    bias[3] = -torch.inf
    drafter = HeadDrafter(heads, weight, bias=bias)
    assert (drafter.folded is not None) == (words <= 16)
    hidden = torch.randn(30, 4, 16, dtype=torch.float64)
    for count in range(1, 5):
        logits = heads(hidden, range(2, count + 2)) @ weight.T + bias
        assert proposed(drafter, hidden, count).tolist() == logits.argmax(-1).tolist()


@needs_eight_bits
@pytest.mark.parametrize("shape", [(), (1,), (3, 4)])
def test_eight_bits_are_the_product_up_to_rounding(shape):
    heads = random_heads(width=64)
    # Rows of very different size, one of them zero.
    weight = torch.randn(50, 64) * torch.logspace(-3, 3, 50)[:, None]
    weight[7] = 0
    drafter = HeadDrafter(heads, weight, eight_bits=True)
    rows = torch.randn(*shape, 64) * 100
    products = drafter.rounded.products(rows)
    assert products.shape == (*shape, 50)
    peaks = rows.abs().amax(-1, keepdim=True)
    error = (products - rows @ weight.T).abs()
    # Each factor is off by up to half a step of 127; errors of either sign add up as a square root.
    assert (error <= 2 * 64**0.5 / 127 * peaks * weight.abs().amax(1)).all()


@needs_eight_bits
def test_eight_bits_propose_the_same_up_to_near_ties():
    heads, weight = random_heads(width=64), torch.randn(500, 64)
    hidden = torch.randn(200, 64)
    exact = proposed(HeadDrafter(heads, weight, eight_bits=False), hidden, 4)
    rounded = proposed(HeadDrafter(heads, weight, eight_bits=True), hidden, 4)
    assert (exact == rounded).float().mean() > 0.95
    logits = heads(hidden) @ weight.T
    lost = logits.gather(-1, exact[..., None]) - logits.gather(-1, rounded[..., None])
    assert lost.max() < 0.02 * logits.abs().max()


def test_small_and_wide_weights_are_not_rounded():
    heads = random_heads(width=64)
    assert HeadDrafter(heads, torch.randn(100, 64)).rounded is None
    large = EIGHT_BITS_FROM // 64
    assert HeadDrafter(heads.double(), torch.randn(large, 64).double()).rounded is None
    assert (
        HeadDrafter(heads.float(), torch.randn(large, 64)).rounded is not None
    ) == _multiplies_eight_bits()
    with pytest.raises(InputError, match="8 bits"):
        HeadDrafter(heads, torch.randn(100, 64).double(), eight_bits=True)


class Base:
    bos_id, ends, max_length = 1, frozenset((2,)), 9

    def __init__(self):
        self.weight = torch.randn(40, 16)

    def start(self, source, rows, max_length):
        return ("state", source, rows, max_length)

    def step(self, tokens, state):
        return ("hidden", tokens, state)

    def project(self, hidden):
        return hidden @ self.weight.T


def test_a_learned_first_head_stands_before_the_projection_alone():
    base, heads = Base(), random_heads(first_head="learned")
    model = FirstHead(base, heads)
    assert (model.bos_id, model.ends, model.max_length) == (1, {2}, 9)
    assert model.start("source", None, 5) == ("state", "source", None, 5)
    assert model.step("tokens", "state") == ("hidden", "tokens", "state")
    hidden = torch.randn(2, 3, 16)
    torch.testing.assert_close(model.project(hidden), base.project(heads(hidden)[..., 0, :]))
    assert not torch.allclose(model.project(hidden), base.project(hidden))


def test_an_identity_needs_no_first_head():
    with pytest.raises(InputError, match="decode with the base itself"):
        FirstHead(Base(), random_heads())
