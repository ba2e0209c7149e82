"""References that are stored and read again, bases that move, and what is said of models that are not to be had."""

import json
import shutil
from types import SimpleNamespace

import pytest
import small_models
import transformers
from huggingface_hub import errors
from test_model_training import data, fitted, module, trainer

from lightning_bpd import load
from lightning_bpd.adapters import Reference, load_config, load_generation, load_tokenizer, parse_reference
from lightning_bpd.codecs.hugging_face import base_reference, open_codec
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved import finished_model
from lightning_bpd.saved.finished_model import read_base, read_checkpoint
from lightning_bpd.saved.translation import load_checkpoint
from lightning_bpd.training import FrozenBaseHeadDistillation, JointFineTuning


@pytest.mark.parametrize("name", ["a,b", "lr=1,dtype=bfloat16", ",", "a,", "a,,b", "some/model"])
@pytest.mark.parametrize("eos", [None, "<|im_end|>", ",", "a,b"])
def test_names_and_tokens_with_commas_survive(name, eos):
    for reference in (Reference(name, eos=eos), Reference(name, eos=eos, dtype="bfloat16", longest_prompt=3)):
        assert parse_reference(str(reference)) == reference


def test_a_lonely_comma_is_explained():
    with pytest.raises(InputError, match=r"'b' is not an option .* write a comma in a folder's name twice"):
        parse_reference("hf:a,b")


def test_options_of_a_base_that_moved():
    stored = parse_reference("hf:old,src_lang=en_XX,dtype=bfloat16,plain=true")
    moved = parse_reference("hf:new,dtype=float32", stored)
    assert moved == Reference("new", src_lang="en_XX", dtype="float32", plain=True)


def test_a_stored_reference_gives_a_moved_base_its_options_but_no_leave_to_run_code(tmp_path):
    base = {"hugging_face": "hf:base,dtype=bfloat16,trust_remote_code=true", "inside": True}
    assert base_reference(tmp_path, {"base": base}, "hf:new") == "hf:new,dtype=bfloat16"
    trusted = base_reference(tmp_path, {"base": base}, "hf:new,trust_remote_code=true")
    assert parse_reference(trusted) == Reference("new", dtype="bfloat16", trust_remote_code=True)


def test_heads_find_a_base_of_many_options_where_it_was_and_where_it_is(corpus, tmp_path):
    folder = small_models.nllb(tmp_path / "lr=1,k=2")
    base = str(Reference(str(folder), "eng_Latn", "deu_Latn", dtype="float64"))
    _, _, finished = fitted(FrozenBaseHeadDistillation, corpus, base, tmp_path)
    assert f"base_model: {folder}\n" in (finished / "README.md").read_text()
    before = load(finished)
    assert before.origin == base
    moved = folder.rename(tmp_path / "moved")
    for parts in (load(finished, base=f"hf:{moved}"), read_checkpoint(tmp_path / "a.ckpt", f"hf:{moved}")):
        assert parse_reference(parts.origin) == Reference(str(moved), "eng_Latn", "deu_Latn", dtype="float64")
        assert parts.network.bos_id == before.network.bos_id
    # What is given counts: other languages are another tokenizer.
    with pytest.raises(InputError, match="was trained with another source tokenizer"):
        load(finished, base=f"hf:{moved},src_lang=deu_Latn")


def test_a_frozen_base_is_hashed_once_a_run(corpus, t5, tmp_path, monkeypatch):
    trained = module(FrozenBaseHeadDistillation, f"hf:{t5}")
    loop = trainer(default_root_dir=tmp_path, max_steps=1, limit_val_batches=0)
    loop.fit(trained, datamodule=data(corpus, f"hf:{t5}"))
    with monkeypatch.context() as patch:
        patch.setattr(finished_model, "fingerprint", lambda network: pytest.fail("hashed again"))
        loop.save_checkpoint(tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt").heads is not None


REFUSAL = SimpleNamespace(headers={}, request=None)


# transformers raises an OSError of its own from each of them.
@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (errors.GatedRepoError("x", response=REFUSAL), "gives this model on request only: ask for it"),
        (
            errors.RepositoryNotFoundError("x", response=REFUSAL),
            "no such folder, and no such model in the local cache or on the hub",
        ),
        (errors.HfHubHTTPError("x", response=REFUSAL), "the hub does not give it: An error: 500 of the hub$"),
        (errors.LocalEntryNotFoundError("x"), r"cannot be reached \(HF_HUB_OFFLINE is set\): name a folder"),
    ],
)
def test_why_a_model_of_the_hub_is_not_to_be_had(cause, message, monkeypatch):
    def fail(*args, **options):
        raise OSError("An error:\n500 of the hub") from cause

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    with pytest.raises(InputError, match=rf"^some/model: .*{message}") as found:
        read_base("hf:some/model")
    assert found.value.__cause__.__cause__ is cause


