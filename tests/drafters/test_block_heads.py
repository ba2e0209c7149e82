import pytest
import torch

from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.interfaces import InputError


def random_heads(*shape, width=12):
    torch.manual_seed(3)
    heads = BlockHeads(width, HeadShape(*shape)).double()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return heads


def by_hand(heads, hidden, number):
    """Head ``number`` as the paper draws it, one product after the other."""
    if number < heads.first:
        return hidden
    own = number - heads.first
    units = [
        torch.relu(hidden @ weight.T + bias)
        for weight, bias in zip(heads.hidden_weight, heads.hidden_bias, strict=True)
    ]
    seen = torch.cat(units, -1) if heads.shape.second_matrix == "dense" else units[own]
    return hidden + seen @ heads.output_weight[own].T + heads.output_bias[own]


@pytest.mark.parametrize("second_matrix", ["per_head", "dense"])
@pytest.mark.parametrize("first_head", ["identity", "learned"])
@pytest.mark.parametrize("block_size", [1, 2, 5])
@pytest.mark.parametrize("rows", [(), (1,), (2, 3)])
def test_every_range_of_heads_is_the_papers_layer(second_matrix, first_head, block_size, rows):
    heads = random_heads(block_size, 7, second_matrix, first_head)
    hidden = torch.randn(*rows, 12, dtype=torch.float64)
    expected = torch.stack([by_hand(heads, hidden, number) for number in range(1, block_size + 1)], -2)
    for start in range(1, block_size + 1):
        for stop in range(start + 1, block_size + 2):
            for gradients in (True, False):
                with torch.set_grad_enabled(gradients):
                    outputs = heads(hidden, range(start, stop))
                torch.testing.assert_close(outputs, expected[..., start - 1 : stop - 1, :])
    torch.testing.assert_close(heads(hidden), expected[..., heads.first - 1 :, :])


def test_heads_start_as_the_base():
    heads = BlockHeads(8, HeadShape(3))
    hidden = torch.randn(2, 8)
    assert heads.shape.d_hidden == 32
    torch.testing.assert_close(heads(hidden, range(1, 4)), hidden[:, None].expand(-1, 3, -1))


def test_base_and_heads_begin_to_learn():
    heads = BlockHeads(8, HeadShape(3))
    hidden = torch.randn(5, 8, requires_grad=True)
    heads(hidden).square().sum().backward()
    assert hidden.grad.abs().min() > 0
    assert heads.output_weight.grad.abs().amax((1, 2)).min() > 0


def sizes(**shape):
    return [
        sum(parameter.numel() for parameter in BlockHeads(16, HeadShape(k, 10, **shape)).parameters())
        for k in range(1, 17)
    ]


@pytest.mark.parametrize("first_head", ["identity", "learned"])
def test_parameters_grow_with_k_or_its_square(first_head):
    first = 0 if first_head == "identity" else 1
    matrix = 16 * 10
    per_head = sizes(second_matrix="per_head", first_head=first_head)
    dense = sizes(second_matrix="dense", first_head=first_head)
    for k in range(1, 17):
        n = k - 1 + first
        assert per_head[k - 1] == n * (2 * matrix + 16 + 10)
        assert dense[k - 1] == n * (matrix + 16 + 10) + n * n * matrix


def test_weights_keep_their_names():
    names = {"hidden_weight", "hidden_bias", "output_weight", "output_bias"}
    assert set(BlockHeads(8, HeadShape(3)).state_dict()) == names


@pytest.mark.parametrize("heads", [range(2), range(2, 5), range(2, 2), range(1, 4, 2), range(3, 1, -1)])
def test_heads_that_do_not_exist_are_refused(heads):
    with pytest.raises(InputError, match="choose from heads 1 to 3"):
        BlockHeads(8, HeadShape(3))(torch.randn(8), heads)


@pytest.mark.parametrize(
    "shape",
    [
        {"block_size": 0},
        {"d_hidden": 0},
        {"second_matrix": "sparse"},
        {"first_head": "none"},
        {"candidates": 0},
    ],
)
def test_shapes_that_make_no_sense_are_refused(shape):
    with pytest.raises(InputError, match=next(iter(shape))):
        HeadShape(**shape)


@pytest.mark.parametrize("candidates", [1, 7, 10, 11, 500])
@pytest.mark.parametrize("forbidden", [(), (0, 3)])
def test_candidates_are_distinct_allowed_and_the_most_frequent(candidates, forbidden):
    heads = BlockHeads(8, HeadShape(3, candidates=candidates))
    counts = torch.tensor([50, 3, 9, 80, 0, 9, 1, 0, 2, 4, 6])
    bias = torch.zeros(11)
    bias[list(forbidden)] = torch.tensor([-torch.inf, -1e4][: len(forbidden)])
    heads.choose_candidates(counts, bias.bfloat16())
    ranked = sorted(set(range(11)) - set(forbidden), key=lambda token: -counts[token])
    assert heads.candidates.tolist() == sorted(ranked[:candidates])
    restricted = candidates < 11 or forbidden
    assert (heads.candidates_of(11) is not None) == bool(restricted)


@pytest.mark.parametrize("stored", [[0, 0, 1, 2, 2, 3], [0, 1, 2, 3], [1, 3]])
def test_stored_candidates_are_taken_over_once_each(stored):
    """A list is as long as its vocabulary allowed; earlier versions filled it with repetitions."""
    heads = BlockHeads(8, HeadShape(3, candidates=6))
    heads.load_state_dict(heads.state_dict() | {"candidates": torch.tensor(stored)})
    assert heads.candidates.tolist() == sorted(set(stored))
