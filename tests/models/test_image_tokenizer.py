import sys

import pytest
import torch

from lightning_bpd.interfaces import InputError
from lightning_bpd.models.image_tokenizer import ImageTokenizer, TokenizerShape, to_intensities, to_signal

SHAPES = {
    "vq": TokenizerShape("vq", width=8, halvings=1, codebook_size=16, code_width=4),
    "fsq": TokenizerShape("fsq", width=8, halvings=2, levels=(4, 3)),
    "residual_vq": TokenizerShape(
        "residual_vq", width=8, halvings=1, codebook_size=16, code_width=4, codebooks=3
    ),
}


@pytest.fixture(params=SHAPES)
def tokenizer(request):
    torch.manual_seed(1)
    return ImageTokenizer(SHAPES[request.param], 3).double().eval()


def images(count, height=8, width=12):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2)).double() * 2 - 1


def test_decoding_the_codes_gives_the_reconstruction(tokenizer):
    result = tokenizer(images(5))
    codes = tokenizer.encode(images(5))
    assert torch.equal(codes, result.codes)
    shape = tokenizer.shape
    height, width = shape.grid(8, 12)[:2]
    assert codes.shape == (5, height, width, shape.depth)
    assert codes.min() >= 0
    assert codes.max() < shape.vocabulary
    # The straight-through sum x + (q - x) rounds differently from q.
    assert torch.allclose(tokenizer.decode(codes), result.images.clamp(-1, 1), atol=1e-5)


def test_a_batch_gives_what_its_images_give_alone(tokenizer):
    whole = tokenizer.encode(images(5))
    for number in range(5):
        assert torch.equal(tokenizer.encode(images(5)[number : number + 1])[0], whole[number])


def test_eval_mode_changes_nothing(tokenizer):
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    tokenizer(images(5))
    tokenizer.encode(images(3))
    after = tokenizer.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_step_lowers_the_error_and_gradients_reach_the_encoder(tokenizer):
    tokenizer.train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-3)
    errors = []
    for _ in range(30):
        result = tokenizer(images(16))
        error = (result.images - images(16)).square().mean()
        optimizer.zero_grad()
        (error + result.commitment).backward()
        optimizer.step()
        errors.append(float(error))
    assert tokenizer.encoder[0].weight.grad.abs().sum() > 0
    assert errors[-1] < errors[0]


def test_residual_codebooks_each_take_away_error():
    torch.manual_seed(1)
    tokenizer = ImageTokenizer(SHAPES["residual_vq"], 3).train()
    for _ in range(20):
        tokenizer(images(16).float())
    tokenizer.eval()
    cells = tokenizer.encoder(images(16).float()).permute(0, 2, 3, 1).flatten(1, 2)
    codes = tokenizer.quantiser(cells)[1]
    left = [
        float((cells - tokenizer.quantiser.get_codes_from_indices(codes)[:count].sum(0)).square().mean())
        for count in range(4)
    ]
    assert left == sorted(left, reverse=True)


def test_intensities_and_signals():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    assert torch.equal(to_intensities(to_signal(levels)), levels)
    assert to_signal(levels).shape == (1, 1, 16, 16)
    assert to_intensities(torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2)).flatten().tolist() == [0, 255]


def test_sides_that_cannot_be_halved():
    with pytest.raises(
        InputError, match=r"images of 28 x 30 pixels cannot be halved 2 times: .* multiples of 4"
    ):
        TokenizerShape(halvings=2).grid(28, 30)


@pytest.mark.parametrize(
    "settings", [{"levels": ()}, {"levels": (1, 8)}, {"codebook_size": 1}, {"halvings": -1}]
)
def test_shapes_out_of_range(settings):
    with pytest.raises(InputError):
        TokenizerShape(**settings)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    monkeypatch.setattr("lightning_bpd.models.image_tokenizer.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'lightning_bpd\[images\]'"):
        ImageTokenizer(TokenizerShape(), 1)
