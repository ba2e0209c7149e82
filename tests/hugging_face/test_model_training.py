"""Heads on Hugging Face bases: trained frozen and together, kept, loaded; and exact against transformers' generate."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import small_models
import torch
import transformers
from pytorch_lightning.callbacks import EMAWeightAveraging
from safetensors.torch import load_file
from small_models import pairs

import lightning_bpd
from lightning_bpd import load
from lightning_bpd.callbacks.blockwise_decoding import BlockwiseDecoding
from lightning_bpd.datamodules import ParallelText
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.drafters import HeadShape, ParallelDraft
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.models import Architecture
from lightning_bpd.saved.finished_model import (
    build_network,
    fingerprint,
    network_config,
    read_base,
    read_codec,
)
from lightning_bpd.saved.network import LoraShape
from lightning_bpd.saved.translation import load_checkpoint
from lightning_bpd.training import FrozenBaseHeadDistillation, JointFineTuning

EXTRA = 6
DECODE = DecodingOptions("blockwise", extra_length=EXTRA)
LINES = [source for source, _ in pairs(7, seed=8)]


def trainer(**options):
    defaults = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False,
        "num_sanity_val_steps": 0, "max_steps": 6, "val_check_interval": 6, "callbacks": [BlockwiseDecoding()],
    }  # fmt: skip
    return pl.Trainer(**{**defaults, **options})


def data(corpus, tokenizer, **options):
    return ParallelText(
        str(corpus), tokenizer=str(tokenizer), **{"batch_tokens": 600, "max_length": 100, **options}
    )


def module(kind, base, **options):
    torch.manual_seed(5)
    shape = HeadShape(block_size=4, d_hidden=16)
    return kind(str(base), **{"heads": shape, "warmup_steps": 2, "decode": DECODE, **options})


def fitted(kind, corpus, base, tmp_path, tokenizer=None, **options):
    """A trained module, its trainer and its finished model."""
    trained = module(kind, base, **options)
    loop = trainer(default_root_dir=tmp_path)
    loop.fit(trained, datamodule=data(corpus, tokenizer or base))
    loop.save_checkpoint(tmp_path / "a.ckpt")
    metrics = {"validation": {name[4:]: float(value) for name, value in loop.callback_metrics.items()}}
    load_checkpoint(tmp_path / "a.ckpt").save(tmp_path / "model", metrics)
    return trained, loop, tmp_path / "model"


def generated(folder, lines, dtype=torch.float64, **options):
    """What transformers makes of each line by itself, in as many tokens as our limit allows."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype)
    languages = {name: code for name, code in options.items() if name.endswith("lang")}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **languages)
    found = []
    for line in lines:
        inputs = tokenizer(line, return_tensors="pt")
        limit = inputs.input_ids.size(1) + EXTRA
        forced = options.get("forced_bos_token_id")
        output = model.generate(
            **inputs,
            max_new_tokens=limit + (forced is not None),
            do_sample=False,
            forced_bos_token_id=forced,
            forced_eos_token_id=None,
        )
        found.append(" ".join(tokenizer.decode(output[0], skip_special_tokens=True).splitlines()))
    return found


