"""The network by itself: shapes, positions, what a position sees, the local forward pass against a plain one."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.models import ImageArchitecture, ImageTransformer
from lightning_bpd.models.local_attention import LocalAttention

SMALL = {
    "height": 6, "width": 4, "channels": 3, "levels": 7, "scale": 2, "d_model": 16, "heads": 2,
    "encoder_layers": 1, "decoder_layers": 2, "feed_forward": 32, "dropout": 0.0, "local_block": 5,
}  # fmt: skip


def network(**options) -> ImageTransformer:
    torch.manual_seed(0)
    return ImageTransformer(ImageArchitecture(**{**SMALL, **options})).eval()


def images(model: ImageTransformer, rows: int, seed: int = 0) -> tuple[TokenRows, torch.Tensor]:
    """Random inputs, and decoder inputs as long as an image."""
    shape, generator = model.architecture, torch.Generator().manual_seed(seed)
    tokens = torch.randint(shape.levels, (rows, shape.source_length), generator=generator)
    target = torch.randint(shape.levels, (rows, shape.output_length), generator=generator)
    target[:, 0] = model.bos_id
    return TokenRows(tokens, torch.full((rows,), shape.source_length)), target


def local_mask(length: int, block: int) -> torch.Tensor:
    """Bool [length, length]: what each position sees, said pair by pair."""
    return torch.tensor(
        [[s <= t and t // block - s // block <= 1 for s in range(length)] for t in range(length)]
    )


def plain(attention: LocalAttention, x: torch.Tensor) -> torch.Tensor:
    """Local self-attention by one matrix of all scores."""
    query, key, value = attention._split(attention.query_key_value(x), 3)
    scores = query @ key.transpose(2, 3) / query.size(3) ** 0.5
    hidden = ~local_mask(x.size(1), attention.visible.block)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return attention.output((weights @ value).transpose(1, 2).flatten(2))


@given(
    rows=st.integers(1, 3),
    length=st.integers(1, 23),
    block=st.integers(1, 8),
    heads=st.sampled_from([1, 2]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_local_attention_is_masked_attention_with_all_gradients(rows, length, block, heads, seed):
    torch.manual_seed(seed)
    attention = LocalAttention(8, heads, 0.0, block).double()
    x = torch.randn(rows, length, 8, dtype=torch.float64, requires_grad=True)
    torch.nn.init.normal_(attention.query_key_value.bias)
    expected, result = plain(attention, x), attention(x)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(result)
    wanted = [x, *attention.parameters()]
    gradients = torch.autograd.grad((expected * weights).sum(), wanted)
    torch.testing.assert_close(
        torch.autograd.grad((result * weights).sum(), wanted), gradients, atol=1e-11, rtol=0
    )


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_network_is_that_of_masked_attention_with_all_gradients(norm, monkeypatch):
    model = network(norm=norm).double()
    source, target = images(model, 2)
    parameters = list(model.parameters())
    hidden = model(source, target)
    weights = torch.randn_like(hidden)
    gradients = torch.autograd.grad((hidden * weights).sum() + model.project(hidden).sin().sum(), parameters)
    monkeypatch.setattr(LocalAttention, "forward", lambda attention, x, mask, causal: plain(attention, x))
    expected = model(source, target)
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-11)
    of_plain = torch.autograd.grad(
        (expected * weights).sum() + model.project(expected).sin().sum(), parameters
    )
    torch.testing.assert_close(gradients, of_plain, rtol=1e-9, atol=1e-10)


def test_a_position_sees_its_local_block_and_the_one_before():
    model = network(decoder_layers=1).double()
    source, target = images(model, 1)
    before = model(source, target)
    seen = torch.zeros(72, 72, dtype=torch.bool)
    for place in range(72):
        changed = target.clone()
        changed[0, place] = (changed[0, place] + 1) % 7
        seen[:, place] = (model(source, changed) != before)[0].any(-1)
    assert torch.equal(seen, local_mask(72, 5))
    shifted = TokenRows(source.tokens.roll(1, 1), source.lengths)
    assert bool((model(shifted, target) != before).any(-1).all()), "every position sees the input"


def test_shorter_rows_are_prefixes():
    model = network().double()
    source, target = images(model, 2)
    whole = model(source, target)
    for length in (1, 4, 5, 6, 31, 72):
        torch.testing.assert_close(model(source, target[:, :length]), whole[:, :length], rtol=0, atol=1e-12)


def saved_for_backward(model: ImageTransformer) -> int:
    """Numbers that a training pass remembers, each storage once, parameters aside."""
    storages = {}

    def remember(tensor):
        storages[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    source, target = images(model, 1)
    memory = model.encode(source.tokens)  # the same for all: the input is as small in each
    x = model._embed(model.target_embedding(target), model.target_positions)
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        for layer in model.decoder:
            x = layer(x, memory, None)
    return sum(size for place, (size, _) in storages.items() if place not in known)


def test_training_takes_memory_in_proportion_to_length():
    one, two, four = (
        saved_for_backward(network(height=height, width=8, scale=scale, local_block=16).train())
        for height, scale in ((16, 8), (32, 8), (64, 8))
    )
    assert two - one < 1.1 * one
    assert four - two == pytest.approx(2 * (two - one), rel=0.05)


def test_positions_say_row_and_place_in_it():
    model = network()
    large = model.target_positions.view(6, 4 * 3, 16)
    assert (large[:, :, :8] == large[:, :1, :8]).all()
    assert (large[:, :, 8:] == large[:1, :, 8:]).all()
    assert len(model.target_positions.unique(dim=0)) == 72
    assert model.source_positions.shape == (3 * 2 * 3, 16)
    assert "target_positions" not in model.state_dict()


def test_an_input_intensity_has_a_vector_for_each_channel():
    model = network()
    source, target = images(model, 1)
    grey = TokenRows(torch.full_like(source.tokens, 3), source.lengths)
    model(grey, target).square().sum().backward()
    used = model.source_embedding.weight.grad.abs().sum(1) > 0
    assert used.nonzero().flatten().tolist() == [3, 10, 17]


def test_the_defaults_are_the_paper():
    """4 encoder and 8 decoder layers of width 512: 12.6 million and 33.6 million parameters."""
    with torch.device("meta"):
        model = ImageTransformer(ImageArchitecture())
    layers = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder)]
    assert layers == [4 * (1_050_624 + 2_099_712 + 2 * 1024), 8 * (2 * 1_050_624 + 2_099_712 + 3 * 1024)]
    assert (model.architecture.source_length, model.max_length) == (192, 3072)
    assert model.architecture.layer_shape().norm == "post"


def test_grey_images_and_unequal_sides():
    model = network(height=4, width=8, channels=1, scale=4, local_block=128)
    source, target = images(model, 3)
    assert source.tokens.shape == (3, 2)
    hidden = model(source, target)
    assert hidden.shape == (3, 32, 16)
    assert model.project(hidden).shape == (3, 32, 7)
    assert (model.bos_id, model.ends, model.output_weight.shape) == (7, frozenset(), (7, 16))


def test_a_small_network_learns_to_enlarge():
    """Four pixels for one of the input, which has to be read: else each fourth pixel costs ln 4, 0.35 on average."""
    model = network(height=4, width=4, channels=1, levels=4, scale=2, norm="pre").train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        small = torch.randint(4, (16, 2, 2))
        large = small.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
        inputs = F.pad(large, (1, 0), value=model.bos_id)[:, :-1]
        hidden = model(TokenRows(small.flatten(1), torch.full((16,), 4)), inputs)
        loss = F.cross_entropy(model.project(hidden).flatten(0, 1), large.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.15


def test_bfloat16_attention_trains_in_float32_on_the_cpu():
    model = network().train()
    source, target = images(model, 1)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(source, target)
        low.float().sum().backward()
    torch.testing.assert_close(low.float().detach(), model(source, target).detach(), rtol=0.05, atol=0.08)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 4}, "an image of 6 x 4 cannot be made 4 times smaller"),
        ({"levels": 257}, "levels must be 2 to 256, not 257"),
        ({"levels": 1}, "levels must be 2 to 256, not 1"),
        ({"d_model": 18}, "d_model must be a multiple of 4, not 18"),
        ({"heads": 3}, "d_model 16 is not a multiple of heads 3"),
        ({"local_block": 0}, "local_block must be at least 1, not 0"),
        ({"channels": 0}, "channels must be at least 1, not 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1"),
        ({"norm": "both"}, "unknown norm 'both': choose pre or post"),
    ],
)
def test_shapes_that_cannot_be(options, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(ImageArchitecture(**SMALL), **options)


def test_rows_that_are_no_images():
    model = network()
    source, target = images(model, 2)
    with pytest.raises(
        InputError, match="an input of 17 tokens is not an image of 3 x 2 x 3: give 18 tokens"
    ):
        model.start(TokenRows(source.tokens[:, 1:], source.lengths - 1), None, 72)
    with pytest.raises(InputError, match="an input of 4 tokens is not an image"):
        model(TokenRows(source.tokens, torch.tensor([18, 4])), target)
    with pytest.raises(InputError, match="a target row of 73 tokens is longer than an image, 72"):
        model(source, F.pad(target, (0, 1)))
