"""Write finished models and their tokens by version 0.1 (commit 9df4342): python make.py FOLDER."""

import copy
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import sentencepiece
import torch
import transformers
from lightning_bpd.heads import BlockHeads, HeadShape
from lightning_bpd.tasks.finished_model import Parts, read_base, write_folder
from lightning_bpd.tasks.images import ImageCodec
from lightning_bpd.tasks.marian import read_marian
from lightning_bpd.tasks.text import train_tokenizer
from lightning_bpd.tasks.text_codec import TextCodec
from lightning_bpd.tasks.translation import Translator, block_decoder
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lightning_bpd.decoding import DecodingOptions, decode
from lightning_bpd.interfaces import TokenRows
from lightning_bpd.models import Architecture, EncoderDecoder, ImageArchitecture, ImageTransformer

torch.set_num_threads(1)
WORDS = [
    "the",
    "a",
    "old",
    "young",
    "man",
    "woman",
    "dog",
    "house",
    "buys",
    "sees",
    "sleeps",
    "near",
    "and",
    "runs",
]
SOURCES = [
    " ".join(WORDS[(7 * i + j * (i % 5 + 1)) % len(WORDS)] for j in range(1 + i % 6)) for i in range(200)
]
GERMAN = [line.translate(str.maketrans("aeiou", "eioua")) for line in SOURCES]
LINES = SOURCES[1:7]


def frequent(weight, token):
    """Lengthen the row of a projection, so that its token is chosen more often."""
    with torch.no_grad():
        weight[token] *= 2


def randomised(module, seed, scale):
    """Draw all weights anew, larger than training begins with: so rows differ from each other and end."""
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=scale * parameter.size(-1) ** -0.5)
        else:
            gain = "norm" in name and name.endswith("weight")
            torch.nn.init.normal_(parameter, mean=float(gain), std=0.2)
    return module.eval()


def decoded(parts, sources, rules):
    """Decode by each rule: the tokens of each row, and for ``exact`` the accepted sizes of each iteration."""
    found = {}
    model, drafter = parts.network, None
    if parts.heads is not None:
        model, drafter = block_decoder(parts.network, parts.heads)
    for rule in rules:
        options = DecodingOptions(extra_length=8)
        if rule == "beam":
            options = dataclasses.replace(options, decoder="beam", beam=3)
        elif rule != "greedy":
            options = dataclasses.replace(options, decoder="blockwise", block_size=4, acceptance=rule)
        rows, accepted = {}, {}
        for places, source in sources:
            with torch.inference_mode():
                result = decode(model, source, options, drafter)
            rows |= dict(zip(places, result.rows(), strict=True))
            if result.accepted is not None:
                sizes = [[size for size in row if size] for row in result.accepted.tolist()]
                accepted |= dict(zip(places, sizes, strict=True))
        found[rule] = [rows[place] for place in sorted(rows)]
        if rule == "exact":
            found["accepted"] = [accepted[place] for place in sorted(accepted)]
    return found


def double(parts):
    heads = None if parts.heads is None else copy.deepcopy(parts.heads).double()
    return parts._replace(network=copy.deepcopy(parts.network).double(), heads=heads)


def keep(name, parts, sources, rules, lines=None):
    found = decoded(parts, sources, rules)
    # Float64 gives the same tokens, so no token depends on a rounding error, and other machines give them, too.
    assert decoded(double(parts), sources, rules) == found, name
    write_folder(parts, name, {"val/loss": 1.0})
    stored = found if lines is None else {"lines": lines, **found}
    Path(f"{name}.json").write_text(json.dumps(stored, ensure_ascii=False) + "\n", encoding="utf-8")


def text(name, parts, rules):
    translator = Translator(parts.network, parts.codec, parts.heads)
    keep(name, parts, list(translator.batches(LINES, 64)), rules, translator.translate(LINES, extra_length=8))


def heads(width, seed=2, **shape):
    return randomised(BlockHeads(width, HeadShape(**{"block_size": 4, "d_hidden": 8, **shape})), seed, 0.6)


PLAIN = ["greedy", "beam"]
BLOCKS = [*PLAIN, "exact", "top-2"]
os.chdir(sys.argv[1])

# Our Transformer: one tokenizer for both sides, or two.
joint = train_tokenizer(SOURCES + GERMAN, 280)
english, german = (train_tokenizer(lines, 40, byte_fallback=False) for lines in (SOURCES, GERMAN))


def network(codec, seed, scale, **shape):
    """Build our Transformer with random weights."""
    source, target = codec.source, codec.target
    sizes = {"d_model": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 8}
    vocabularies = source.vocab_size, target.vocab_size
    made = EncoderDecoder(Architecture(**sizes | shape), *vocabularies, target.bos_id, target.eos_id)
    randomised(made, seed, scale)
    frequent(made.output_weight, made.eos_id)
    return made


