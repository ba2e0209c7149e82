"""Finished models that version 0.1 wrote load, and give the tokens that version 0.1 decoded.

``tests/data/version_0_1/make.py`` wrote both with the code of version 0.1 (commit 9df4342): models with random weights
by fixed seeds, saved by its own ``write_folder`` and decoded greedily, by beam search and by blocks of 4. The README
beside it says what each model is, and how to run the script.
"""

import json
from pathlib import Path

import pytest
import torch

import lightning_bpd
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.interfaces import TokenRows
from lightning_bpd.saved.finished_model import read_folder

FOLDER = Path(__file__).parents[1] / "data" / "version_0_1"
HEADS = ("per_head", "dense", "first_head", "candidates", "marian")


def stored(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def options(rule):
    if rule == "greedy":
        return DecodingOptions(extra_length=8)
    if rule == "beam":
        return DecodingOptions(decoder="beam", beam=3, extra_length=8)
    return DecodingOptions(decoder="blockwise", block_size=4, acceptance=rule, extra_length=8)


def check(model, batches, expected, rules):
    """Demand the tokens of each rule, and the accepted block sizes of the exact rule."""
    assert set(expected) - {"lines", "accepted"} == set(rules)
    for rule in rules:
        rows, accepted = {}, {}
        for places, source in batches:
            with torch.inference_mode():
                result = model.decode(source, options(rule), torch.tensor(list(places)))
            rows |= dict(zip(places, result.rows(), strict=True))
            if result.accepted is not None:
                sizes = [[size for size in row if size] for row in result.accepted.tolist()]
                accepted |= dict(zip(places, sizes, strict=True))
        assert [rows[place] for place in sorted(rows)] == expected[rule], rule
        if rule == "exact":
            assert [accepted[place] for place in sorted(accepted)] == expected["accepted"]


def check_text(name, base=None):
    model = lightning_bpd.load(FOLDER / name, base=base)
    rules = ["greedy", "beam"] if model.heads is None else ["greedy", "beam", "exact", "top-2"]
    lines, expected = stored("lines"), stored(name)
    check(model, list(model.batches(lines, 64)), expected, rules)
    assert model.translate(lines, extra_length=8) == expected["lines"]
    return model


@pytest.mark.parametrize("name", ["joint_tokenizer", "learned_positions"])
def test_translation(name):
    assert check_text(name).heads is None


@pytest.mark.parametrize("name", HEADS)
def test_translation_with_block_heads(name):
    assert check_text(name).block_size == 4


@pytest.mark.parametrize(
    ("name", "rules"), [("images", ["greedy"]), ("image_heads", ["greedy", "exact", "distance-1"])]
)
def test_images(name, rules):
    tokens = torch.tensor(stored(f"{name}_sources"))
    source = TokenRows(tokens, torch.full((len(tokens),), tokens.size(1)))
    check(read_folder(FOLDER / name).to("cpu"), [(range(len(tokens)), source)], stored(name), rules)


@pytest.mark.parametrize(
    ("name", "base"), [("llama_heads", "llama"), ("t5_heads", "t5"), ("llama_joint", None)]
)
def test_hugging_face(name, base):
    pytest.importorskip("transformers")
    assert check_text(name, base and f"hf:{FOLDER / base}").block_size == 4


@pytest.mark.parametrize("name", [*HEADS, "image_heads"])
def test_written_again_by_this_version(name, tmp_path):
    """A model of version 0.1 that this version writes is still the same model."""
    model = read_folder(FOLDER / name)
    model.save(tmp_path / "model", {})
    again = read_folder(tmp_path / "model")
    for part in ("network", "heads"):
        old, new = (getattr(each, part).state_dict() for each in (model, again))
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old)
    assert model.codec.parts() == again.codec.parts()
    assert model.heads.shape == again.heads.shape
