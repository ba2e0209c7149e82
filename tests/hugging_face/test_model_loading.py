"""From hf:NAME_OR_FOLDER to a network and its tokens: what rows are, and what is refused."""

import json
import pickle
import shutil

import pytest
import small_models
import torch
import transformers
from small_models import pairs

from lightning_bpd.adapters import parse_reference
from lightning_bpd.adapters.cache import cache_name
from lightning_bpd.adapters.generation import warn_once
from lightning_bpd.codecs.hugging_face import HuggingFaceCodec, base_reference, open_codec, open_network
from lightning_bpd.codecs.tokenizers import whole_row
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.finished_model import read_base

LINES, TARGETS = map(list, zip(*pairs(7, seed=8), strict=True))
LANGUAGES = {"nllb": ("eng_Latn", "deu_Latn"), "mbart": ("en_XX", "de_DE")}


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_goes_by_the_name_that_the_code_of_a_base_has(name):
    stack = torch.nn.Module()
    exec(f"def forward(input_ids, {name}=None, use_cache=False): ...", made := {})
    stack.forward = made["forward"]
    assert cache_name(stack) == name


def rows(side, lines):
    return [whole_row(side, tokens, 1000) for tokens in side.encode(lines)]


@pytest.mark.parametrize("family", ["marian", "t5", "nllb", "mbart", "gpt2", "llama"])
def test_rows_are_those_of_the_models_own_tokenizer(family, tmp_path):
    make = getattr(small_models, family, None)
    folder = make(tmp_path / family) if make else small_models.causal(tmp_path / family, family)
    languages = dict(zip(("src_lang", "tgt_lang"), LANGUAGES.get(family, ()), strict=False))
    reference = ",".join([f"hf:{folder}", *(f"{name}={code}" for name, code in languages.items())])
    base = read_base(reference)
    network, codec = base.network, base.codec
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **languages)
    assert rows(codec.source, LINES) == tokenizer(LINES).input_ids
    labels = tokenizer(text_target=TARGETS, add_special_tokens=False).input_ids
    assert rows(codec.target, TARGETS) == [[*row, network.eos_id] for row in labels]
    assert codec.decode(labels) == TARGETS
    # An empty line has no tokens of its own; a row of nothing but padding has no text.
    assert codec.source.encode(["", "a", ""])[::2] == [[], []]
    assert codec.decode([[], [network.eos_id]]) == ["", ""]
    # A row that is too long keeps what stands around its text.
    cut = whole_row(codec.source, codec.source.encode(LINES)[0], 4)
    assert len(cut) == 4
    assert cut[4 - len(codec.source.suffix) :] == codec.source.suffix
    # What comes first: the start token or, where there is one, the language behind it.
    if family == "nllb":
        assert (network.bos_id, network.prefix) == (tokenizer.convert_tokens_to_ids("deu_Latn"), [2])
    if family == "mbart":
        assert (network.bos_id, network.prefix) == (tokenizer.convert_tokens_to_ids("de_DE"), [])
    stored = pickle.loads(pickle.dumps(codec.describe()))
    again = HuggingFaceCodec.from_description(stored)
    assert again.parts() == codec.parts() == open_codec(reference).parts()
    assert rows(again.target, TARGETS) == rows(codec.target, TARGETS)


def test_pieces_are_what_each_token_adds(t5):
    codec = open_codec(f"hf:{t5}")
    (row,) = rows(codec.target, ["Ein Hund."])
    assert "".join(codec.pieces([], row)) == "Ein▁Hund.</s>"


def test_weights_are_of_the_type_that_is_asked_for(t5):
    for name in ("float32", "bfloat16", "float64"):
        network = read_base(f"hf:{t5},dtype={name}").network
        assert network.output_weight.dtype == getattr(torch, name)
        assert not network.model.training


def test_references():
    text = "hf:some/model,src_lang=en_XX,dtype=bfloat16,longest_prompt=20,plain=True,trust_remote_code=True"
    assert str(parse_reference(text)) == text
    for wrong, message in (
        ("hf:", "names no model"),
        ("hf:x,colour=red", "'colour=red' is not an option of a model: choose from dtype"),
        ("hf:x,dtype=int8", "unknown dtype 'int8'"),
        ("hf:x,longest_prompt=many", "longest_prompt must be a number of tokens"),
        ("hf:x,trust_remote_code=perhaps", "trust_remote_code must be true or false"),
    ):
        with pytest.raises(InputError, match=message):
            parse_reference(wrong)


