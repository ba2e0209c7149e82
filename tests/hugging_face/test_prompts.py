"""Prompts and completions: what rows they become, what the loss is over, and decoding against generate."""

import json
import math

import pytest
import small_models
import torch
import transformers
from small_models import pairs
from test_model_training import EXTRA, module, trainer

from lightning_bpd import load
from lightning_bpd.codecs.hugging_face import open_codec
from lightning_bpd.datamodules import ParallelText, Prompts
from lightning_bpd.decoding import DecodingOptions, Sampled
from lightning_bpd.drafters import HeadShape, ParallelDraft
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.translation import load_checkpoint
from lightning_bpd.training import FrozenBaseHeadDistillation, JointFineTuning

CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
LINES = [source for source, _ in pairs(5, seed=8)]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def rows_of(data):
    data.prepare_data()
    data.setup("fit")
    tokenizer = data.codec.source.tokenizer
    corpus = data.validation_corpus
    return [
        tuple(tokenizer.decode(side[row].tolist()) for side in (corpus.source, corpus.target))
        for row in range(len(corpus))
    ]


def test_a_template_makes_prompts_of_parallel_text(corpus, llama):
    data = Prompts(str(corpus), "translate: {source} =", "en", "de", tokenizer=f"hf:{llama}", max_length=120)
    (prompt, completion), *_ = rows_of(data)
    assert prompt == f"<s>translate: {data.sources('validation')[0]} ="
    assert completion == f"{data.references('validation')[0]}</s>"
    assert data.codec.decode([data.validation_corpus.target[0]]) == data.references("validation")[:1]


def test_prompts_in_json_lines(llama, tmp_path):
    for name in ("train", "val"):
        write(tmp_path / f"{name}.jsonl", [{"prompt": "2 + 2 =", "completion": " 4"}])
    data = Prompts(str(tmp_path), tokenizer=f"hf:{llama}")
    assert rows_of(data) == [("<s>2 + 2 =", " 4</s>")]
    assert data.codec.decode([data.validation_corpus.target[0]]) == ["4"]


def chatty(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": CHAT}))
    return folder


def test_conversations_learn_what_is_answered_last(tmp_path):
    model = chatty(small_models.causal(tmp_path / "model"))
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": "Well"},
    ]
    for name in ("train", "val"):
        write(tmp_path / f"{name}.jsonl", [{"messages": messages}])
    data = Prompts(str(tmp_path), "chat", tokenizer=f"hf:{model}")
    assert rows_of(data) == [
        ("<s>user: Hi</s><s>assistant: Hello</s><s>user: How?</s><s>assistant: ", "Well</s>")
    ]
    # One line is what the user says.
    side = data.codec.source
    assert side.tokenizer.decode(side.encode(["Hi"])[0]) == "<s>user: Hi</s><s>assistant: "
    assert data.codec.parts() == open_codec(f"hf:{model}").parts()
    assert data.codec.source.fingerprint != open_codec(f"hf:{model}").source.fingerprint


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, "must end with what the assistant answers"),
        ({"messages": [{"role": "user"}]}, "each message needs a role and a content"),
        ({"prompt": "a"}, "the key 'completion' is missing"),
    ],
)
def test_records_that_are_no_prompts(llama, tmp_path, record, message):
    write(tmp_path / "train.jsonl", [record])
    with pytest.raises(InputError, match=f"train.jsonl, line 1: .*{message}"):
        Prompts(str(tmp_path), tokenizer=f"hf:{llama}").prepare_data()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "translate:"}, "does not say where the text goes: write {source} there"),
        ({"template": "chat"}, "has no chat template"),
        ({"tokenizer": None}, "none is named: give model.base or data.tokenizer"),
    ],
)
def test_templates_that_cannot_be_used(corpus, llama, options, message):
    data = Prompts(
        str(corpus), source_language="en", target_language="de", **{"tokenizer": f"hf:{llama}", **options}
    )
    with pytest.raises(InputError, match=message):
        data.prepare_data()


def test_an_encoder_decoder_takes_no_prompts(corpus, t5):
    data = Prompts(str(corpus), source_language="en", target_language="de", tokenizer=f"hf:{t5}")
    with pytest.raises(InputError, match="is none: use ParallelText"):
        data.prepare_data()


def data_of(corpus, base, **options):
    return Prompts(
        str(corpus),
        "translate: {source} =",
        "en",
        "de",
        tokenizer=base,
        max_length=120,
        batch_tokens=800,
        **options,
    )


