import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_bpd.codecs.image_codes import ImageCodes
from lightning_bpd.codecs.image_tokenizers import WEIGHTS, TrainedTokenizer, read_tokenizer
from lightning_bpd.interfaces import InputError
from lightning_bpd.models.image_tokenizer import ImageTokenizer, TokenizerShape

SIZE = (8, 12, 3)


def tokenizer(seed=1, quantiser="residual_vq"):
    torch.manual_seed(seed)
    shape = TokenizerShape(
        quantiser, width=8, halvings=1, codebook_size=16, code_width=4, codebooks=2, levels=(4, 3)
    )
    return TrainedTokenizer(ImageTokenizer(shape, 3), 8, 12)


def images(count):
    return np.random.default_rng(1).integers(0, 256, (count, *SIZE), dtype=np.uint8)


@pytest.mark.parametrize(("quantiser", "grid", "size"), [("fsq", (4, 6), 12), ("residual_vq", (4, 6, 2), 16)])
def test_tokens_and_images(quantiser, grid, size):
    codec = ImageCodes.of(tokenizer(quantiser=quantiser), ("a", "b"))
    assert (codec.grid, codec.vocabulary, codec.length) == (grid, size, np.prod(grid))
    tokens = codec.encode(images(70))  # more than are computed together
    assert (tokens.shape, tokens.dtype) == ((70, codec.length), np.int64)
    assert (tokens[:3] == codec.encode(images(3))).all()
    decoded = codec.decode(tokens[:3].tolist())
    network = codec.tokenizer.network
    signal = torch.from_numpy(images(3)).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = ((network(signal).images + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1)
    assert np.abs(np.stack(decoded) - expected.detach().numpy()).max() <= 0.51  # rounded
    assert codec.decode([]) == []
    assert codec.encode(images(0)).shape == (0, codec.length)
    assert codec.vocabularies == (2, size, size, None, None, codec.grid)


def test_a_codec_is_rebuilt_from_folder_and_checkpoint(tmp_path):
    codec = ImageCodes.of(tokenizer(), ("a", "b"))
    stored = json.loads(json.dumps(codec.write(tmp_path)))
    torch.save(codec.describe(), tmp_path / "description")
    description = torch.load(tmp_path / "description", weights_only=True)
    for again in (ImageCodes.read(tmp_path, stored), ImageCodes.from_description(description)):
        assert again == codec
        assert (again.encode(images(4)) == codec.encode(images(4))).all()
    assert codec != ImageCodes.of(tokenizer(2), ("a", "b"))
    assert codec.parts() != ImageCodes.of(tokenizer(2), ("a", "b")).parts()
    assert codec.parts() != ImageCodes.of(tokenizer(), ("b", "a")).parts()


def test_a_finished_tokenizer_is_a_folder(tmp_path):
    own = tokenizer()
    own.save(tmp_path / "tokenizer", {"steps": 3})
    assert sorted(path.name for path in (tmp_path / "tokenizer").iterdir()) == [
        "config.json",
        "metrics.json",
        WEIGHTS,
    ]
    again = read_tokenizer(str(tmp_path / "tokenizer"), SIZE)
    assert again.fingerprint == own.fingerprint
    tokenizer(2).save(tmp_path / "tokenizer", {})
    assert read_tokenizer(str(tmp_path / "tokenizer"), SIZE).fingerprint == tokenizer(2).fingerprint


def test_bad_input(tmp_path):
    folder = tmp_path / "tokenizer"
    with pytest.raises(InputError, match="holds no tokenizer of images"):
        read_tokenizer(str(folder), SIZE)
    tokenizer().save(folder, {})
    with pytest.raises(
        InputError, match=r"is for images of 8 x 12 x 3, and the data has images of 8 x 8 x 3"
    ):
        read_tokenizer(str(folder), (8, 8, 3))
    weights = load_file(folder / WEIGHTS)
    save_file(dict(list(weights.items())[1:]), folder / WEIGHTS)
    with pytest.raises(InputError, match="is damaged"):
        read_tokenizer(str(folder), SIZE)
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match="train the tokenizer again"):
        read_tokenizer(str(folder), SIZE)
    for content, message in (
        ('{"format": 2, "image_tokenizer": {}}', "is of format 2"),
        ('{"model_type": "x"}', "give hf:"),
        ('{"format": 1, "network": {}}', "holds no tokenizer of images"),
        ("{", "config.json is damaged"),
    ):
        (folder / "config.json").write_text(content)
        with pytest.raises(InputError, match=message):
            read_tokenizer(str(folder), SIZE)


def test_tokens_of_another_codec():
    codec = ImageCodes.of(tokenizer(), ("a", "b"))
    with pytest.raises(InputError, match="are not of this codec, whose 16 tokens go from 0 to 15"):
        codec.decode([[16] * codec.length])
    with pytest.raises(InputError, match="a grid of 4 x 6 x 2 takes 48"):
        codec.decode([[0] * 24])
    with pytest.raises(InputError, match="images of 8 x 8 x 3, uint8, do not fit"):
        codec.encode(images(2)[:, :, :8])
