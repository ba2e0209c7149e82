"""What generation_config and tokenizers say: sampling, several end tokens, languages, tokens that never come."""

import copy
import dataclasses
import json
import logging
import os
import shutil
from types import SimpleNamespace

import pytest
import small_models
import torch
import transformers
from proposed import proposed
from small_models import pairs
from test_model_training import EXTRA, data, fitted, module, trainer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_bpd import load
from lightning_bpd.adapters import Reference, generation, load_tokenizer
from lightning_bpd.codecs.hugging_face import make_codec, open_codec
from lightning_bpd.drafters import BlockHeads, HeadDrafter, HeadShape, head_losses
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.saved.finished_model import CHECKPOINT_KEY, read_base
from lightning_bpd.saved.translation import load_checkpoint
from lightning_bpd.training import FrozenBaseHeadDistillation, JointFineTuning

LINES = [source for source, _ in pairs(7, seed=8)]
CHAT_SETTINGS = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20}
BEAM_SETTINGS = {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0, "num_return_sequences": 2}


def changed(folder, tmp_path, **settings):
    """A copy of a model that generates by other settings."""
    copy = shutil.copytree(folder, tmp_path / "changed")
    path = copy / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return copy


@pytest.mark.parametrize(
    "settings",
    [CHAT_SETTINGS, BEAM_SETTINGS, {"temperature": 0.6, "early_stopping": True, "output_scores": True}],
)
def test_a_base_that_samples_or_keeps_beams_is_trained_and_written(corpus, t5, tmp_path, settings):
    base = changed(t5, tmp_path, **settings)
    _, _, finished = fitted(JointFineTuning, corpus, f"hf:{base}", tmp_path)
    written = json.loads((finished / "base/generation_config.json").read_text())
    assert not written.keys() & settings.keys()
    model = load(finished)
    assert model.translate(LINES, "blockwise", extra_length=EXTRA) == model.translate(
        LINES, extra_length=EXTRA
    )
    # By itself, without words on how, transformers now decodes it so too.
    own = transformers.AutoModelForSeq2SeqLM.from_pretrained(finished / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished / "base")
    inputs = tokenizer(LINES[0], return_tensors="pt")
    output = own.generate(**inputs, max_new_tokens=inputs.input_ids.size(1) + EXTRA)
    assert (
        " ".join(tokenizer.decode(output[0], skip_special_tokens=True).splitlines())
        == (model.translate(LINES[:1], extra_length=EXTRA)[0])
    )


def test_checkpoints_of_other_versions(t5, corpus, tmp_path):
    trained = module(JointFineTuning, f"hf:{t5}")
    loop = trainer(max_steps=1, limit_val_batches=0)
    loop.fit(trained, datamodule=data(corpus, f"hf:{t5}"))
    loop.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    # One of an earlier version may hold such settings still.
    checkpoint[CHECKPOINT_KEY]["network"]["hugging_face"]["generation_config"] |= {"num_return_sequences": 2}
    torch.save(checkpoint, tmp_path / "b.ckpt")
    load_checkpoint(tmp_path / "b.ckpt").save(tmp_path / "model", {})
    checkpoint[CHECKPOINT_KEY]["network"]["hugging_face"]["config"]["model_type"] = "of the future"
    torch.save(checkpoint, tmp_path / "b.ckpt")
    with pytest.raises(InputError, match=r"b.ckpt cannot be loaded: .*of the future"):
        load_checkpoint(tmp_path / "b.ckpt")


