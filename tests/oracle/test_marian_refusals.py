"""Marian folders that cannot be converted: each is refused in words that name what is wrong."""

import json
import shutil

import pytest
import torch

pytest.importorskip("transformers")
from marian_folders import change, write_marian
from safetensors.torch import load_file, save_file

from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.marian import read_marian


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    write_marian(folder)
    return folder


def without(*names):
    def spoil(folder):
        for name in names:
            (folder / name).unlink()

    return spoil


def setting(file="config.json", **settings):
    return lambda folder: change(folder / file, **settings)


def pickled(content):
    def spoil(folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin").write_bytes(content)

    return spoil


def weights(edit):
    def spoil(folder):
        stored = load_file(folder / "model.safetensors")
        edit(stored)
        save_file(stored, folder / "model.safetensors")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("config.json"), "holds no Marian model"),
        (setting(model_type="bart"), "its model_type is bart"),
        (setting(is_encoder_decoder=False), "holds no Marian translation model"),
        (without("model.safetensors"), "neither model.safetensors nor pytorch_model.bin"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"1" * 50), "its weights file is damaged"),
        *(
            (pickled(content), "its weights file is damaged")
            for content in (b"", b"PK", b"\x80\x02N.", b"<html>")
        ),
        (without("source.spm"), "source.spm cannot be read"),
        (without("vocab.json"), "vocab.json cannot be read"),
        (
            lambda folder: (folder / "target.spm").write_bytes(b"none"),
            "target.spm with vocab.json: not a Sent",
        ),
        (lambda folder: (folder / "source.spm").write_bytes(b""), "source.spm with vocab.json: not a Sent"),
        (setting("vocab.json", more=5), "pieces are not 0 to"),
        (setting("vocab.json", **{"<unk>": None}), "ids of its"),
        (setting("vocab.json", **{"<unk>": 1.0}), "ids of its .* each once and a whole number"),
        (setting("vocab.json", **{"<unk>": True}), "ids of its"),
        (setting("vocab.json", **{"<unk>": [1]}), "ids of its"),
        (setting("vocab.json", **{"<unk>": 0}), "ids of its"),
        (lambda folder: (folder / "config.json").write_text("[]"), "a JSON object"),
        (setting(activation_function="gelu_new"), "activation_function is 'gelu_new'"),
        (
            setting(decoder_attention_heads=4),
            "its encoder_attention_heads is 2 and its decoder_attention_heads 4",
        ),
        (setting(decoder_ffn_dim=4), "decoder_ffn_dim 4"),
        (setting(d_model=24), "the weights in it do not fit its own configuration"),
        (setting(decoder_layers=3), "it has no model.decoder.layers.2"),
        (setting(encoder_layers=1), "weights of no known use: model.encoder.layers.1"),
        (setting("generation_config.json", no_repeat_ngram_size=3), "no_repeat_ngram_size = 3"),
        (setting("generation_config.json", bad_words_ids=[[3, 4]]), "words of several tokens"),
        (setting("generation_config.json", bad_words_ids=[3]), r"bad_words_ids \[3\]"),
        (setting("generation_config.json", bad_words_ids=[[10**6], [-1]]), r"not have .* \[1000000, -1\]"),
        (setting("generation_config.json", bad_words_ids=[["x"]]), r"\['x'\]\): there are 0 to \d+"),
        (setting("generation_config.json", suppress_tokens=[-1]), r"not have .* \[-1\]"),
        (
            setting("generation_config.json", decoder_start_token_id=7),
            r"rows start with token 7 in the model and \d+ in the target",
        ),
        (setting("generation_config.json", eos_token_id=[0, 5]), r"its eos_token_id is \[0, 5\]"),
        (setting("generation_config.json", eos_token_id=5), "rows end with token 5 in the model and 0"),
        (setting("tokenizer_config.json", sp_model_kwargs={"alpha": 1}), "sp_model_kwargs"),
        (
            setting("tokenizer_config.json", added_tokens_decoder={"1": {"content": "<x>"}}),
            r"added tokens \['<x>'\]",
        ),
        (setting("vocab.json", more=10**6), "ids of its"),
        (
            weights(lambda stored: stored.update({"lm_head.weight": stored["model.shared.weight"] + 1})),
            "stored as two",
        ),
        (
            weights(
                lambda stored: stored.update({"model.encoder.embed_positions.weight": torch.ones(9, 16)})
            ),
            "not Marian's sines and cosines",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused(whole, tmp_path, spoil, message):
    folder = tmp_path / "spoiled"
    shutil.copytree(whole, folder)
    spoil(folder)
    with pytest.raises(InputError, match=message) as error:
        read_marian(folder)
    assert str(folder) in str(error.value)


def test_another_models_tokenizer_is_refused(whole, tmp_path):
    folder = tmp_path / "spoiled"
    shutil.copytree(whole, folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"more": len(vocabulary)}))
    with pytest.raises(InputError, match=r"the source vocabulary has \d+ pieces and the model \d+ tokens"):
        read_marian(folder)
