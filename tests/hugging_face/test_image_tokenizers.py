import json

import numpy as np
import pytest
import torch
import transformers

from lightning_bpd.codecs.image_codes import ImageCodes
from lightning_bpd.codecs.image_tokenizers import read_tokenizer
from lightning_bpd.interfaces import InputError

SIZE = (16, 16, 3)
TINY = {
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_res_blocks": 1,
    "embed_dim": 4,
    "latent_channels": 32,
}


def janus():
    config = transformers.models.janus.configuration_janus.JanusVQVAEConfig(
        **TINY, num_embeddings=32, num_patches=8
    )
    return transformers.models.janus.modeling_janus.JanusVQVAE(config)


def emu3():
    tiny = {**TINY, "latent_channels": 4}
    return transformers.Emu3VQVAE(
        transformers.Emu3VQVAEConfig(**tiny, codebook_size=32, attn_resolutions=[1], hidden_size=32)
    )


def chameleon():
    config = transformers.ChameleonVQVAEConfig(**TINY, num_embeddings=32, resolution=16)
    return transformers.models.chameleon.modeling_chameleon.ChameleonVQVAE(config)


MAKERS = {"janus": janus, "emu3": emu3, "chameleon": chameleon}


@pytest.fixture(params=MAKERS)
def family(request):
    return request.param


@pytest.fixture
def folder(family, tmp_path):
    torch.manual_seed(1)
    MAKERS[family]().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def images(count, size=SIZE):
    return np.random.default_rng(2).integers(0, 256, (count, *size), dtype=np.uint8)


def test_codes_are_those_of_the_library(family, folder):
    tokenizer = read_tokenizer(f"hf:{folder}", SIZE)
    assert (tokenizer.grid, tokenizer.vocabulary) == ((8, 8), 32)
    some = images(9)
    codes = tokenizer.encode(some)
    assert (codes.shape, codes.dtype) == ((9, 64), np.int64)
    assert codes.min() >= 0
    assert codes.max() < 32
    pixels = torch.from_numpy(some).permute(0, 3, 1, 2).float() / 127.5 - 1
    model = type(tokenizer.model).from_pretrained(folder)
    with torch.no_grad():
        if family == "emu3":
            expected = torch.stack(model.encode(pixels, image_sizes=[[16, 16]] * 9).image_tokens).flatten(1)
        else:
            expected = model.encode(pixels).image_tokens.view(9, -1)
    assert (codes == expected.numpy()).mean() > 0.99  # rounding of batches of another size may flip a code
    assert tokenizer.encode(some[:0]).shape == (0, 64)


def test_images_of_codes(family, folder):
    codec = ImageCodes.of(read_tokenizer(f"hf:{folder}", SIZE), ("a", "b"))
    codes = codec.encode(images(3))
    if family == "chameleon":
        with pytest.raises(InputError, match="transformers has no decoder of ChameleonVQVAE"):
            codec.decode(codes.tolist())
        return
    decoded = codec.decode(codes.tolist())
    assert [(image.shape, image.dtype) for image in decoded] == [(SIZE, np.uint8)] * 3
    assert codec.decode([]) == []


def test_a_stored_codec_names_the_model(folder, tmp_path):
    codec = ImageCodes.of(read_tokenizer(f"hf:{folder}", SIZE), ("a", "b"))
    stored = json.loads(json.dumps(codec.write(tmp_path)))
    assert not list(tmp_path.glob("*.safetensors"))
    assert ImageCodes.read(tmp_path, stored) == codec
    assert ImageCodes.from_description(codec.describe()) == codec


def test_a_model_that_changed_is_refused(folder, tmp_path):
    codec = ImageCodes.of(read_tokenizer(f"hf:{folder}", SIZE), ("a", "b"))
    model = codec.tokenizer.model
    with torch.no_grad():
        model.quantize.embedding.weight.add_(1)
    stored = codec.write(tmp_path)
    model.save_pretrained(folder)
    with pytest.raises(InputError, match="has changed: its fingerprint is"):
        ImageCodes.read(tmp_path, stored)


def test_scaling_is_that_of_the_preprocessor(tmp_path):
    emu3().save_pretrained(tmp_path)
    plain = read_tokenizer(f"hf:{tmp_path}", SIZE)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1 / 255}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    scaled = read_tokenizer(f"hf:{tmp_path}", SIZE)
    some = images(1)
    pixels = (torch.from_numpy(some[0]).float() / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor(
        [0.2, 0.3, 0.4]
    )
    same = ((pixels + 1) * 127.5).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = plain.model.encode(same / 127.5 - 1, image_sizes=[[16, 16]]).image_tokens[0]
    assert (scaled.encode(some) == expected.flatten().numpy()).mean() > 0.99
    (tmp_path / "preprocessor_config.json").write_text('{"image_std": [0, 1, 1]}')
    with pytest.raises(InputError, match=r"preprocessor_config\.json is damaged .*deviations above 0"):
        read_tokenizer(f"hf:{tmp_path}", SIZE)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((15, 16, 3), "needs sides that are multiples of 2"),
        ((16, 16, 1), "encodes images of 3 channels"),
        ((32, 32, 3), "decodes images of 16 x 16 pixels only"),
    ],
)
def test_images_of_another_size(tmp_path, size, message):
    janus().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=message):
        read_tokenizer(f"hf:{tmp_path}", size)


def test_other_models_and_folders(tmp_path):
    with pytest.raises(InputError, match="holds no Hugging Face model"):
        read_tokenizer(f"hf:{tmp_path}", SIZE)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="'llama', not a tokenizer of images: give a JanusVQVAE"):
        read_tokenizer(f"hf:{tmp_path}", SIZE)


def test_incomplete_weights(tmp_path):
    model = emu3()
    model.save_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    del weights["quantize.embedding.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"incomplete, 1 are missing: quantize\.embedding\.weight"):
        read_tokenizer(f"hf:{tmp_path}", SIZE)