@pytest.mark.parametrize("family", ["marian", "t5", "nllb"])
def test_heads_on_a_frozen_base_give_what_generate_gives(family, corpus, tmp_path):
    folder = getattr(small_models, family)(tmp_path / family)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    base, options = f"hf:{folder},dtype=float64", {}
    if family == "nllb":
        base += ",src_lang=eng_Latn,tgt_lang=deu_Latn"
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        forced = tokenizer.convert_tokens_to_ids("deu_Latn")
        options = {"src_lang": "eng_Latn", "tgt_lang": "deu_Latn", "forced_bos_token_id": forced}
    untouched = fingerprint(read_base(base).network)
    trained, loop, finished = fitted(FrozenBaseHeadDistillation, corpus, base, tmp_path)
    assert fingerprint(trained.network) == untouched
    assert all(tensor.abs().sum() > 0 for tensor in trained.heads.parameters())
    assert {"val/loss", "val/bleu", "val/perplexity", "val/mean_accepted_block_size"} <= set(
        loop.callback_metrics
    )
    # Heads alone, by name; the base stays where it was, and as it was.
    assert {path.name for path in finished.iterdir()} == {
        "heads.safetensors", "config.json", "metrics.json", "README.md",
    }  # fmt: skip
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads((finished / "config.json").read_text())
    assert config["base"] == {"hugging_face": base, "inside": False, "fingerprint": untouched}
    card = (finished / "README.md").read_text()
    assert f"base_model: {folder}" in card
    assert untouched in card
    assert (
        f"| mean accepted block size | {float(loop.callback_metrics['val/mean_accepted_block_size']):.4g} |"
        in card
    )
    model = load(finished)
    expected = generated(folder, LINES, **options)
    assert len(set(expected)) > 1
    for batch_size in (1, 3, 7):
        assert model.translate(LINES, "greedy", batch_size, extra_length=EXTRA) == expected
        for size in (1, 2, 4):
            found = model.translate(LINES, "blockwise", batch_size, extra_length=EXTRA, block_size=size)
            assert found == expected


ATTENDING = ParallelDraft(block_size=4, attention_heads=2, correction=8, candidates=60)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("family", ["marian", "t5"])
def test_an_attending_drafter_gives_what_generate_gives(family, dtype, corpus, tmp_path):
    """A drafter in float32 on a base of any type, frozen; under translate, and under transformers' own generate."""
    check_attending(getattr(small_models, family)(tmp_path / family), ATTENDING, dtype, corpus, tmp_path)


def test_an_attending_drafter_reads_several_layers(corpus, tmp_path):
    folder = small_models.marian(tmp_path / "marian", decoder_layers=3)
    check_attending(folder, dataclasses.replace(ATTENDING, base_layers=[2, 1]), "float64", corpus, tmp_path)


def check_attending(folder, shape, dtype, corpus, tmp_path):
    base = f"hf:{folder},dtype={dtype}"
    trained, loop, finished = fitted(FrozenBaseHeadDistillation, corpus, base, tmp_path, drafter=shape)
    assert all(parameter.dtype == torch.float32 for parameter in trained.heads.parameters())
    assert loop.callback_metrics["val/k4_exact/greedy_agreement"] == 1
    model = load(finished)
    expected = model.translate(LINES, extra_length=EXTRA)
    assert model.translate(LINES, "blockwise", extra_length=EXTRA, batch_size=1) == expected
    if dtype == "float64":
        assert expected == generated(folder, LINES)
    kind = transformers.AutoModelForSeq2SeqLM
    own = kind.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(LINES, return_tensors="pt", padding=True)
    plain = own.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=9)
    blocks = lightning_bpd.blockwise(finished, own)
    by_blocks = own.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=9, custom_generate=blocks)
    if dtype == "float64":
        assert torch.equal(by_blocks, plain)
    assert by_blocks.shape[0] == plain.shape[0]


def test_trained_together_the_base_is_in_the_folder(corpus, marian, tmp_path):
    base = f"hf:{marian}"
    trained, loop, finished = fitted(
        JointFineTuning, corpus, base, tmp_path, base_learning_rate=1e-3, gradient_checkpointing=True
    )
    assert trained.network.model.training
    assert trained.network.model.model.decoder.gradient_checkpointing
    assert float(loop.callback_metrics["val/drift/kl"]) > 0
    saved = load_file(finished / "base/model.safetensors")
    original = load_file(marian / "model.safetensors")
    assert saved.keys() == original.keys()
    moved = [name for name, tensor in saved.items() if not torch.equal(tensor, original[name])]
    assert any("decoder.layers" in name for name in moved)
    assert any("encoder.layers" in name for name in moved)
    assert not any("embed_positions" in name or "final_logits_bias" in name for name in moved)
    # It is a model of transformers' own; and moved elsewhere, tokenizer and all, it is still whole.
    elsewhere = finished.rename(tmp_path / "elsewhere")
    model = load(elsewhere)
    assert model.origin is None
    expected = generated(elsewhere / "base", LINES, torch.float32)
    assert model.translate(LINES, "blockwise", extra_length=EXTRA) == expected
    # Written once more it is the same model.
    model.save(tmp_path / "again", {})
    assert fingerprint(load(tmp_path / "again").network) == fingerprint(model.network)
    assert "the fine-tuned model in `base/`" in (tmp_path / "again/README.md").read_text()
    # And a base of its own: its tokens are found by the folder.
    parts = read_base(tmp_path / "again")
    assert parts.codec.parts() == read_codec(tmp_path / "again").parts()
    going_on = module(FrozenBaseHeadDistillation, tmp_path / "again")
    trainer(max_steps=1, limit_val_batches=0).fit(going_on, datamodule=data(corpus, tmp_path / "again"))


