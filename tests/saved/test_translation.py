"""Finished models: what a folder must hold, and translating any text at all."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd import load
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.translation import Translator, load_checkpoint

LINES = ["the old man buys a house", "a dog sleeps in the garden", "where is the red book ?"] * 20
TOKENIZER = train_tokenizer(LINES, vocab_size=300)
OTHER = train_tokenizer(LINES, vocab_size=310)


def translator(source=TOKENIZER, target=TOKENIZER, **options) -> Translator:
    torch.manual_seed(0)
    shape = {"d_model": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 16}
    architecture = Architecture(**{**shape, "tie": "output", **options})
    network = EncoderDecoder(architecture, source.vocab_size, target.vocab_size, target.bos_id, target.eos_id)
    return Translator(network.double(), TextCodec(source, target))


MODEL = translator()


@given(st.lists(st.text(max_size=30), max_size=12), st.integers(1, 5), st.sampled_from(["greedy", "beam"]))
@settings(max_examples=25, deadline=None)
def test_each_line_is_translated_as_if_it_were_alone(lines, batch_size, decoder):
    together = MODEL.translate(lines, decoder, batch_size, beam=2, extra_length=3)
    assert together == [MODEL.translate([line], decoder, beam=2, extra_length=3)[0] for line in lines]
    assert all(output == "" for line, output in zip(lines, together, strict=True) if not line.strip())
    assert not any("\n" in output for output in together)


def test_progress_counts_every_line_once():
    seen = []
    MODEL.translate([*LINES[:7], "", " "], batch_size=3, extra_length=1, progress=seen.append)
    assert sum(seen) == 9


def test_long_lines_are_cut_with_a_warning(caplog):
    long = "garden " * 3000
    for model in (MODEL, translator(positions="learned", max_length=40)):
        caplog.clear()
        (output,) = model.translate([long], extra_length=5, max_source_length=64)
        assert isinstance(output, str)
        assert "1 lines were cut to" in caplog.text


def test_wrong_use_says_what_to_do():
    with pytest.raises(
        InputError, match="unknown decoder 'sampling': choose greedy, beam, blockwise or jacobi"
    ):
        MODEL.translate(["a"], decoder="sampling")
    with pytest.raises(InputError, match="batch_size must be at least 1, not 0"):
        MODEL.translate(["a"], batch_size=0)
    with pytest.raises(
        InputError, match="the target tokenizer has 310 pieces and the model 300 target tokens"
    ):
        Translator(MODEL.network, TextCodec(TOKENIZER, OTHER))


@pytest.mark.parametrize("target", [TOKENIZER, OTHER], ids=["joint", "separate"])
def test_a_saved_model_translates_alike_and_can_be_replaced(tmp_path, target):
    model = translator(target=target)
    model.network.float()
    expected = model.translate(LINES[:3], extra_length=5)
    model.save(tmp_path / "model", {"bleu": 1})
    model.save(tmp_path / "model", {"bleu": 2})
    assert load(tmp_path / "model").translate(LINES[:3], extra_length=5) == expected
    assert json.loads((tmp_path / "model" / "metrics.json").read_text()) == {"bleu": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_folders_that_are_no_finished_model(tmp_path):
    with pytest.raises(InputError, match="holds no finished model"):
        load(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no finished model"):
        MODEL.save(tmp_path, {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "is damaged"),
        ("config.json", b'{"format": 99}', "is of format 99 and this version reads 1"),
        ("config.json", b"{}", "is damaged"),
        ("model.safetensors", b"nothing", "is damaged"),
        ("tokenizer.model", b"nothing", "tokenizer.model"),
    ],
)
def test_damaged_models_are_refused(tmp_path, name, content, message):
    MODEL.save(tmp_path / "model", {})
    (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "model")


def test_weights_of_another_shape_are_refused(tmp_path):
    MODEL.save(tmp_path / "model", {})
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["network"]["architecture"]["feed_forward"] = 32
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="do not fit its own configuration"):
        load(tmp_path / "model")


@pytest.mark.parametrize("name", [["13a"], 13, None])
def test_a_tokenizer_of_bleu_that_is_no_name_is_refused(tmp_path, name):
    MODEL.save(tmp_path / "model", {})
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bleu_tokenizer": name}))
    with pytest.raises(InputError, match="is damaged"):
        load(tmp_path / "model")


def test_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="there is no such checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    for name in ("text.ckpt", "foreign.ckpt"):
        with pytest.raises(InputError, match="is not a checkpoint of a model"):
            load_checkpoint(tmp_path / name)