joint, two = TextCodec(joint, joint), TextCodec(english, german)
text("joint_tokenizer", Parts(network(joint, 8, 2.5, norm="post"), joint), PLAIN)
learned = {"tie": "none", "positions": "learned", "max_length": 40, "activation": "gelu", "output_bias": True}
text("learned_positions", Parts(network(two, 143, 1.5, norm="pre", **learned), two), PLAIN)
base = network(two, 62, 2.5, norm="pre", tie="output")
text("per_head", Parts(base, two, heads(8)), BLOCKS)
text("dense", Parts(base, two, heads(8, second_matrix="dense")), BLOCKS)
text("first_head", Parts(base, two, heads(8, first_head="learned")), BLOCKS)
chosen = heads(8, candidates=20)
chosen.choose_candidates(torch.arange(german.vocab_size) % 7)
text("candidates", Parts(base, two, chosen), BLOCKS)

# A converted Marian model, whose tokenizers are of another kind and whose padding token is forbidden.
with tempfile.TemporaryDirectory() as folder:
    names = {}
    for name, lines in (("source", SOURCES), ("target", GERMAN)):
        Path(folder, f"{name}.spm").write_bytes(train_tokenizer(lines, 40, byte_fallback=False).model_proto)
        processor = sentencepiece.SentencePieceProcessor(model_file=str(Path(folder, f"{name}.spm")))
        for number in range(4, processor.vocab_size()):
            names.setdefault(processor.id_to_piece(number))
    names = {name: number for number, name in enumerate(["</s>", "<unk>", *names, "<pad>"])}
    Path(folder, "vocab.json").write_text(json.dumps(names))
    files = [str(Path(folder, name)) for name in ("source.spm", "target.spm", "vocab.json")]
    transformers.MarianTokenizer(*files).save_pretrained(folder)
    padding = names["<pad>"]
    numbers = {"pad_token_id": padding, "eos_token_id": 0, "decoder_start_token_id": padding}
    config = transformers.MarianConfig(
        **numbers, bos_token_id=None, forced_eos_token_id=None, vocab_size=len(names), decoder_vocab_size=len(names),
        d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=8, decoder_ffn_dim=8, activation_function="swish", scale_embedding=True,
    )  # fmt: skip
    model = transformers.MarianMTModel(config)
    positions = [copy.deepcopy(part.embed_positions) for part in (model.model.encoder, model.model.decoder)]
    randomised(model, 4, 2.0)
    for part, table in zip((model.model.encoder, model.model.decoder), positions, strict=True):
        part.embed_positions = table
    model.final_logits_bias.normal_()
    frequent(model.lm_head.weight, 0)
    model.generation_config = transformers.GenerationConfig(bad_words_ids=[[padding]], **numbers)
    model.save_pretrained(folder)
    text("marian", read_marian(folder)._replace(heads=heads(8)), BLOCKS)

# Images: grey without heads, and in colour with heads.
for name, channels, levels, width, seed in (("images", 1, 8, 4, 5), ("image_heads", 3, 4, 8, 5)):
    sizes = {"height": 4, "width": 4, "channels": channels, "levels": levels}
    shape = ImageArchitecture(
        **sizes, scale=2, d_model=width, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=8, dropout=0.0,
        norm="pre", local_block=6,
    )  # fmt: skip
    torch.manual_seed(1)
    tokens = torch.randint(levels, (4, 4 * channels))
    Path(f"{name}_sources.json").write_text(json.dumps(tokens.tolist()) + "\n", encoding="utf-8")
    parts = Parts(randomised(ImageTransformer(shape), seed, 2.0), ImageCodec(**sizes, factor=2))
    sources = [(range(4), TokenRows(tokens, torch.full((4,), tokens.size(1))))]
    if channels == 1:
        keep(name, parts, sources, ["greedy"])
    else:
        keep(name, parts._replace(heads=heads(8)), sources, ["greedy", "exact", "distance-1"])

# Hugging Face bases: two with heads in a folder of their own, and one that was trained with its heads.
fast = Tokenizer(
    models.WordLevel({word: i for i, word in enumerate(["<pad>", "<s>", "</s>", *WORDS])}, "</s>")
)
fast.pre_tokenizer = pre_tokenizers.Whitespace()
special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **special).save_pretrained("llama")
fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **special).save_pretrained("t5")
numbers = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
config = transformers.LlamaConfig(
    **numbers,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
)
llama = randomised(transformers.LlamaForCausalLM(config), 1, 2.0)
config = transformers.T5Config(
    **numbers, decoder_start_token_id=0, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
)
t5 = randomised(transformers.T5ForConditionalGeneration(config), 7, 2.0)
for name, model in (("llama", llama), ("t5", t5)):
    frequent(model.get_output_embeddings().weight, 2)
    model.save_pretrained(name)
    parts = read_base(f"hf:{name}")._replace(heads=heads(8))
    text(f"{name}_heads", parts, BLOCKS)
parts = read_base("hf:llama")
torch.manual_seed(7)
for parameter in parts.network.parameters():
    parameter.data += 0.05 * torch.randn_like(parameter)
text("llama_joint", parts._replace(heads=heads(8, seed=3), origin=None), BLOCKS)
Path("lines.json").write_text(json.dumps(LINES) + "\n", encoding="utf-8")