@pytest.mark.parametrize("family", ["marian", "t5", "gpt2"])
def test_low_rank_updates_are_merged(family, tmp_path):
    make = getattr(small_models, family, None)
    folder = make(tmp_path / family) if make else small_models.causal(tmp_path / family, family)
    trained = module(JointFineTuning, f"hf:{folder},dtype=float64", lora=LoraShape(2, 3.0))
    network = trained.network.eval()
    source = TokenRows(torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([3, 2]))
    target = torch.tensor([[4, 5, 6], [7, 8, 9]])
    before = network(source, target)
    torch.testing.assert_close(before, read_base(f"hf:{folder},dtype=float64").network(source, target))
    wanted = [name for name, tensor in network.named_parameters() if tensor.requires_grad]
    assert wanted
    assert {name.split(".")[-1] for name in wanted} == {"up", "down"}
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if name.endswith(".up"):
                tensor.normal_(std=0.1)
    moved = network(source, target)
    assert (moved - before).abs().max() > 0.01
    merged = build_network(network_config(network), network.state_dict(), "here")
    torch.testing.assert_close(merged.eval()(source, target), moved)
    assert not any(name.endswith((".up", ".down")) for name, _ in merged.named_parameters())


def test_joint_training_of_low_rank_updates(corpus, t5, tmp_path):
    _, _, finished = fitted(
        JointFineTuning, corpus, f"hf:{t5}", tmp_path, lora=LoraShape(4), gradient_checkpointing=True
    )
    saved, original = (load_file(folder / "model.safetensors") for folder in (finished / "base", t5))
    moved = {name for name, tensor in saved.items() if not torch.equal(tensor, original[name])}
    assert saved.keys() == original.keys()
    assert any("SelfAttention.q" in name for name in moved)
    assert not any("shared" in name or "norm" in name or "lm_head" in name for name in moved)
    assert load(finished).translate(LINES, "blockwise", extra_length=EXTRA) == generated(
        finished / "base", LINES, torch.float32
    )


@pytest.mark.parametrize("family", ["marian", "t5", "nllb", "mbart", "llama", "gpt2"])
def test_all_that_is_trained_takes_a_gradient(family, tmp_path):
    """What does not would stop training on several processes: sinusoids, and layers that are dropped at random."""
    make = getattr(small_models, family, None)
    folder = make(tmp_path / family) if make else small_models.causal(tmp_path / family, family)
    languages = {"nllb": ",src_lang=eng_Latn,tgt_lang=deu_Latn", "mbart": ",src_lang=en_XX,tgt_lang=de_DE"}
    network = module(JointFineTuning, f"hf:{folder}{languages.get(family, '')}").network
    assert network.model.training
    for _ in range(5):
        network.zero_grad()
        hidden = network(TokenRows(torch.tensor([[5, 6, 7]]), torch.tensor([3])), torch.tensor([[4, 5]]))
        (hidden @ network.output_weight.T).logsumexp(-1).sum().backward()
        without = [name for name, each in network.named_parameters() if each.grad is None]
        assert without == [name for name, each in network.named_parameters() if not each.requires_grad]
    assert any("embed_positions" in name for name in without) == (family == "marian")


