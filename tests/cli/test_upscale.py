"""upscale: images in, images out."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_bpd.cli.upscale import upscale
from lightning_bpd.codecs.images import ImageCodec
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.decoding import greedy
from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.models import Architecture, EncoderDecoder, ImageArchitecture, ImageTransformer
from lightning_bpd.saved.finished_model import GenerativeModel, read_folder

CODEC = ImageCodec(height=6, width=6, channels=3, levels=32, factor=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    torch.manual_seed(1)
    shape = ImageArchitecture(
        height=6, width=6, channels=3, levels=32, scale=2, d_model=16, heads=2, encoder_layers=1, decoder_layers=1,
        feed_forward=32, dropout=0.0, local_block=16,
    )  # fmt: skip
    GenerativeModel(ImageTransformer(shape), CODEC, BlockHeads(16, HeadShape(4, 8))).save(
        folder / "model", {}
    )
    return folder / "model"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(2)
    pixels = generator.integers(0, 256, (5, 3, 3, 3), dtype=np.uint8)
    (folder / "deep").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / ("deep" if number % 2 else ".") / f"{number}.png")
    return folder, pixels


def images_of(folder):
    return {path.relative_to(folder).as_posix(): np.array(Image.open(path)) for path in folder.rglob("*.png")}


def test_output_is_what_greedy_decoding_gives(model, inputs, tmp_path):
    folder, pixels = inputs
    upscale(str(model), str(folder), str(tmp_path / "greedy"), batch_size=2)
    found = images_of(tmp_path / "greedy")
    assert set(found) == {"0.png", "deep/1.png", "2.png", "deep/3.png", "4.png"}
    network = read_folder(model).network.eval()
    for name, image in found.items():
        number = int(name.removesuffix(".png")[-1])
        tokens = torch.from_numpy((pixels[number].astype(int) * 62 + 255) // 510).reshape(1, -1)
        rows = greedy(network, TokenRows(tokens, torch.tensor([27]))).rows()
        assert np.array_equal(image, CODEC.decode(rows)[0])
    upscale(str(model), str(folder), str(tmp_path / "blocks"), "blockwise", block_size=3)
    upscale(str(model), str(folder), str(tmp_path / "jacobi"), "jacobi")
    without_heads = images_of(tmp_path / "jacobi")
    assert all(np.array_equal(without_heads[name], image) for name, image in found.items())
    blocks = images_of(tmp_path / "blocks")
    assert all(np.array_equal(blocks[name], image) for name, image in found.items())


def test_what_cannot_be_read_is_named(model, inputs, tmp_path, caplog):
    _, pixels = inputs
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels[0]).save(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG nothing")
    with caplog.at_level(logging.INFO, "lightning_bpd"):
        upscale(str(model), str(tmp_path / "in"), str(tmp_path / "out"))
    assert "1 images in" in caplog.text
    assert "1 left out (broken.png" in caplog.text
    (tmp_path / "in" / "good.png").unlink()
    with pytest.raises(InputError, match=r"no image can be used: 1 left out \(broken.png"):
        upscale(str(model), str(tmp_path / "in"), str(tmp_path / "out"))


def test_what_cannot_be_done(model, inputs, tmp_path):
    tokenizer = train_tokenizer(["ein Haus", "a house"] * 20, 280, True, "identity")
    size = tokenizer.vocab_size
    shape = Architecture(d_model=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=32)
    network = EncoderDecoder(shape, size, size, tokenizer.bos_id, tokenizer.eos_id)
    GenerativeModel(network, TextCodec(tokenizer, tokenizer)).save(tmp_path / "text", {})
    for folder, options, words in (
        (tmp_path / "text", {}, "is a model of text, which enlarges no images"),
        (model, {"decoder": "blockwise", "block_size": 5}, "larger than the 4"),
        (model, {"batch_size": 0}, "batch_size must be at least 1"),
    ):
        with pytest.raises(InputError, match=words):
            upscale(str(folder), str(inputs[0]), str(tmp_path / "out"), **options)
