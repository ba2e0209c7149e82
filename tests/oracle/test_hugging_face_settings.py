"""What generation configurations ask of the adapters, and which models they refuse."""

import subprocess
import sys

import pytest
import torch
from drafters import Knowing

pytest.importorskip("transformers")
import transformers
from hugging_face_models import EOS, VOCABULARY, adapted, bare, generated, row_of, sources

from lightning_bpd.adapters import CausalAdapter, Seq2SeqAdapter
from lightning_bpd.adapters.loading import adapt
from lightning_bpd.decoding import Exact, blockwise, greedy
from lightning_bpd.interfaces import InputError, TokenRows


@pytest.mark.parametrize("family", ["mbart", "m2m_100", "bart", "t5"])
def test_a_forced_first_token_is_the_start_of_every_row(family):
    model = bare(family, 1)
    model.generation_config.forced_bos_token_id = 6
    adapter = adapted(model)
    assert adapter.bos_id == 6
    source = sources(3, 1)
    expected = generated(adapter, source, 8)
    start = model.config.decoder_start_token_id
    first = model.generate(row_of(source, 0).tokens, do_sample=False, max_new_tokens=4)
    assert first[0, :2].tolist() == [start, 6]
    assert greedy(adapter, source, 8).rows() == expected
    for block_size in (1, 3, 6):
        drafter = Knowing(adapter, source, 8, wrong=0.3)
        assert blockwise(adapter, drafter, source, block_size, Exact(), 8).rows() == expected

    # The forced token alone makes the difference.
    model.generation_config.forced_bos_token_id = None
    assert greedy(adapted(model), source, 8).rows() != expected


def test_a_forced_first_token_takes_a_position():
    model = bare("bart", 1, max_position_embeddings=12)
    model.generation_config.suppress_tokens = [EOS]
    model.generation_config.forced_bos_token_id = 6
    adapter = adapted(model)
    assert adapter.max_length == 11
    source = sources(3, 1)
    expected = generated(adapter, source, 50)
    assert {len(row) for row in expected} == {11}
    drafter = Knowing(adapter, source, 50, wrong=0.3)
    assert blockwise(adapter, drafter, source, 5, Exact(), 50).rows() == expected


@pytest.mark.parametrize("family", ["marian", "llama"])
def test_suppressed_tokens_are_never_generated(family):
    model = bare(family, 2)
    source = sources(4, 2)
    free = greedy(adapted(model), source, 8).rows()
    common = max(set(free[0]) - {EOS}, key=free[0].count)
    other = next(token for token in range(VOCABULARY) if token not in (common, EOS))
    # Marian's own configurations forbid padding so; the end token is no bad word for generate either.
    model.generation_config.bad_words_ids = [[common], [EOS]]
    model.generation_config.suppress_tokens = [other]
    adapter = adapted(model)
    assert adapter.suppressed == sorted([common, other])
    expected = generated(adapter, source, 8)
    assert expected != free
    assert greedy(adapter, source, 8).rows() == expected
    drafter = Knowing(adapter, source, 8, wrong=0.3)
    assert blockwise(adapter, drafter, source, 4, Exact(), 8).rows() == expected


def test_a_prompt_of_one_token_and_what_is_fed_in_its_place():
    adapter = adapted(bare("gpt2", 3))
    source = TokenRows(torch.tensor([[5], [7]]), torch.tensor([1, 1]))
    assert greedy(adapter, source, 6).rows() == generated(adapter, source, 6)
    with torch.inference_mode():
        hidden = [
            adapter.step(torch.full((2, 2), first), adapter.start(source, None, 2))[:, 0] for first in (0, 4)
        ]
    assert torch.equal(*hidden)


@pytest.mark.parametrize("family", ["marian", "gpt2"])
def test_several_end_tokens_must_be_chosen_from(family):
    model = bare(family)
    model.generation_config.eos_token_id = [EOS, 4]
    with pytest.raises(InputError, match=r"has 2 end tokens, \[2, 4\].*choose it by eos_id"):
        adapted(model)
    kind = Seq2SeqAdapter if family == "marian" else CausalAdapter
    assert kind(model, eos_id=4).eos_id == 4
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    with pytest.raises(InputError, match=r"has no end token"):
        adapted(model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_length", 5), ("no_repeat_ngram_size", 3), ("repetition_penalty", 1.2), ("sequence_bias", {(1,): 2.0}),
        ("begin_suppress_tokens", [4]), ("min_new_tokens", 2), ("exponential_decay_length_penalty", (5, 1.1)),
    ],
)  # fmt: skip
def test_rules_of_generation_that_look_back_are_refused(name, value):
    model = bare("marian")
    setattr(model.generation_config, name, value)
    with pytest.raises(InputError, match=rf"generates with {name} = .*set model.generation_config.{name} = "):
        adapt(model)