@pytest.mark.parametrize("failure", [OSError("No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    "place", ["lightning_bpd.saved.finished_model.model_card", "lightning_bpd.files._take_place"]
)
def test_a_folder_that_cannot_be_written_leaves_nothing_behind(t5, tmp_path, monkeypatch, place, failure):
    parts = read_base(f"hf:{t5}")
    parts.save(tmp_path / "model", {"number": 1})

    def fail(*args):
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(InputError if isinstance(failure, OSError) else type(failure)):
            parts.save(tmp_path / "model", {"number": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert json.loads((tmp_path / "model/metrics.json").read_text()) == {"number": 1}


def test_a_folder_whose_successor_cannot_take_its_place_stays(t5, tmp_path, monkeypatch):
    parts = read_base(f"hf:{t5}")
    parts.save(tmp_path / "model", {"number": 1})
    rename = os.rename

    def fail_to_take_the_place(old, new):
        if str(new) == str(tmp_path / "model") and not str(old).endswith(".earlier"):
            raise OSError("No space left on device")
        rename(old, new)

    with monkeypatch.context() as patch:
        # On a system that cannot exchange two folders at once.
        patch.setattr("lightning_bpd.files.ctypes.CDLL", lambda name: object())
        patch.setattr("os.rename", fail_to_take_the_place)
        with pytest.raises(InputError, match="model cannot be written as a folder: No space"):
            parts.save(tmp_path / "model", {"number": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert json.loads((tmp_path / "model/metrics.json").read_text()) == {"number": 1}


def test_a_link_to_nowhere_is_no_place_for_a_model(t5, tmp_path):
    (tmp_path / "model").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"model cannot be written as a folder: Not a directory"):
        read_base(f"hf:{t5}").save(tmp_path / "model", {})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_one_of_several_end_tokens(llama, tmp_path, caplog):
    generation.warn_once.cache_clear()
    folder = changed(llama, tmp_path, eos_token_id=[1, 5])
    name = transformers.AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(5)
    with caplog.at_level(logging.WARNING):
        parts = read_base(f"hf:{folder}")
        open_codec(f"hf:{folder}")
    assert parts.network.eos_id == parts.codec.target.eos_id == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"hf:{folder} has several end tokens, </s>, {name}: each ends a row, and training targets end with </s>; "
        f"choose another by hf:{folder},eos=TOKEN"
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        parts = read_base(f"hf:{folder},eos={name}")
    assert parts.network.eos_id == parts.codec.target.eos_id == 5
    assert not caplog.records
    # A base that was trained keeps the choice.
    dataclasses.replace(parts, origin=None).save(tmp_path / "model", {})
    assert load(tmp_path / "model").network.eos_id == 5
    assert not caplog.records
    # One that generation_config does not name may be meant too.
    assert read_base(f"hf:{folder},eos=<unk>").network.eos_id == 3
    with pytest.raises(InputError, match="its tokenizer has no token '<|im_end|>'".replace("|", r"\|")):
        read_base(f"hf:{folder},eos=<|im_end|>")
    shutil.rmtree(folder)
    folder = changed(llama, tmp_path, eos_token_id=[4, 5])
    for read in (read_base, open_codec):
        with pytest.raises(InputError, match=r"several end tokens, .*choose it by hf:.*,eos=TOKEN"):
            read(f"hf:{folder}")
    assert read_base(f"hf:{folder},eos=</s>").network.eos_id == 1


def test_no_end_token(llama, tmp_path):
    folder = changed(llama, tmp_path, eos_token_id=None)
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"has no end token, but rows need one: choose it by hf:.*,eos="):
        open_codec(f"hf:{folder}")
    with pytest.raises(InputError, match=r"no end token"):
        read_base(f"hf:{folder}")
    assert read_base(f"hf:{folder},eos=</s>").network.eos_id == 1


def test_a_configuration_that_names_no_end_token(llama):
    reference = Reference(str(llama))
    rules = transformers.GenerationConfig()
    generation.choose_end(rules, SimpleNamespace(), load_tokenizer(reference), reference)
    assert rules.eos_token_id is None


@pytest.mark.parametrize(("family", "code"), [("nllb", "deu_Latn"), ("mbart", "de_DE")])
def test_the_target_language_alone_is_not_enough(family, code, tmp_path):
    folder = getattr(small_models, family)(tmp_path / family)
    for read in (read_base, open_codec):
        with pytest.raises(InputError, match=rf"give both, src_lang=CODE,tgt_lang={code}"):
            read(f"hf:{folder},tgt_lang={code}")


@pytest.mark.parametrize(("family", "code"), [("nllb", "deu_Latn"), ("mbart", "de_DE")])
def test_stored_models_that_name_the_target_language_alone_are_read(family, code, corpus, tmp_path):
    source = {"nllb": "eng_Latn", "mbart": "en_XX"}[family]
    folder = getattr(small_models, family)(tmp_path / family)
    whole, alone = f"hf:{folder},src_lang={source},tgt_lang={code}", f"hf:{folder},tgt_lang={code}"
    _, _, finished = fitted(FrozenBaseHeadDistillation, corpus, whole, tmp_path)
    before = load(finished)
    path = finished / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": base_of(finished, alone)}))
    # Its tokenizer takes sources for the same language by default.
    after = load(finished)
    assert after.origin == alone
    assert after.translate(LINES[:2], "blockwise") == before.translate(LINES[:2], "blockwise")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    checkpoint[CHECKPOINT_KEY]["heads"]["path"] = alone
    torch.save(checkpoint, tmp_path / "b.ckpt")
    assert load_checkpoint(tmp_path / "b.ckpt").origin == alone
    # One that was trained with its heads.
    parts = read_base(whole)
    settings = dataclasses.replace(parts.codec.source.settings, src_lang=None)
    codec = make_codec(parts.codec.source.tokenizer, settings)
    dataclasses.replace(parts, codec=codec, origin=None).save(tmp_path / "joint", {})
    assert load(tmp_path / "joint").network.bos_id == before.network.bos_id


def base_of(finished, reference):
    return json.loads((finished / "config.json").read_text())["base"] | {"hugging_face": reference}


def test_what_is_written_holds_no_leave_to_run_code(t5, tmp_path):
    parts = read_base(f"hf:{t5},trust_remote_code=true")
    dataclasses.replace(parts, origin=None).save(tmp_path / "model", {})
    assert "trust" not in (tmp_path / "model/base/generation_config.json").read_text()


def test_tokens_that_are_never_generated_are_no_weights(t5, tmp_path):
    network = read_base(f"hf:{suppressing(t5, tmp_path, [7, 9, -1, 416, 10_000])}").network
    assert network.suppressed == [7, 9]
    assert network.state_dict().keys() == read_base(f"hf:{t5}").network.state_dict().keys()
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    for _ in range(20):
        averaged.update_parameters(network)
    for each in (network, averaged.module, network.double(), copy.deepcopy(network)):
        hidden = torch.zeros(2, 16, dtype=each.output_weight.dtype)
        assert torch.isinf(each.project(hidden)).nonzero().tolist() == [[0, 7], [0, 9], [1, 7], [1, 9]]
        assert torch.isinf(each.output_bias).nonzero().flatten().tolist() == [7, 9]


def suppressing(folder, tmp_path, tokens):
    return changed(folder, tmp_path, suppress_tokens=tokens, bad_words_ids=None)


@pytest.mark.parametrize("family", ["marian", "llama"])
@pytest.mark.parametrize("candidates", [None, 300])
def test_heads_never_propose_what_p_1_cannot_choose(family, candidates, marian, llama, tmp_path):
    whole = read_base(f"hf:{marian if family == 'marian' else llama},dtype=float64").network
    torch.manual_seed(0)
    hidden = torch.randn(40, whole.output_weight.size(1), dtype=torch.float64)
    heads = BlockHeads(hidden.size(1), HeadShape(block_size=3, d_hidden=4, candidates=candidates)).double()
    torch.nn.init.normal_(heads.output_weight)
    with torch.no_grad():
        free = proposed(HeadDrafter(heads, whole.output_weight, bias=whole.output_bias), hidden, 2)
    common = free.unique().tolist()[:5]
    folder = suppressing(marian if family == "marian" else llama, tmp_path, common)
    network = read_base(f"hf:{folder},dtype=float64").network
    assert network.suppressed == common
    with torch.no_grad():
        left = proposed(HeadDrafter(heads, network.output_weight, bias=network.output_bias), hidden, 2)
        assert not set(common) & set(left.unique().tolist())
        same = ~torch.isin(free, torch.tensor(common))
        assert torch.equal(free[same], left[same])
        bias = torch.nn.functional.linear(hidden, network.output_weight, network.output_bias)
        torch.testing.assert_close(network.project(hidden), bias)


@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("candidates", [None, 300])
def test_suppressed_tokens_are_neither_learned_nor_taught(temperature, candidates, llama, tmp_path):
    """Losses are those of a vocabulary without them, where they are targets too."""
    network = read_base(f"hf:{suppressing(llama, tmp_path, [7, 399])},dtype=float64").network
    torch.manual_seed(0)
    hidden = torch.randn(3, 6, 16, dtype=torch.float64, requires_grad=True)
    heads = BlockHeads(16, HeadShape(block_size=3, d_hidden=4, candidates=candidates)).double()
    torch.nn.init.normal_(heads.output_weight)
    tokens = torch.randint(8, 300, (3, 6))
    tokens[0, 2] = tokens[1, 0] = 7
    rows = TokenRows(tokens, torch.tensor([6, 4, 1]))
    found = head_losses(
        heads, hidden, network.output_weight, rows, range(1, 4), None, temperature, bias=network.output_bias
    )
    assert torch.isfinite(torch.autograd.grad(found.loss, hidden)[0]).all()
    words = torch.tensor([word for word in range(candidates or 400) if word not in (7, 399)])
    everything = torch.tensor([word for word in range(400) if word not in (7, 399)])
    for head in range(3):
        own = words if head else everything
        expected, count = 0.0, 0
        for row, length in enumerate(rows.lengths.tolist()):
            for place in range(length - head):
                output = heads(hidden[row, place], range(head + 1, head + 2))[0]
                logits = (output @ network.output_weight[own].T).double()
                target = int(tokens[row, place + head])
                if temperature is None and target != 7:
                    expected += float(-logits.log_softmax(-1)[own.tolist().index(target)])
                    count += 1
                if temperature is not None:
                    teacher = (hidden[row, place + head] @ network.output_weight[own].T) / temperature
                    divergence = torch.nn.functional.kl_div(
                        (logits / temperature).log_softmax(-1), teacher.log_softmax(-1), reduction="sum",
                        log_target=True,
                    )  # fmt: skip
                    expected += float(divergence) * temperature**2
                    count += 1
        assert float(found.sums[head]) == pytest.approx(expected, rel=1e-6)
        assert int(found.counts[head]) == count


@pytest.mark.parametrize("kind", [FrozenBaseHeadDistillation, JointFineTuning])
def test_training_with_suppressed_tokens(kind, corpus, t5, tmp_path):
    frequent = data(corpus, f"hf:{t5}")
    frequent.prepare_data()
    frequent.setup("fit")
    common = frequent.target_counts().argsort(descending=True)[1:4].tolist()
    folder = suppressing(t5, tmp_path, common)
    _, loop, finished = fitted(kind, corpus, f"hf:{folder}", tmp_path)
    measured = {name: float(value) for name, value in loop.callback_metrics.items()}
    assert all(0 <= measured[f"val/head_{head}/loss"] < 20 for head in range(1, 5))
    model = load(finished)
    assert model.translate(LINES, "blockwise", extra_length=EXTRA) == model.translate(
        LINES, extra_length=EXTRA
    )
