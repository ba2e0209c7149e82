"""Settings of the model's own files under generate: what a call overrides, end tokens, and where they are read from."""

import json
import shutil

import pytest
import torch
from test_generate import GREEDY, bart, finished, kind_of

import lightning_bpd
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.finished_model import read_base

PROMPTS = torch.randint(4, 300, (2, 6), generator=torch.Generator().manual_seed(0))


def copied(folder, tmp_path, name="generation_config.json", **settings):
    """A copy of a model with other settings in one of its files."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(content | settings))
    return copy


def same(model, blocks, **settings):
    given = {"attention_mask": torch.ones_like(PROMPTS), "max_new_tokens": 8, **GREEDY, **settings}
    found = model.generate(PROMPTS, **given, custom_generate=blocks)
    return torch.equal(found, model.generate(PROMPTS, **given))


def test_settings_of_the_file_that_a_call_overrides(tmp_path):
    folder = copied(bart(tmp_path / "bart"), tmp_path, no_repeat_ngram_size=2, bad_words_ids=[[5, 6], [7]])
    with pytest.raises(InputError, match=r"generates with no_repeat_ngram_size = 2"):
        read_base(f"hf:{folder}")
    heads = finished(tmp_path / "finished", f"hf:{folder},plain=true")
    model = kind_of("bart").from_pretrained(folder)
    blocks = lightning_bpd.blockwise(heads, model)
    with pytest.raises(InputError, match="asked for NoRepeatNGramLogitsProcessor"):
        same(model, blocks)
    with pytest.raises(InputError, match="asked for NoBadWordsLogitsProcessor"):
        same(model, blocks, no_repeat_ngram_size=0)
    for words in ([[7]], [[8], [9]]):
        assert same(model, blocks, no_repeat_ngram_size=0, bad_words_ids=words)


def test_a_forced_first_token_of_prompts_is_passed_over_as_generate_does(llama, tmp_path):
    heads = finished(tmp_path / "finished", f"hf:{llama}")
    model = kind_of("llama").from_pretrained(llama)
    model.generation_config.forced_bos_token_id = 9
    assert same(model, lightning_bpd.blockwise(heads, model))


@pytest.mark.parametrize("tokens", [[-1], [400], [7, 5000]])
def test_tokens_outside_the_vocabulary_are_passed_over(llama, tmp_path, tokens):
    folder = copied(llama, tmp_path, suppress_tokens=tokens)
    heads = finished(tmp_path / "finished", f"hf:{folder}")
    model = kind_of("llama").from_pretrained(folder)
    assert same(model, lightning_bpd.blockwise(heads, model))
    model.generation_config.suppress_tokens = None
    assert same(model, lightning_bpd.blockwise(heads, model), suppress_tokens=tokens)
    loaded = lightning_bpd.load(heads)
    lines = ["Well", "a dog and a cat"]
    assert loaded.translate(lines, "blockwise") == loaded.translate(lines)


def test_all_end_tokens_of_the_model_end_rows_of_generate(llama, tmp_path):
    given = {"attention_mask": torch.ones_like(PROMPTS), "max_new_tokens": 12, "pad_token_id": 0, **GREEDY}
    model = kind_of("llama").from_pretrained(llama)
    plain = model.generate(PROMPTS, **given)
    ends = [1, int(plain[0, 9])]
    folder = copied(llama, tmp_path, eos_token_id=ends)
    expected = kind_of("llama").from_pretrained(folder).generate(PROMPTS, **given)
    assert not torch.equal(expected, plain)
    loaded = lightning_bpd.load(finished(tmp_path / "finished", f"hf:{folder}"))
    assert (loaded.network.eos_id, loaded.network.ends) == (1, set(ends))
    assert torch.equal(loaded.generate(PROMPTS, **given), expected)
    # Unless a call names others.
    assert torch.equal(loaded.generate(PROMPTS, **given, eos_token_id=1), plain)
    config = model.generation_config
    assert torch.equal(loaded.generate(PROMPTS, **given, generation_config=config), plain)
    assert config.max_new_tokens is None
    # A token that was named ends rows too, and one that was trained alone.
    named = read_base(f"hf:{folder},eos=<unk>").network
    assert (named.eos_id, named.ends) == (3, {*ends, 3})
    lightning_bpd.load(f"hf:{folder}").save(tmp_path / "again", {})
    assert lightning_bpd.load(tmp_path / "again").network.ends == set(ends)


def test_words_that_config_json_alone_forbids(marian, tmp_path):
    rules = json.loads((marian / "generation_config.json").read_text())
    folder = copied(
        marian, tmp_path, "config.json", bad_words_ids=[*rules["bad_words_ids"], [9]], num_beams=6
    )
    (folder / "generation_config.json").unlink()
    network = read_base(f"hf:{folder}").network
    assert network.suppressed == [9, rules["bad_words_ids"][0][0]]
    heads = finished(tmp_path / "finished", f"hf:{folder}")
    model = kind_of("marian").from_pretrained(folder)
    blocks = lightning_bpd.blockwise(heads, model)
    expected = model.generate(PROMPTS, **GREEDY, max_new_tokens=8)
    assert torch.equal(model.generate(PROMPTS, **GREEDY, max_new_tokens=8, custom_generate=blocks), expected)
    assert torch.equal(lightning_bpd.load(heads).generate(PROMPTS, max_new_tokens=8), expected)


def test_rules_that_config_json_alone_holds(tmp_path):
    folder = bart(tmp_path / "bart")
    path = folder / "config.json"
    rules = {"forced_bos_token_id": 2, "no_repeat_ngram_size": 3, "num_beams": 4, "early_stopping": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | rules))
    (folder / "generation_config.json").unlink()
    with pytest.raises(InputError, match=r"generates with no_repeat_ngram_size = 3"):
        read_base(f"hf:{folder}")
    network = read_base(f"hf:{folder},plain=true").network
    assert (network.bos_id, network.prefix) == (2, [1])