def test_averaged_weights_are_read_as_they_were_written(corpus, marian, tmp_path):
    """Marian's sinusoids are among its weights, are rounded by averaging, and not written."""
    trained = module(JointFineTuning, f"hf:{marian}")
    average = EMAWeightAveraging(decay=0.7, use_buffers=False)
    loop = trainer(max_steps=5, limit_val_batches=0, callbacks=[average])
    loop.fit(trained, datamodule=data(corpus, f"hf:{marian}"))
    loop.save_checkpoint(tmp_path / "a.ckpt")
    load_checkpoint(tmp_path / "a.ckpt").save(tmp_path / "model", {})
    assert load(tmp_path / "model").heads is not None


def test_losses_are_those_of_the_models_own_logits(corpus, marian):
    """Marian adds a bias to its logits, and never gives padding."""
    trained = module(FrozenBaseHeadDistillation, f"hf:{marian},dtype=float64")
    loop = trainer(limit_val_batches=1, callbacks=None)
    source = data(corpus, f"hf:{marian}", validation_batch_tokens=200)
    (measured,) = loop.validate(trained, datamodule=source, verbose=False)
    batch = next(iter(source.val_dataloader()))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(marian, dtype=torch.float64).eval()
    labels = batch.target.tokens.clone()
    outside = torch.arange(labels.size(1)) >= batch.target.lengths[:, None]
    labels[outside] = -100
    mask = torch.arange(batch.source.tokens.size(1)) < batch.source.lengths[:, None]
    with torch.no_grad():
        logits = model(input_ids=batch.source.tokens, attention_mask=mask.long(), labels=labels).logits
    ((padding,),) = model.generation_config.bad_words_ids
    logits[..., padding] = -torch.inf
    own = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert measured["val/loss"] == pytest.approx(float(own), rel=1e-5)


def test_a_bfloat16_base_under_float32_heads(corpus, t5, tmp_path):
    base = f"hf:{t5},dtype=bfloat16"
    trained, loop, finished = fitted(FrozenBaseHeadDistillation, corpus, base, tmp_path)
    assert {each.dtype for each in trained.network.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in trained.heads.parameters()} == {torch.float32}
    losses = [float(loop.callback_metrics[f"val/head_{head}/loss"]) for head in range(1, 5)]
    assert all(loss < 10 for loss in losses)
    model = load(finished)
    assert model.network.output_weight.dtype == torch.bfloat16
    assert model.translate(LINES, "blockwise", extra_length=EXTRA)


@pytest.mark.parametrize("first_head", ["identity", "learned"])
def test_distilled_and_learned_first_heads(corpus, marian, tmp_path, first_head):
    shape = HeadShape(block_size=3, d_hidden=8, first_head=first_head, candidates=100)
    _, _, finished = fitted(
        FrozenBaseHeadDistillation,
        corpus,
        f"hf:{marian},dtype=bfloat16",
        tmp_path,
        heads=shape,
        targets="distill",
    )
    assert load(finished).translate(LINES[:2], "blockwise", extra_length=EXTRA)


def test_heads_as_wide_as_the_models_own_layers(marian, t5, llama):
    for folder in (marian, t5, llama):
        wide = module(FrozenBaseHeadDistillation, f"hf:{folder}", heads=HeadShape(block_size=2))
        assert wide.heads.shape.d_hidden == 24


@pytest.mark.parametrize("kind", [FrozenBaseHeadDistillation, JointFineTuning])
def test_a_resumed_run_is_one_that_never_stopped(corpus, t5, tmp_path, kind):
    def run(epochs, **options):
        trained = module(kind, f"hf:{t5}")
        loop = trainer(
            max_steps=-1, max_epochs=epochs, val_check_interval=1.0, limit_val_batches=1, callbacks=None
        )
        loop.fit(trained, datamodule=data(corpus, f"hf:{t5}", batch_tokens=4000), **options)
        return trained, loop

    whole, _ = run(2)
    _, loop = run(1)
    loop.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(2, ckpt_path=tmp_path / "half.ckpt")
    assert whole.global_step == resumed.global_step > 0
    torch.testing.assert_close(whole.state_dict(), resumed.state_dict(), rtol=0, atol=0)