def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder, and no such model in the local cache"):
        read_base(f"hf:{tmp_path}/nowhere")
    with pytest.raises(InputError, match=r"holds no Hugging Face model \(no config.json\)"):
        read_base(f"hf:{tmp_path}")


def test_weights_that_are_not_there(t5, tmp_path):
    folder = copy(t5, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds its weights as pickles only \(\*.bin\).*save_pretrained"):
        read_base(f"hf:{folder}")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"holds a config.json but no weights"):
        read_base(f"hf:{folder}")


def test_weights_of_which_some_are_missing_or_damaged(t5, tmp_path):
    folder = copy(t5, tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_layers": 2, "num_decoder_layers": 2}))
    with pytest.raises(InputError, match=r"the weights of hf:.* are incomplete, \d+ are missing: "):
        read_base(f"hf:{folder}")
    path.write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"cannot be loaded"):
        read_base(f"hf:{folder}")


def test_a_tokenizer_of_more_tokens_than_the_model_knows(t5, tmp_path):
    folder = copy(t5, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"word{number}" for number in range(16)])
    tokenizer.save_pretrained(folder)
    read_base(f"hf:{folder}")  # models have padded embeddings: 416 rows for 416 tokens
    tokenizer.add_tokens(["one more"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match=r"has 417 tokens and the model knows 416: they do not belong"):
        read_base(f"hf:{folder}")


def test_code_of_the_model_is_not_run(t5, tmp_path):
    folder = copy(t5, tmp_path)
    (folder / "own.py").write_text("raise SystemExit('was run')\n")
    config = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"comes with code of its own, which is not run: .*trust_remote_code=true"
    ):
        read_base(f"hf:{folder}")


def test_no_file_gives_leave_to_run_code(tmp_path):
    """A finished model that somebody hands over names its base, and says that its code is to be trusted."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "own.py").write_text("raise SystemExit('was run')\n")
    maps = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": maps}))
    for name, inside in ((str(folder), False), ("base", True)):
        base = {"hugging_face": f"hf:{name},trust_remote_code=true", "inside": inside}
        reference = base_reference(tmp_path, {"base": base})
        assert "trust_remote_code" not in reference
        with pytest.raises(InputError, match="comes with code of its own, which is not run"):
            open_network(reference)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "is a multilingual model: name its languages"),
        (",src_lang=eng_Latn", "is a multilingual model: name its languages"),
        (",src_lang=en,tgt_lang=deu_Latn", "knows no language 'en'"),
    ],
)
def test_languages_that_are_not_named(options, message, tmp_path):
    folder = small_models.nllb(tmp_path / "nllb")
    with pytest.raises(InputError, match=message):
        read_base(f"hf:{folder}{options}")


def test_languages_where_there_are_none(t5):
    with pytest.raises(InputError, match="its tokenizer knows no src_lang: leave it out"):
        read_base(f"hf:{t5},src_lang=en")


def test_several_end_tokens(llama, tmp_path):
    folder = copy(llama, tmp_path)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"eos_token_id": [1, 5]}))
    base = read_base(f"hf:{folder}")
    network, codec = base.network, base.codec
    assert network.eos_id == codec.target.eos_id == 1, "the tokenizer's own"
    path.write_text(json.dumps(settings | {"eos_token_id": [4, 5]}))
    with pytest.raises(InputError, match=r"end tokens"):
        read_base(f"hf:{folder}")


def test_rules_of_generation_that_cannot_be_kept(t5, tmp_path):
    folder = copy(t5, tmp_path)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"no_repeat_ngram_size": 3, "bad_words_ids": [[5, 6], [7]]}))
    with pytest.raises(InputError, match=r"generates with no_repeat_ngram_size = 3.*,plain=true"):
        read_base(f"hf:{folder}")
    assert read_base(f"hf:{folder},plain=true").network.suppressed == [7]


def test_a_family_that_no_test_covers_is_said_to_be_untested(tmp_path, llama, caplog):
    with caplog.at_level("WARNING"):
        open_network(f"hf:{llama}")
        assert "untested" not in caplog.text
        warn_once.cache_clear()
        other = small_models.causal(tmp_path / "other", "stablelm", head_dim=8)
        network = open_network(f"hf:{other}")
    assert not network.tested
    assert caplog.text.count("StableLmForCausalLM (stablelm) is of an untested family") == 1