def test_without_a_network():
    with pytest.raises(InputError, match=r"some/model: no such folder, .* the hub cannot be reached"):
        read_base("hf:some/model")


def test_what_a_model_of_the_hub_lacks_is_said(monkeypatch):
    def fail(*args, **options):
        raise OSError("some/model does not appear to have a file named config.json.\nLook there")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    with pytest.raises(
        InputError, match="hf:some/model cannot be loaded: some/model does not appear to have"
    ):
        read_base("hf:some/model")


@pytest.mark.parametrize("content", ["{", "[]", "\x00", '{"watermarking_config": {"colour": "red"}}'])
def test_a_damaged_generation_config(t5, tmp_path, content):
    folder = shutil.copytree(t5, tmp_path / "copy")
    (folder / "generation_config.json").write_text(content)
    for read in (read_base, open_codec):
        with pytest.raises(InputError, match=r"hf:.*copy cannot be loaded: "):
            read(f"hf:{folder}")
    # None is needed.
    (folder / "generation_config.json").unlink()
    assert read_base(f"hf:{folder}").network.eos_id == 1


def test_a_model_of_the_hub_without_a_generation_config(t5, monkeypatch, caplog):
    known = Reference(str(t5))
    config, tokenizer = load_config(known), load_tokenizer(known)
    own = transformers.GenerationConfig.from_pretrained

    def read(message, cause=None):
        def fail(name, config_file_name=None, **options):
            if config_file_name == "config.json":
                return own(t5, config_file_name, **options)
            raise OSError(message) from cause

        monkeypatch.setattr(transformers.GenerationConfig, "from_pretrained", fail)
        return load_generation(Reference("some/model"), config, tokenizer)

    lacking = "some/model does not appear to have a file named generation_config.json. Look there"
    assert read(lacking).eos_token_id == 1
    assert not caplog.records
    assert read("We couldn't connect", errors.LocalEntryNotFoundError("x")).eos_token_id == 1
    assert "there is no generation_config.json in the local cache" in caplog.text
    with pytest.raises(InputError, match="hf:some/model cannot be loaded: It looks like"):
        read("It looks like the config file is not a valid JSON file.")
    with pytest.raises(InputError, match="gives this model on request only"):
        read("You are trying to access a gated repo.", errors.GatedRepoError("x", response=REFUSAL))


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class Config(LlamaConfig):
    model_type = "own"

class Model(LlamaForCausalLM):
    config_class = Config
"""


def test_a_base_with_code_of_its_own_is_trained_as_it_is_alone(corpus, llama, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = shutil.copytree(llama, tmp_path / "own")
    (folder / "own.py").write_text(OWN_CODE)
    config = json.loads((folder / "config.json").read_text())
    maps = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": maps}))
    base = f"hf:{folder},trust_remote_code=true"
    with pytest.raises(InputError, match=r"needs code of its own \(Model, Config\), so a model trained"):
        module(JointFineTuning, base)
    trained = module(FrozenBaseHeadDistillation, base)
    loop = trainer(default_root_dir=tmp_path, max_steps=1, limit_val_batches=0)
    loop.fit(trained, datamodule=data(corpus, base))
    loop.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="comes with code of its own, which is not run"):
        read_checkpoint(tmp_path / "a.ckpt")
    load_checkpoint(tmp_path / "a.ckpt", base=base).save(tmp_path / "model", {})
    with pytest.raises(InputError, match="comes with code of its own, which is not run"):
        load(tmp_path / "model")
    assert parse_reference(load(tmp_path / "model", base=base).origin) == parse_reference(base)
    # What needs none may be trusted without harm.
    assert module(JointFineTuning, f"hf:{llama},trust_remote_code=true").network is not None
