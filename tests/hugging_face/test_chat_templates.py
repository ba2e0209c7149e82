"""Chat templates: how they end turns, what they refuse; and prompts that are too long."""

import json
import logging
import shutil

import pytest
import small_models
import transformers
from small_models import pairs
from test_model_training import EXTRA, module, trainer

from lightning_bpd import load
from lightning_bpd.codecs.hugging_face import open_codec, with_template
from lightning_bpd.codecs.tokenizers import whole_row
from lightning_bpd.datamodules import Prompts
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.finished_model import read_base
from lightning_bpd.saved.translation import Translator
from lightning_bpd.training import FrozenBaseHeadDistillation

STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatty(folder, template=STRICT):
    """A model whose chat template ends turns with a token of their own, as Qwen's does."""
    small_models.causal(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return chatty(tmp_path_factory.mktemp("chat") / "model")


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if "chat template" in record.getMessage()]


def test_a_turn_that_ends_otherwise_than_rows_do(chat, caplog):
    with caplog.at_level(logging.WARNING):
        with_template(open_codec(f"hf:{chat}"), "{source} =")
        assert not warnings(caplog)
        with_template(open_codec(f"hf:{chat}"), "chat")
    assert warnings(caplog) == [
        "The chat template ends answers with <|im_end|>, but rows end with </s>: name the model with "
        "the option ,eos=<|im_end|>"
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        codec = with_template(open_codec(f"hf:{chat},eos=<|im_end|>"), "chat")
    assert not warnings(caplog)
    # Then a row is what the template writes, up to there.
    tokens = codec.target.encode(["Well"])[0]
    row = whole_row(codec.target, tokens, 100)
    assert codec.target.tokenizer.decode(row) == "Well<|im_end|>"
    assert codec.decode([row]) == ["Well"]


def test_a_template_that_ends_no_turn(llama, tmp_path, caplog):
    folder = chatty(
        tmp_path / "model", "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
    )
    with caplog.at_level(logging.WARNING):
        with_template(open_codec(f"hf:{folder}"), "chat")
    assert warnings(caplog) == ["The chat template puts no token after an answer, but rows end with </s>"]


def test_a_template_that_asks_otherwise_than_it_writes(tmp_path, caplog):
    thinking = STRICT.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    folder = chatty(tmp_path / "model", thinking)
    with caplog.at_level(logging.WARNING):
        codec = with_template(open_codec(f"hf:{folder},eos=<|im_end|>"), "chat")
    assert len(warnings(caplog)) == 1
    assert "answers cannot be found in it, and are used without it" in warnings(caplog)[0]
    row = whole_row(codec.target, codec.target.encode(["Well"])[0], 100)
    assert codec.target.tokenizer.decode(row) == "Well<|im_end|>"


def test_the_question_before_answers_is_rendered_once(chat, monkeypatch):
    side = with_template(open_codec(f"hf:{chat},eos=<|im_end|>"), "chat").target
    before, rendered = side.encode(["One", "Two"]), []
    render = side.tokenizer.apply_chat_template
    monkeypatch.setattr(
        side.tokenizer, "apply_chat_template", lambda *args, **options: (
            rendered.append(len(args[0])), render(*args, **options))[1]
    )  # fmt: skip
    assert side.encode(["One", "Two"]) == before
    assert rendered == [2, 2]


def test_heads_learn_to_end_turns(chat, corpus, tmp_path):
    base = f"hf:{chat},eos=<|im_end|>"
    text = Prompts(str(corpus), "chat", "en", "de", tokenizer=base, max_length=140, batch_tokens=900)
    loop = trainer(default_root_dir=tmp_path, max_steps=2, val_check_interval=2)
    loop.fit(module(FrozenBaseHeadDistillation, base), datamodule=text)
    loop.save_checkpoint(tmp_path / "a.ckpt")
    model = load_checkpoint_and_write(tmp_path)
    assert model.network.eos_id == model.codec.target.eos_id == len(model.codec.target.tokenizer) - 1
    lines = [source for source, _ in pairs(4, seed=8)]
    assert model.translate(lines, "blockwise", extra_length=EXTRA) == model.translate(
        lines, extra_length=EXTRA
    )


def load_checkpoint_and_write(folder):
    from lightning_bpd.saved.translation import load_checkpoint

    load_checkpoint(folder / "a.ckpt").save(folder / "model", {})
    return load(folder / "model")


def conversation(*roles):
    return json.dumps({"messages": [{"role": role, "content": f"I am {role}"} for role in roles]}) + "\n"


def test_what_a_template_refuses_is_named_by_its_line(chat, tmp_path):
    good, bad = conversation("user", "assistant"), conversation("system", "user", "assistant")
    (tmp_path / "one.jsonl").write_text(good * 3)
    (tmp_path / "two.jsonl").write_text(good * 2 + bad + good)
    (tmp_path / "val.jsonl").write_text(good)
    text = Prompts(
        str(tmp_path), "chat", train=["one", "two"], tokenizer=f"hf:{chat},eos=<|im_end|>", max_length=200
    )
    with pytest.raises(
        InputError,
        match=r"two\.jsonl, line 3: the model's chat template cannot be filled with \[\{\"role\": \"system\", .*: "
        r"Conversation roles must alternate",
    ):
        text.prepare_data()


def test_what_a_template_refuses_when_it_is_asked(chat):
    codec = with_template(open_codec(f"hf:{chat},eos=<|im_end|>"), "chat")
    with pytest.raises(InputError, match=r"cannot be filled with .*roles must alternate"):
        codec.source.encode(["fine", json.dumps([{"role": "assistant", "content": "I begin"}])])


def test_a_template_that_is_no_template(llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "copy")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}")
    with pytest.raises(InputError, match=r"the model's chat template cannot be filled with "):
        with_template(open_codec(f"hf:{folder}"), "chat")


