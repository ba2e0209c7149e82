"""Names in a Hugging Face folder, in a checkpoint and in a finished model that would become paths."""

import json
import shutil

import pytest
from strange_names import NO_TEXT, STRANGE

from lightning_bpd.adapters import parse_reference, tokenizer_files, tokenizer_of_files
from lightning_bpd.codecs.hugging_face import open_codec
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.finished_model import GenerativeModel, read_base, read_folder

INSIDE = "does not lead to a file inside it"


@pytest.mark.parametrize("name", STRANGE + NO_TEXT[:2])
def test_files_of_weights_that_an_index_names(t5, tmp_path, name):
    folder = shutil.copytree(t5, tmp_path / "model")
    shutil.move(folder / "model.safetensors", tmp_path / "x.png")
    index = {"metadata": {"total_size": 1}, "weight_map": {"shared.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=INSIDE):
        read_base(f"hf:{folder}")


@pytest.mark.parametrize("name", [name for name in STRANGE if name])
def test_templates_become_files(llama, tmp_path, name):
    folder = shutil.copytree(llama, tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    templates = [{"name": each, "template": "{{ messages }}"} for each in ("default", name)]
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": templates}))
    with pytest.raises(InputError, match=INSIDE):
        open_codec(f"hf:{folder}")


@pytest.mark.parametrize("name", STRANGE)
def test_tokenizer_files_in_a_checkpoint(t5, name):
    codec = open_codec(f"hf:{t5}")
    files = tokenizer_files(codec.source.tokenizer)
    with pytest.raises(InputError, match=INSIDE):
        tokenizer_of_files({**files, name: b"x"}, codec.source.settings)


def test_a_base_inside_a_finished_model(t5, tmp_path):
    base = read_base(f"hf:{t5}")
    network, codec = base.network, base.codec
    GenerativeModel(network, codec).save(tmp_path / "model", {})
    assert read_folder(tmp_path / "model").codec.parts() == codec.parts()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["base"]["inside"]
    for name in STRANGE[:15]:
        config["base"]["hugging_face"] = str(parse_reference(f"hf:{name}"))
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=INSIDE):
            read_folder(tmp_path / "model")