def test_bad_words_of_several_tokens_are_refused():
    model = bare("marian")
    model.generation_config.bad_words_ids = [[3], [4, 5]]
    with pytest.raises(InputError, match=r"forbids words of several tokens \(bad_words_ids \[\[4, 5\]\]\)"):
        adapt(model)


def test_a_forced_first_token_of_a_prompt_is_refused():
    model = bare("llama")
    model.generation_config.forced_bos_token_id = 4
    with pytest.raises(InputError, match="generates with forced_bos_token_id, which is for encoder-decoders"):
        adapt(model)


def test_families_that_cannot_be_decoded_row_by_row_are_refused():
    bloom = transformers.BloomConfig(vocab_size=9, hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(InputError, match=r"BloomForCausalLM \(bloom\) .* takes no position_ids"):
        CausalAdapter(transformers.BloomForCausalLM(bloom))
    local = transformers.GPTNeoConfig(
        vocab_size=9, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]],
        window_size=4, bos_token_id=1, eos_token_id=2, initializer_range=0.7,
    )  # fmt: skip
    torch.manual_seed(0)
    with pytest.raises(InputError, match=r"\(gpt_neo\) cannot be a base: .* its logits differ by"):
        CausalAdapter(transformers.GPTNeoForCausalLM(local))
    settings = {
        "vocab_size": 9, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "attention_window": 4,
    }  # fmt: skip
    led = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**settings))
    with pytest.raises(InputError, match="its decoder has neither a table of positions"):
        Seq2SeqAdapter(led)
    linear = bare("qwen3")
    linear.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(InputError, match="layers of linear_attention, whose state cannot be rewound"):
        CausalAdapter(linear)


def test_an_unknown_way_to_the_logits_is_refused_by_name():
    model = bare("llama")
    model.lm_head.register_forward_hook(lambda module, arguments, output: output * 1.7)
    with pytest.raises(InputError, match=r"LlamaForCausalLM \(llama\) are not its last hidden states times"):
        adapted(model)


def test_positions_told_wrongly_are_noticed(monkeypatch):
    from lightning_bpd.adapters import positions

    for family, function in (("marian", "_told"), ("m2m_100", "_counted"), ("t5", "_relative")):
        model = bare(family)
        with monkeypatch.context() as patch:
            patch.setattr(positions, function, lambda module, tokens, call: [])
            with pytest.raises(InputError, match="with rows rewound to different lengths"):
                adapted(model)
        adapted(model)


def test_what_else_is_refused():
    with pytest.raises(InputError, match="is not an encoder-decoder: use CausalAdapter"):
        Seq2SeqAdapter(bare("llama"))
    with pytest.raises(InputError, match="is an encoder-decoder: use Seq2SeqAdapter"):
        CausalAdapter(bare("t5"))
    flash = bare("llama")
    flash.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InputError, match="load it with attn_implementation='sdpa'"):
        CausalAdapter(flash)
    with pytest.raises(InputError, match="longest_prompt must be 1 to the 40 positions"):
        CausalAdapter(bare("gpt2"), longest_prompt=41)
    with pytest.raises(InputError, match="a prompt of 7 tokens is longer than longest_prompt = 6"):
        greedy(adapted(bare("gpt2")), TokenRows(torch.zeros(1, 7, dtype=torch.long), torch.tensor([7])))
    with pytest.raises(InputError, match="a source of 41 tokens is longer than the model's 40 positions"):
        greedy(adapted(bare("bart")), TokenRows(torch.zeros(1, 41, dtype=torch.long), torch.tensor([41])))


def test_families_without_tests_are_said_to_be_so():
    config = transformers.StableLmConfig(
        vocab_size=9, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    model = transformers.StableLmForCausalLM(config).train()
    assert not CausalAdapter(model).tested
    assert model.training, "the examination leaves the mode as it was"


def test_the_package_does_not_need_transformers():
    code = "import sys, lightning_bpd, lightning_bpd.decoding, lightning_bpd.saved.translation; " + (
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_transformers_one_is_told_what_to_install():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from lightning_bpd.interfaces import InputError\n"
        "try:\n    import lightning_bpd.adapters\n"
        "except InputError as error:\n    sys.exit('lightning_bpd[hf]' not in str(error))\n"
        "sys.exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
