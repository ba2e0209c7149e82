"""Under transformers' own generate: blockwise = greedy, whatever it is asked for, in fewer calls; float64."""

import contextlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import small_models
import torch
import transformers
from small_models import pairs

import lightning_bpd
from lightning_bpd.adapters import BlockwiseOutput, adopt
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.interfaces import InputError, Proposal
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.finished_model import GenerativeModel, read_base
from lightning_bpd.saved.generation import make_generation
from lightning_bpd.saved.translation import Translator

FAMILIES = ["marian", "bart", "t5", "nllb", "llama", "gpt2"]
PROMPTED = ("llama", "gpt2")
GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1}
LINES = [source for source, _ in pairs(5, seed=8)]

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default")


class Case(NamedTuple):
    folder: Path
    """a finished model of random heads"""
    model: Any
    inputs: dict[str, torch.Tensor]
    settings: dict[str, Any]
    """what this family's generate needs to be told"""

    def generate(self, **settings):
        return self.model.generate(**{**self.inputs, **self.settings, **GREEDY, **settings})


def bart(folder: Path) -> Path:
    small_models.fast_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BartConfig(
        **small_models.SEQ2SEQ, vocab_size=400, pad_token_id=0, bos_token_id=2, eos_token_id=1,
        decoder_start_token_id=1, forced_bos_token_id=2, forced_eos_token_id=1,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(folder)
    return folder


@torch.no_grad()
def vary(folder: Path, kind: Any) -> None:
    """Let the model's projection not see what all its hidden states have in common.

    Otherwise random encoder-decoders repeat one token.
    """
    model = kind.from_pretrained(folder)
    torch.manual_seed(1)
    for name, values in model.named_parameters():
        # Rows depend on their own tokens, and on what is near.
        if "encoder_attn.out_proj" in name:
            values.mul_(0.5)
        if "EncDecAttention.o" in name:
            values.mul_(20)
        if "relative_attention_bias" in name:
            values.normal_(std=2.0)
    head, seen = model.get_output_embeddings(), []
    handle = head.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].flatten(0, 1)))
    tokens = torch.randint(4, head.weight.size(0) - 20, (8, 12))
    model(input_ids=tokens, decoder_input_ids=tokens.flip(0))
    handle.remove()
    mean = seen[0].mean(0)
    common = torch.nn.functional.normalize(mean, dim=0)
    weight = torch.randn_like(head.weight) / (seen[0] - mean).std()
    # Special tokens and languages are for the tests to ask for.
    weight[:4] = weight[-2:] = 0
    head.weight = torch.nn.Parameter(weight - (weight @ common)[:, None] * common)
    model.save_pretrained(folder)


def finished(folder: Path, base: str, block_size: int = 8, seed: int = 0, **shape: Any) -> Path:
    found = read_base(base)
    network, codec, origin = found.network, found.codec, found.origin
    torch.manual_seed(seed)
    heads = BlockHeads(network.output_weight.size(1), HeadShape(block_size=block_size, d_hidden=8, **shape))
    torch.nn.init.normal_(heads.output_weight)
    GenerativeModel(network, codec, heads, origin).save(folder, {})
    return folder


def kind_of(family: str) -> Any:
    return transformers.AutoModelForCausalLM if family in PROMPTED else transformers.AutoModelForSeq2SeqLM