def test_long_prompts_keep_their_end(llama, chat, tmp_path):
    long = "a dog and a cat " * 30
    codec = with_template(open_codec(f"hf:{llama}"), "{source} Assistant:")
    side = codec.source
    row = whole_row(side, side.encode([long])[0], 20)
    assert len(row) == 20
    text = side.tokenizer.decode(row)
    assert text.startswith("<s>")
    assert text.endswith(" Assistant:")
    assert whole_row(side, side.encode(["short"])[0], 20) == [*side.prefix, *side.encode(["short"])[0]]
    # Completions and translations lose theirs, as ever.
    row = whole_row(codec.target, codec.target.encode([long])[0], 20)
    assert row[-1] == codec.target.eos_id
    assert codec.decode([row])[0].startswith("a dog")
    side = with_template(open_codec(f"hf:{chat},eos=<|im_end|>"), "chat").source
    row = whole_row(side, side.encode([long])[0], 20)
    assert len(row) == 20
    assert side.tokenizer.decode(row).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_long_prompts_are_counted_and_said(llama, tmp_path, caplog):
    record = {"prompt": "a dog and a cat " * 30 + "?", "completion": " no"}
    for name in ("train", "val"):
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps(record) + "\n" + json.dumps(record | {"prompt": "?"}) + "\n"
        )
    text = Prompts(str(tmp_path), "{source} Assistant:", tokenizer=f"hf:{llama}", max_length=20)
    with caplog.at_level(logging.INFO):
        text.prepare_data()
    text.setup("fit")
    assert (len(text.train_corpus), text.train_corpus.dropped_long) == (1, 1)
    assert (len(text.validation_corpus), text.validation_corpus.shortened) == (2, 1)
    assert "1 longer than 20 tokens cut" in caplog.text
    prompts = [text.codec.source.tokenizer.decode(text.validation_corpus.source[row]) for row in range(2)]
    assert all(prompt.endswith("? Assistant:") for prompt in prompts)
    network = read_base(f"hf:{llama}").network
    caplog.clear()
    (batch,) = Translator(network, text.codec).batches([record["prompt"], "?"], 2, 20)
    assert "1 lines were cut to 20 source tokens" in caplog.text
    assert batch[1].lengths.tolist()[0] == 20