def generated(folder, lines):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for line in lines:
        inputs = tokenizer(f"translate: {line} =", return_tensors="pt", return_token_type_ids=False)
        length = inputs.input_ids.size(1)
        output = model.generate(**inputs, max_new_tokens=length + EXTRA, do_sample=False, pad_token_id=0)
        text = tokenizer.decode(output[0, length:], skip_special_tokens=True)
        found.append(" ".join(text.splitlines()).strip())
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_heads_on_a_decoder_only_base(family, corpus, tmp_path):
    folder = small_models.causal(tmp_path / family, family)
    base = f"hf:{folder},dtype=float64"
    trained = module(FrozenBaseHeadDistillation, base)
    loop = trainer(default_root_dir=tmp_path, max_steps=3, val_check_interval=3)
    loop.fit(trained, datamodule=data_of(corpus, base))
    loop.save_checkpoint(tmp_path / "a.ckpt")
    load_checkpoint(tmp_path / "a.ckpt").save(tmp_path / "model", {})
    model = load(tmp_path / "model")
    expected = generated(folder, LINES)
    for decoder in ("greedy", "blockwise"):
        assert model.translate(LINES, decoder, extra_length=EXTRA, batch_size=3) == expected
    # The template went with it; a run that names none takes it from there.
    again = Prompts(str(corpus), None, "en", "de", tokenizer=str(tmp_path / "model"))
    again.prepare_data()
    assert again.codec.source.settings.template == "translate: {source} ="


def test_the_loss_is_over_completions_alone(corpus, llama):
    base = f"hf:{llama},dtype=float64"
    trained = module(FrozenBaseHeadDistillation, base, heads=HeadShape(block_size=2, d_hidden=4))
    data = data_of(corpus, base)
    (measured,) = trainer(callbacks=None, limit_val_batches=1).validate(
        trained, datamodule=data, verbose=False
    )
    batch = next(iter(data.val_dataloader()))
    model = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64).eval()
    total, count = 0.0, 0
    for row in range(len(batch.index)):
        prompt = batch.source.tokens[row, : batch.source.lengths[row]]
        target = batch.target.tokens[row, : batch.target.lengths[row]]
        labels = torch.cat((torch.full_like(prompt, -100), target))[None]
        with torch.no_grad():
            loss = model(input_ids=torch.cat((prompt, target))[None], labels=labels).loss
        total, count = total + float(loss) * len(target), count + len(target)
    assert measured["val/loss"] == pytest.approx(total / count, rel=1e-5)
    assert measured["val/perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_joint_training_of_a_decoder_only_base(corpus, llama, tmp_path):
    base = f"hf:{llama}"
    trained = module(JointFineTuning, base, gradient_checkpointing=True)
    loop = trainer(default_root_dir=tmp_path, max_steps=3, val_check_interval=3)
    loop.fit(trained, datamodule=data_of(corpus, base))
    loop.save_checkpoint(tmp_path / "a.ckpt")
    load_checkpoint(tmp_path / "a.ckpt").save(tmp_path / "model", {})
    model = load(tmp_path / "model")
    assert model.translate(LINES, "blockwise", extra_length=EXTRA) == model.translate(
        LINES, extra_length=EXTRA
    )
    assert model.network.longest_prompt == trained.network.longest_prompt


def test_prompts_that_are_longer_than_their_share_of_the_positions(corpus, llama):
    base = f"hf:{llama},longest_prompt=100"
    with pytest.raises(InputError, match=r"max_length is 120 tokens and the base .* for sources of 100"):
        trainer().fit(module(FrozenBaseHeadDistillation, base), datamodule=data_of(corpus, base))


def test_text_without_a_template_is_the_prompt(corpus, llama):
    data = ParallelText(str(corpus), tokenizer=f"hf:{llama}")
    assert rows_of(data)[0][0] == f"<s>{data.sources('validation')[0]}"


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_an_attending_drafter_reads_the_tokens_of_prompts(corpus, llama, tmp_path, dtype):
    shape = ParallelDraft(block_size=4, attention_heads=2, correction=8, candidates=60)
    base = f"hf:{llama},dtype={dtype}"
    trained = module(
        FrozenBaseHeadDistillation,
        base,
        drafter=shape,
        cache_features=0.1,
        decode=DecodingOptions(max_new_tokens=7),
    )
    data = Prompts(
        str(corpus), "{source} =", "en", "de", tokenizer=base, max_length=120, cache=str(tmp_path / "cache")
    )
    loop = trainer(default_root_dir=tmp_path, max_steps=4, val_check_interval=4)
    loop.fit(trained, datamodule=data)
    assert loop.callback_metrics["val/k4_exact/greedy_agreement"] == 1
    loop.save_checkpoint(tmp_path / "a.ckpt")
    model = load_checkpoint(tmp_path / "a.ckpt")
    # Drafts differ if the tokens of the prompt are another's, though the base's states are the same.
    batch = next(iter(data.val_dataloader()))
    state = model.model.start(batch.source, None, 4)
    drafter, rows = model.heads, batch.source.lengths
    weight = model.network.output_weight
    seen, _ = drafter.seen(state.memory, weight)
    other, _ = drafter.seen(state.memory._replace(tokens=state.memory.tokens.flip(1)), weight)
    assert state.memory.tokens.tolist() == [
        row[1:length] + [0] * (int(rows.max()) - length)
        for row, length in zip(batch.source.tokens.tolist(), rows.tolist(), strict=True)
    ]
    assert not torch.equal(seen, other)
    lines = data.sources("validation")
    for options in ({}, {"sampler": Sampled(0.9, 20, 0.9, seed=3)}):
        expected = model.translate(lines, max_new_tokens=7, batch_size=1, **options)
        if dtype == "float64":
            for size in (1, 3):
                found = model.translate(lines, "blockwise", size, max_new_tokens=7, **options)
                assert found == expected