def test_another_base_is_refused_by_name(corpus, marian, tmp_path):
    base = shutil.copytree(marian, tmp_path / "base_model")
    _, _, finished = fitted(FrozenBaseHeadDistillation, corpus, f"hf:{base}", tmp_path)
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"base_model: no such folder"):
        load(finished)
    assert load(finished, base=f"hf:{moved}").origin == f"hf:{moved}"
    assert load_checkpoint(tmp_path / "a.ckpt", base=f"hf:{moved}").heads is not None
    other = small_models.marian(tmp_path / "other", seed=1)
    with pytest.raises(
        InputError, match=rf"trained on a base with fingerprint \w+, and hf:{other} is \w+: name the"
    ):
        load(finished, base=f"hf:{other}")
    small_models.t5(tmp_path / "t5")
    with pytest.raises(InputError, match=r"was trained with another source tokenizer"):
        load(finished, base=f"hf:{tmp_path / 't5'}")
    # Its own folder needs no other base.
    _, _, together = fitted(JointFineTuning, corpus, f"hf:{moved}", tmp_path / "joint")
    assert load(together).heads is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 200}, "max_length is 200 tokens and the base hf:.* has positions for sources of 160"),
        (
            {"tokenizer": None, "vocab_size": 500},
            "the data's source tokenizer .* is not that of the base hf:",
        ),
    ],
)
def test_data_that_does_not_fit(corpus, marian, options, message):
    text = ParallelText(
        str(corpus), **{"tokenizer": f"hf:{marian}", "batch_tokens": 600, "max_length": 100, **options}
    )
    with pytest.raises(InputError, match=message):
        trainer().fit(module(FrozenBaseHeadDistillation, f"hf:{marian}"), datamodule=text)


def test_what_is_refused(corpus, marian, tmp_path):
    with pytest.raises(InputError, match=r"is for both sides: leave target_tokenizer"):
        data(corpus, f"hf:{marian}", joint_vocabulary=False, target_tokenizer="x.model")
    capped = small_models.causal(tmp_path / "gemma2", "gemma2", head_dim=8)
    with pytest.raises(InputError, match=r"caps its logits \(final_logit_softcapping 30.0\)"):
        module(FrozenBaseHeadDistillation, f"hf:{capped}")
    with pytest.raises(InputError, match="a base in bfloat16 cannot be trained: most steps"):
        module(JointFineTuning, f"hf:{marian},dtype=bfloat16")
    with pytest.raises(InputError, match="gradient_checkpointing is for Hugging Face bases"):
        JointFineTuning(Architecture(d_model=16, heads=2), gradient_checkpointing=True)
    with pytest.raises(InputError, match="lora is for Hugging Face bases"):
        JointFineTuning(Architecture(d_model=16, heads=2), lora=LoraShape())
    with pytest.raises(InputError, match="rank must be at least 1"):
        LoraShape(0)


TWO_PROCESSES = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import torch
import test_model_training as shared
torch.set_num_threads(1)
corpus, base, kind, out = sys.argv[3:]
loop = shared.trainer(devices=2, strategy="ddp", max_steps=3, val_check_interval=3, callbacks=None)
trained = shared.module(getattr(shared, kind), base)
loop.fit(trained, datamodule=shared.data(corpus, base, batch_tokens=300))
if loop.is_global_zero:
    metrics = {name: float(value) for name, value in loop.callback_metrics.items()}
    open(out, "w").write(json.dumps(metrics))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FrozenBaseHeadDistillation, JointFineTuning])
def test_two_processes_measure_what_one_does(corpus, marian, tmp_path, kind):
    script, here = tmp_path / "run.py", Path(__file__)
    script.write_text(TWO_PROCESSES)
    places = [str(here.parent), str(here.parents[2]), str(corpus), f"hf:{marian}"]
    done = subprocess.run(
        [sys.executable, str(script), *places, kind.__name__, str(tmp_path / "out.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    alone = trainer(max_steps=3, val_check_interval=6, accumulate_grad_batches=2, callbacks=None)
    alone.fit(module(kind, f"hf:{marian}"), datamodule=data(corpus, f"hf:{marian}", batch_tokens=300))
    assert float(alone.callback_metrics["val/loss"]) == pytest.approx(found["val/loss"], rel=1e-4)
    assert float(alone.callback_metrics["val/bleu"]) == pytest.approx(found["val/bleu"], abs=1e-6)
