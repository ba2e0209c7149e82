"""Distilling decoder-only teachers: prompts and messages in, completions out."""

import json
import logging
from collections import Counter
from pathlib import Path

import pytest
import small_models
import torch
import transformers

from lightning_bpd.cli.distill import distill
from lightning_bpd.datamodules import Prompts
from lightning_bpd.datamodules.text_files import as_record
from lightning_bpd.interfaces import InputError

ASKED = [
    "a dog runs",
    "a man in red\nlooks up",
    "two women",
    "the ball",
    "a dog runs",
    "men",
    "a cat",
    "x y z",
]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A small model with a chat template and two end tokens, whose output has line breaks."""
    folder = small_models.causal(tmp_path_factory.mktemp("teacher") / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(3)
    torch.nn.init.normal_(model.lm_head.weight, std=0.6)
    model.save_pretrained(folder)
    rows = [generated_tokens(folder, text) for text in ASKED]
    # A token that ends some of these rows, and not at once.
    often = Counter(token for row in rows for token in {*row[3:]} - {*row[:3]})
    second = next(token for token, count in often.most_common() if count < len(rows))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, second]
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "train.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ASKED))
    return path


def run(teacher, data, output, **options):
    settings = {
        "template": "chat", "max_new_tokens": 9, "keep_unfinished": True, "part_rows": 3, "processes": 1,
        "device": "cpu",
    }  # fmt: skip
    distill(f"hf:{teacher}", str(data), str(output), **{**settings, **options})
    return [json.loads(line) for line in (output / "train.jsonl").read_text().splitlines()]


def generated_tokens(folder, text):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**asked, max_new_tokens=9, do_sample=False)
    return output[0, asked.input_ids.size(1) :].tolist()


def generated(folder, text):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer.decode(generated_tokens(folder, text), skip_special_tokens=True).strip()


def test_completions_are_those_of_generate(teacher, prompts, tmp_path):
    records = run(teacher, prompts, tmp_path / "out")
    expected = [{"prompt": text, "completion": generated(teacher, text)} for text in ASKED]
    assert records == [record for record in expected if record["completion"]]
    assert len(records) > 5
    # All end tokens end a row, and not only the tokenizer's.
    rows = [json.loads(line) for part in (tmp_path / "out/parts").iterdir() for line in part.open()][1:]
    lengths = [hypothesis[1] for row in rows if isinstance(row, list) for hypothesis in row[2]]
    assert min(lengths) < 9


def test_messages_stay_messages(teacher, tmp_path):
    asked = [{"role": "user", "content": text} for text in ASKED[:3]]
    conversations = [
        [asked[0]],
        [asked[1], {"role": "assistant", "content": "no"}, asked[2]],
        [asked[2], {"role": "assistant", "content": "the answer is made anew"}],
    ]
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    records = run(teacher, data, tmp_path / "out")
    assert [record["messages"][:-1] for record in records] == [*conversations[:2], conversations[2][:1]]
    assert records[0]["messages"][-1] == {"role": "assistant", "content": generated(teacher, ASKED[0])}
    reading = Prompts(str(tmp_path / "out"), "chat", tokenizer=f"hf:{teacher}", validation="train")
    reading.prepare_data()
    reading.setup("fit")
    assert reading.references("validation") == [record["messages"][-1]["content"] for record in records]


@pytest.mark.parametrize("prompt", ["[{not json", '[{"role": "user"}, 5]', '[{"a": 1}]', "[]"])
def test_prompts_that_look_like_conversations(prompt):
    assert as_record(prompt, "b", "prompt", "completion") == {"prompt": prompt, "completion": "b"}


def test_line_breaks_survive(teacher, prompts, tmp_path, monkeypatch):
    decode = transformers.PreTrainedTokenizerBase.batch_decode
    monkeypatch.setattr(
        transformers.PreTrainedTokenizerBase,
        "batch_decode",
        lambda *arguments, **options: [f"one\n{text}" for text in decode(*arguments, **options)],
    )
    assert all(record["completion"].startswith("one\n") for record in run(teacher, prompts, tmp_path / "out"))


@pytest.mark.parametrize("options", [{"batch_tokens": 20}, {"part_rows": 100}])
def test_samples_depend_on_the_seed_alone(teacher, prompts, tmp_path, options):
    sampled = {"decoder": "sample", "temperature": 0.9, "top_k": 40, "top_p": 0.95}
    one = run(teacher, prompts, tmp_path / "one", **sampled, seed=1)
    # Equal prompts are drawn differently.
    assert one[0]["prompt"] == one[4]["prompt"]
    assert one[0]["completion"] != one[4]["completion"]
    assert run(teacher, prompts, tmp_path / "again", **sampled, seed=1, **options) == one
    assert run(teacher, prompts, tmp_path / "other", **sampled, seed=2) != one


def test_unfinished_completions_are_left_out(teacher, prompts, tmp_path):
    kept = run(teacher, prompts, tmp_path / "kept")
    finished = run(teacher, prompts, tmp_path / "finished", keep_unfinished=False)
    assert 0 < len(finished) < len(kept)
    assert [record for record in kept if record in finished] == finished
    # The parts are the same, so the other choice needs no decoding.
    assert run(teacher, prompts, tmp_path / "kept", keep_unfinished=False) == finished


def test_a_file_of_lines(teacher, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a dog runs\ntwo women\n")
    records = run(teacher, path, tmp_path / "out")
    assert records[0] == {"prompt": "a dog runs", "completion": generated(teacher, "a dog runs")}


def test_an_instruction_model_without_its_template(teacher, prompts, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run(teacher, prompts, tmp_path / "out", template=None)
    assert "add --template chat" in caplog.text


def test_refusals(teacher, prompts, tmp_path):
    with pytest.raises(InputError, match=r"--temperature, .* are for sampling: add --decoder sample"):
        run(teacher, prompts, tmp_path / "out", temperature=0.5)
    with pytest.raises(InputError, match="sampling gives 1 hypothesis, not 2"):
        run(teacher, prompts, tmp_path / "out", decoder="sample", best=2)
    with pytest.raises(InputError, match="max_new_tokens must be at least 1, not 0"):
        run(teacher, prompts, tmp_path / "out", max_new_tokens=0)
    with pytest.raises(InputError, match=r"does not say where the text goes"):
        run(teacher, prompts, tmp_path / "out", template="no source")
    with pytest.raises(InputError, match="--extra_length is for translations"):
        run(teacher, prompts, tmp_path / "out", extra_length=5)
    nothing = tmp_path / "other.jsonl"
    nothing.write_text('{"question": "a"}\n')
    with pytest.raises(InputError, match=r"other.jsonl, line 1: the key 'prompt' is missing"):
        run(teacher, nothing, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_of_prompts_are_for_prompts(marian, corpus, tmp_path):
    with pytest.raises(InputError, match="--max_new_tokens is for decoder-only teachers"):
        distill(f"hf:{marian}", str(corpus), str(tmp_path / "out"), max_new_tokens=5)
    with pytest.raises(InputError, match="--template is for decoder-only teachers"):
        distill(f"hf:{marian}", str(corpus), str(tmp_path / "out"), template="chat")
