"""Finished models that version 0.1 wrote load, and give the tokens that version 0.1 decoded."""

import json
from pathlib import Path

import pytest
import torch

from lightning_bpd.decoding import DecodingOptions, decode
from lightning_bpd.interfaces import TokenRows
from lightning_bpd.saved.finished_model import read_folder
from lightning_bpd.saved.translation import pad

FOLDER = Path(__file__).parents[1] / "data" / "version_0_1"
SOURCES = json.loads((FOLDER / "sources.json").read_text(encoding="utf-8"))
TEXT = ("base", "learned_positions", "per_head", "dense", "candidates")


def check(model, source, expected, extra_length=50):
    model.to("cpu")  # and to eval mode
    assert len({tuple(row) for row in expected["greedy"]}) > 1
    for name, rows in expected.items():
        options = DecodingOptions(extra_length=extra_length)
        if name == "beam":
            options = DecodingOptions(decoder="beam", beam=3, extra_length=extra_length)
        elif name != "greedy":
            options = DecodingOptions(
                decoder="blockwise", block_size=4, acceptance=name, extra_length=extra_length
            )
        with torch.inference_mode():
            decoder = model.model if options.decoder == "blockwise" else model.network
            assert decode(decoder, source, options, model.drafter).rows() == rows, name


def expected_of(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", TEXT)
def test_translation(name):
    model = read_folder(FOLDER / name)
    expected = expected_of(name)
    assert ("exact" in expected) is (model.drafter is not None)
    check(model, pad(model.codec.source.encode(SOURCES["text"])), expected, 8)


@pytest.mark.parametrize("name", ["images", "image_heads"])
def test_images(name):
    model = read_folder(FOLDER / name)
    tokens = torch.tensor(SOURCES["images"])
    check(model, TokenRows(tokens, torch.full((len(tokens),), tokens.size(1))), expected_of(name))


@pytest.mark.parametrize("name", ["llama_heads", "llama_joint"])
def test_hugging_face(name):
    pytest.importorskip("transformers")
    base = f"hf:{FOLDER / 'llama'}" if name == "llama_heads" else None
    model = read_folder(FOLDER / name, base)
    check(model, pad(model.codec.source.encode(SOURCES["text"])), expected_of(name), 8)