@pytest.fixture(scope="module")
def case(request, tmp_path_factory) -> Case:
    family, kind = request.param, kind_of(request.param)
    parent = tmp_path_factory.mktemp(family)
    base = parent / "base"
    if family in PROMPTED:
        small_models.causal(base, family)
    else:
        (bart if family == "bart" else getattr(small_models, family))(base)
        vary(base, kind)
    languages = {"src_lang": "eng_Latn", "tgt_lang": "deu_Latn"} if family == "nllb" else {}
    options = ["dtype=float64", *(f"{name}={code}" for name, code in languages.items())]
    folder = finished(parent / "finished", ",".join([f"hf:{base}", *options]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, **languages)
    tokenizer.padding_side = "left" if family in PROMPTED else "right"
    inputs = tokenizer(LINES, return_tensors="pt", padding=True, return_token_type_ids=False)
    assert bool((inputs["attention_mask"] == 0).any())
    settings: dict[str, Any] = {"max_new_tokens": 14}
    if languages:
        settings["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids("deu_Latn")
    return Case(folder, kind.from_pretrained(base, dtype=torch.float64), dict(inputs), settings)


every_family = pytest.mark.parametrize("case", FAMILIES, indirect=True)


@contextlib.contextmanager
def calls_of(module):
    calls: list[int] = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


class Right:
    """Proposes the tokens that come, each replaced by a wrong one with probability ``wrong`` (a Drafter)."""

    block_size = 8

    def __init__(self, tokens: torch.Tensor, wrong: float = 0.0) -> None:
        self.tokens = torch.nn.functional.pad(tokens, (0, self.block_size))
        self.wrong = wrong

    def start(self, source, max_length, sampler, memory):
        self.places = torch.arange(len(self.tokens))
        self.read = torch.zeros_like(self.places)
        self.generator = torch.Generator().manual_seed(0)

    def propose(self, verified, following, count):
        self.read += verified.accepted
        tokens = self.tokens[self.places[:, None], self.read[:, None] + torch.arange(count)]
        spoiled = torch.rand(tokens.shape, generator=self.generator) < self.wrong
        return Proposal(torch.where(spoiled, (tokens + 1) % 60, tokens))

    def reorder(self, rows):
        self.places, self.read = self.places[rows], self.read[rows]


@every_family
def test_generate_gives_the_tokens_of_its_own_greedy_decoding(case):
    plain = case.generate()
    assert len(set(plain[:, -10:].flatten().tolist())) > 5
    assert len({tuple(row) for row in plain[:, -10:].tolist()}) > 2
    for block_size in range(1, 9):
        blocks = lightning_bpd.blockwise(case.folder, case.model, block_size=block_size)
        assert torch.equal(case.generate(custom_generate=blocks), plain)
    # Rows that end at different places, at once and at the limit, by any of several end tokens.
    first = plain.size(1) - 12
    ends = [int(plain[0, -9]), int(plain[1, -5])]
    expected = case.generate(eos_token_id=ends, pad_token_id=3)
    assert (expected == 3).any()
    assert torch.equal(case.generate(eos_token_id=ends, pad_token_id=3, custom_generate=blocks), expected)
    assert torch.equal(
        case.generate(eos_token_id=ends, custom_generate=blocks), case.generate(eos_token_id=ends)
    )
    at_once = {"eos_token_id": int(plain[0, first])}
    assert torch.equal(case.generate(**at_once, custom_generate=blocks), case.generate(**at_once))
    for limit in (
        {"max_new_tokens": 1},
        {"max_new_tokens": 2},
        {"max_new_tokens": None, "max_length": first + 3},
    ):
        assert torch.equal(case.generate(**limit, custom_generate=blocks), case.generate(**limit))
    given = {"suppress_tokens": plain[:, -3].tolist(), "bad_words_ids": [[int(plain[0, -5])], [1]]}
    expected = case.generate(**given)
    assert not torch.equal(expected, plain)
    assert torch.equal(case.generate(**given, custom_generate=blocks), expected)
    # Forced where the limit is, whatever the model would say.
    assert torch.equal(
        case.generate(forced_eos_token_id=7, custom_generate=blocks), case.generate(forced_eos_token_id=7)
    )


@every_family
def test_calls_are_as_few_as_proposals_are_right(case):
    plain = case.generate(eos_token_id=None, forced_eos_token_id=None)
    network = adopt(case.model)
    encoder_decoder = case.model.config.is_encoder_decoder
    certain = (
        plain.size(1)
        - 14
        + (1 if encoder_decoder and case.model.generation_config.forced_bos_token_id else 0)
    )
    certain += 1 if "forced_bos_token_id" in case.settings else 0
    tokens = plain[:, certain:]
    decoder = case.model.get_decoder() if encoder_decoder else case.model.base_model
    settings = {"eos_token_id": None, "forced_eos_token_id": None, "return_dict_in_generate": True}
    with (
        calls_of(case.model.get_encoder() if encoder_decoder else decoder) as encoded,
        calls_of(decoder) as calls,
    ):
        output = case.generate(**settings, custom_generate=make_generation(network, Right(tokens), 4))
    assert torch.equal(output.sequences, plain)
    assert isinstance(output, BlockwiseOutput)
    length = tokens.size(1)
    assert output.accepted.sum(1).tolist() == [length] * len(plain)
    assert output.accepted[0].tolist() == [4] * (length // 4) + ([length % 4] if length % 4 else [])
    assert output.calls.max() <= 1 + math.ceil(length / 4)
    # Reading the prompt is a call more.
    assert len(calls) <= output.calls.max() + 1 < length
    if encoder_decoder:
        assert len(encoded) == 1
    for wrong in (0.3, 1.0):
        again = case.generate(**settings, custom_generate=make_generation(network, Right(tokens, wrong)))
        assert torch.equal(again.sequences, plain)
    assert again.calls.tolist() == [length] * len(plain)


def test_heads_of_a_folder_are_what_proposes(marian, tmp_path):
    """A model that repeats one token, and heads that begin as the model itself: all that they propose is right."""
    found = read_base(f"hf:{marian}")
    network, codec, origin = found.network, found.codec, found.origin
    heads = BlockHeads(network.output_weight.size(1), HeadShape(block_size=4, d_hidden=8))
    GenerativeModel(network, codec, heads, origin).save(tmp_path / "finished", {})
    model = kind_of("marian").from_pretrained(marian)
    tokenizer = transformers.AutoTokenizer.from_pretrained(marian)
    inputs = tokenizer(LINES[2:], return_tensors="pt", padding=True)
    settings = {**GREEDY, "max_new_tokens": 16, "return_dict_in_generate": True}
    plain = model.generate(**inputs, **settings).sequences
    for block_size, calls in ((None, 5), (2, 9), (1, 16)):
        blocks = lightning_bpd.blockwise(tmp_path / "finished", model, block_size=block_size)
        output = model.generate(**inputs, **settings, custom_generate=blocks)
        assert torch.equal(output.sequences, plain)
        assert output.calls.tolist() == [calls] * 3
        assert (output.accepted == (block_size or 4)).all()
        again = lightning_bpd.load(tmp_path / "finished").generate(
            **inputs, **settings, block_size=block_size
        )
        assert torch.equal(again.calls, output.calls)


@every_family
def test_a_loaded_model_generates_the_same(case):
    loaded = lightning_bpd.load(case.folder)
    inputs = {**case.inputs, "max_new_tokens": 14}
    assert torch.equal(loaded.generate(**inputs), case.generate())
    assert torch.equal(loaded.generate(**inputs, block_size=3), case.generate())
    assert loaded.generate(**inputs, acceptance="minimum-8").size(1) <= case.generate().size(1)
    lengths = loaded.generate(**inputs, return_dict_in_generate=True).accepted.sum(1)
    assert lengths.max() in (13, 14)
    # Without a length, as long as generate makes them.
    default = {"max_new_tokens": None}
    assert torch.equal(loaded.generate(**case.inputs), case.generate(**default))


@pytest.mark.parametrize("case", PROMPTED, indirect=True)
def test_prompts_padded_at_the_right_go_on_from_their_own_last_token(case):
    mask = case.inputs["attention_mask"]
    order = mask.argsort(dim=1, descending=True, stable=True)
    turned = {"input_ids": case.inputs["input_ids"].gather(1, order), "attention_mask": mask.gather(1, order)}
    blocks = lightning_bpd.blockwise(case.folder, case.model)
    output = case.generate(**turned, custom_generate=blocks)
    assert torch.equal(output[:, mask.size(1) :], case.generate()[:, mask.size(1) :])
    assert torch.equal(output[:, : mask.size(1)], turned["input_ids"])
    # A single prompt, without a mask.
    length = int(mask[0].sum())
    alone = case.inputs["input_ids"][:1, -length:]
    again = case.model.generate(alone, **GREEDY, max_new_tokens=14, custom_generate=blocks)
    assert torch.equal(again, case.model.generate(alone, **GREEDY, max_new_tokens=14))


@pytest.mark.parametrize("case", ["marian", "t5", "nllb"], indirect=True)
def test_what_the_decoder_is_given_to_begin_with(case):
    blocks = lightning_bpd.blockwise(case.folder, case.model)
    plain = case.generate()
    for settings in (
        {"decoder_input_ids": plain[:, :4]},
        {"decoder_start_token_id": plain[:, 3].tolist()},
        {"forced_bos_token_id": 9},
        {"forced_bos_token_id": 9, "eos_token_id": 9},
        {"attention_mask": None},
        {"attention_mask": case.inputs["attention_mask"].flip(1)},
    ):
        assert torch.equal(case.generate(**settings, custom_generate=blocks), case.generate(**settings)), (
            settings
        )
    encoded = case.model.get_encoder()(**case.inputs)
    given = {"encoder_outputs": encoded, "attention_mask": case.inputs["attention_mask"]}
    settings = {**case.settings, **GREEDY, **given}
    assert torch.equal(case.model.generate(**settings, custom_generate=blocks), plain)


@pytest.mark.parametrize("case", ["marian", "gpt2"], indirect=True)
def test_sampling_by_blocks_is_plain_sampling(case):
    """The settings of generate, with noise of our own: the same tokens for every block size, within top_k and top_p."""
    settings = {"do_sample": True, "temperature": 1.5, "top_k": 5, "top_p": 0.9}
    blocks, single = (
        lightning_bpd.blockwise(case.folder, case.model, block_size=size, seed=3) for size in (None, 1)
    )
    sampled = case.generate(**settings, custom_generate=blocks)
    assert torch.equal(sampled, case.generate(**settings, custom_generate=single))
    assert not torch.equal(sampled, case.generate())
    other = lightning_bpd.blockwise(case.folder, case.model, seed=4)
    assert not torch.equal(sampled, case.generate(**settings, custom_generate=other))
    for guess in ("left", "random"):
        jacobi = lightning_bpd.jacobi(case.model, window=5, guess=guess, seed=3)
        assert torch.equal(sampled, case.generate(**settings, custom_generate=jacobi))
        assert torch.equal(case.generate(), case.generate(custom_generate=jacobi))
    greedy = case.generate(**settings | {"top_k": 1}, custom_generate=blocks)
    assert torch.equal(greedy, case.generate())
    # Without a seed, torch's generator decides.
    free = lightning_bpd.blockwise(case.folder, case.model)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(case.generate(**settings, custom_generate=free))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("case", ["marian", "gpt2"], indirect=True)
def test_what_cannot_be_honoured_is_refused_by_name(case):
    blocks = lightning_bpd.blockwise(case.folder, case.model)
    refused: dict[str, dict[str, Any]] = {
        "asked for MinPLogitsWarper": {"do_sample": True, "min_p": 0.1},
        "asked for beam search, but": {"num_beams": 2},
        "asked for assisted generation": {"prompt_lookup_num_tokens": 2},
        "asked for RepetitionPenaltyLogitsProcessor": {"repetition_penalty": 1.2},
        "asked for MinLengthLogitsProcessor": {"min_length": 20},
        "asked for NoBadWordsLogitsProcessor": {"bad_words_ids": [[4, 5]]},
        "asked for SequenceBias": {"sequence_bias": [[[4], 1.0]]},
        "asked to stop by MaxTimeCriteria": {"max_time": 60.0},
        "output_scores": {"output_scores": True, "return_dict_in_generate": True},
        "hides a whole row": {
            "attention_mask": case.inputs["attention_mask"] * torch.tensor([[0]] + [[1]] * 4)
        },
    }
    for message, settings in refused.items():
        with pytest.raises(InputError, match=message):
            case.generate(**settings, custom_generate=blocks)
    if not case.model.config.is_encoder_decoder:
        positions = case.inputs["attention_mask"].cumsum(1)
        with pytest.raises(InputError, match="position_ids that differ"):
            case.generate(position_ids=positions, custom_generate=blocks)
        with pytest.raises(InputError, match="was given token_type_ids"):
            case.generate(token_type_ids=torch.ones_like(positions), custom_generate=blocks)
        # "cache" since transformers 5.24, "past_key_values" before.
        full = case.generate(return_dict_in_generate=True)
        name = "cache" if "cache" in full else "past_key_values"
        with pytest.raises(InputError, match=f"^{name} is not empty, but decoding by blocks"):
            case.generate(**{name: full[name]}, custom_generate=blocks)
        alone = torch.tensor([[4]])
        with pytest.raises(InputError, match="forced_bos_token_id is for encoder-decoders"):
            case.model.generate(
                alone, **GREEDY, forced_bos_token_id=5, max_new_tokens=3, custom_generate=blocks
            )
    case.model.train()
    with pytest.raises(InputError, match="is in training mode"):
        case.generate(custom_generate=blocks)
    case.model.eval()


@pytest.mark.parametrize("case", ["gpt2"], indirect=True)
def test_rows_that_run_out_of_positions(case):
    blocks = lightning_bpd.blockwise(case.folder, case.model)
    prompt = case.inputs["input_ids"][:2].repeat(1, 20)[:, :318]
    given = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    # Positions 318 and 319 are left, and what the last one says.
    assert torch.equal(
        case.generate(**given, max_new_tokens=3, custom_generate=blocks),
        case.generate(**given, max_new_tokens=3),
    )
    with pytest.raises(InputError, match="reached the last position"):
        case.generate(**given, max_new_tokens=4, custom_generate=blocks)
    longer = torch.cat((prompt, prompt[:, :3]), 1)
    with pytest.raises(InputError, match="fill all positions"):
        case.generate(input_ids=longer, attention_mask=torch.ones_like(longer), custom_generate=blocks)


@pytest.mark.parametrize("case", ["t5"], indirect=True)
def test_a_wrong_base_is_refused_by_name(case, tmp_path, corpus):
    folder, kind = case.folder, kind_of("t5")
    base = case.folder.parent / "base"
    other = kind.from_pretrained(small_models.t5(tmp_path / "other", seed=1), dtype=torch.float64)
    with pytest.raises(
        InputError, match=r"fingerprint \w{12}, and the T5ForCond.* in torch.float64, is \w{12}: give hf:"
    ):
        lightning_bpd.blockwise(folder, other)
    # Of another type: as long as the weights are the same there.
    narrow = kind.from_pretrained(base)
    assert narrow.dtype == torch.float32
    blocks = lightning_bpd.blockwise(folder, narrow)
    assert torch.equal(
        narrow.generate(**case.inputs, **GREEDY, custom_generate=blocks),
        narrow.generate(**case.inputs, **GREEDY),
    )
    with pytest.raises(InputError, match=r"in torch.bfloat16, is .* loaded with dtype=torch.float64"):
        lightning_bpd.blockwise(folder, kind.from_pretrained(base, dtype=torch.bfloat16))
    with pytest.raises(InputError, match="made for another model"):
        case.generate(custom_generate=blocks)
    with pytest.raises(InputError, match="a Tensor is not a model of transformers"):
        lightning_bpd.blockwise(folder, torch.zeros(1))
    narrow.double()
    with pytest.raises(InputError, match="has moved, or changed its type"):
        narrow.generate(**case.inputs, **GREEDY, custom_generate=blocks)
    with pytest.raises(InputError, match="block_size 9 is larger than the 8"):
        lightning_bpd.blockwise(folder, case.model, block_size=9)
    with pytest.raises(InputError, match="compares values that have an order"):
        lightning_bpd.blockwise(folder, case.model, acceptance="distance-1")
    learned = finished(tmp_path / "learned", f"hf:{base},dtype=float64", 2, first_head="learned")
    with pytest.raises(InputError, match="have a first one of their own"):
        lightning_bpd.blockwise(learned, case.model)
    found = read_base(f"hf:{base}")
    network, codec, origin = found.network, found.codec, found.origin
    GenerativeModel(network, codec, None, origin).save(tmp_path / "headless", {})
    with pytest.raises(InputError, match="has no block heads of a Hugging Face model"):
        lightning_bpd.blockwise(tmp_path / "headless", narrow)
    with pytest.raises(InputError, match="has no block heads, which generate needs: use translate"):
        lightning_bpd.load(tmp_path / "headless").generate(**case.inputs)


def test_a_network_of_our_own_translates():
    pieces = train_tokenizer(LINES * 20, vocab_size=300)
    network = EncoderDecoder(
        Architecture(d_model=8, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=8),
        *(pieces.vocab_size, pieces.vocab_size, pieces.bos_id, pieces.eos_id),
    )
    with pytest.raises(
        InputError, match="generate is for Hugging Face models, and this model takes text: use translate"
    ):
        Translator(network, TextCodec(pieces, pieces)).generate(torch.ones(1, 2, dtype=torch.long))
