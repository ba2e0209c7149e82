"""Marian models in Hugging Face's folders, such as opus-mt's, as models of our own (floor 2).

What transformers' MarianMTModel computes and MarianTokenizer cuts, read from their files without either.
"""

from __future__ import annotations

import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_bpd.codecs.marian_tokenizer import MarianPieces, MarianTokenizer
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.faults import damaged, read_json
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.models.positions import halved_sinusoids
from lightning_bpd.saved.finished_model import GenerativeModel
from lightning_bpd.saved.network import build

# The bias of tokens that are never generated. Their probability is 0 in any precision, and unlike with infinity a
# loss that takes the mean of all logits, or the product of a probability and its logarithm, remains a number.
SUPPRESSED = -1e4

_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "swish", "silu": "swish"}
# Settings of generate by which the next token depends on more than the last hidden state, and where they do nothing.
_UNSUPPORTED = {
    "begin_suppress_tokens": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_decoder_ids": None,
    "guidance_scale": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "sequence_bias": None,
}

_SHARED = "model.shared.weight"
_SOURCE, _TARGET = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
_OUTPUT = "lm_head.weight"
_TABLES = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
# Our layers, and what of theirs is stacked in each.
_FEED_FORWARD = {
    "feed_forward.hidden": ("fc1",),
    "feed_forward.output": ("fc2",),
    "feed_forward_residual.norm": ("final_layer_norm",),
}
_ENCODER_LAYER = {
    "attention.query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.out_proj",),
    "attention_residual.norm": ("self_attn_layer_norm",),
    **_FEED_FORWARD,
}
_DECODER_LAYER = {
    "self_attention.query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.output": ("self_attn.out_proj",),
    "self_residual.norm": ("self_attn_layer_norm",),
    "cross_attention.query": ("encoder_attn.q_proj",),
    "cross_attention.key_value": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "cross_attention.output": ("encoder_attn.out_proj",),
    "cross_residual.norm": ("encoder_attn_layer_norm",),
    **_FEED_FORWARD,
}


def read_marian(folder: str | Path) -> GenerativeModel:
    """The model in a folder that ``MarianMTModel.save_pretrained`` and ``MarianTokenizer.save_pretrained`` wrote.

    Greedy decoding gives what ``generate`` gives with one beam: tokens that the folder forbids (bad words, above all
    the padding token that rows start from) have a bias that no other logit outweighs. Positions have no longest
    length. Weights are float32.

    Raises:
        InputError: It is no such folder, lacks a file, is damaged, or has a setting that our Transformer does not have.
    """
    with damaged(folder, "fetch the model again"):
        return _read_marian(Path(folder))


def _read_marian(folder: Path) -> GenerativeModel:
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no Marian model (no config.json): give the folder of a Hugging Face model"
        )
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "marian" or not config.get("is_encoder_decoder", True):
        kind = config.get("model_type", "not said")
        raise InputError(
            f"{folder} holds no Marian translation model (its model_type is {kind}): only those can be converted"
        )
    generation = _read_json(folder / "generation_config.json", default=config)
    codec = read_codec(folder)
    try:
        network = _build(config, generation, _read_weights(folder))
    except InputError as error:
        raise InputError(f"{folder} cannot be converted: {error}") from None
    except KeyError as error:
        raise InputError(f"{folder} cannot be converted: it has no {error.args[0]}") from None
    for side, tokenizer, tokens in (
        ("source", codec.source, network.source_vocabulary),
        ("target", codec.target, network.target_vocabulary),
    ):
        if tokenizer.vocab_size != tokens:
            raise InputError(
                f"{folder}: the {side} vocabulary has {tokenizer.vocab_size} pieces and the model {tokens} tokens: "
                "they do not belong together; give the tokenizer that the model was trained with"
            )
    for verb, ours, theirs in (
        ("start", network.bos_id, codec.target.bos_id),
        ("end", network.eos_id, codec.target.eos_id),
    ):
        if ours != theirs:
            raise InputError(
                f"{folder}: rows {verb} with token {ours} in the model and {theirs} in the target vocabulary: they do "
                "not belong together"
            )
    return GenerativeModel(network.eval(), codec)


def _build(config: dict[str, Any], generation: dict[str, Any], weights: dict[str, Tensor]) -> EncoderDecoder:
    for name, harmless in _UNSUPPORTED.items():
        if generation.get(name) not in (None, harmless):
            raise InputError(
                f"it generates with {name} = {generation[name]!r}, which depends on more than the last hidden state: "
                "take it out of generation_config.json to decode without it"
            )
    if config["activation_function"] not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise InputError(f"its activation_function is {config['activation_function']!r}; known are {known}")
    for name in ("attention_heads", "ffn_dim"):
        encoder, decoder = config[f"encoder_{name}"], config[f"decoder_{name}"]
        if encoder != decoder:
            raise InputError(
                f"its encoder_{name} is {encoder} and its decoder_{name} {decoder}; both must be equal"
            )
    tied = config.get("tie_word_embeddings", True)
    shared = config.get("share_encoder_decoder_embeddings", True)
    source_vocabulary = config["vocab_size"]
    architecture = Architecture(
        d_model=config["d_model"],
        heads=config["encoder_attention_heads"],
        encoder_layers=config["encoder_layers"],
        decoder_layers=config["decoder_layers"],
        feed_forward=config["encoder_ffn_dim"],
        dropout=config["dropout"],
        attention_dropout=config["attention_dropout"],
        activation_dropout=config["activation_dropout"],
        norm="post",
        activation=_ACTIVATIONS[config["activation_function"]],  # type: ignore[arg-type]
        positions="sinusoidal_halves",
        scale_embedding=config["scale_embedding"],
        tie="none" if not tied else "all" if shared else "output",
        output_bias=True,
    )
    vocabularies = (
        source_vocabulary,
        source_vocabulary if shared else config.get("decoder_vocab_size") or source_vocabulary,
    )
    start, end = (_token(generation, config, name) for name in ("decoder_start_token_id", "eos_token_id"))
    layers = architecture.encoder_layers + architecture.decoder_layers
    if not 0 <= layers <= len(weights):
        raise InputError(f"its weights do not fit its configuration: they are not of {layers} layers")
    _check_positions(weights, architecture.d_model)
    network = build(
        lambda: EncoderDecoder(architecture, *vocabularies, start, end),
        layers,
        _renamed(weights, architecture, vocabularies[1]),
        "it",
    )
    assert network.output_bias is not None
    network.output_bias[_forbidden(generation, network.eos_id, network.target_vocabulary)] = SUPPRESSED
    return network


def _renamed(weights: dict[str, Tensor], architecture: Architecture, vocabulary: int) -> dict[str, Tensor]:
    """The weights of a Marian checkpoint by the names of our Transformer.

    Raises:
        InputError: There are weights that nothing of ours stands for.
        KeyError: One is missing.
    """
    # Tied matrices are stored under any of their names, or under all of them.
    places: dict[str, tuple[str, ...]]
    if architecture.tie == "all":
        places = {"target_embedding.weight": (_SHARED, _SOURCE, _TARGET, _OUTPUT)}
    elif architecture.tie == "output":
        places = {"source_embedding.weight": (_SOURCE,), "target_embedding.weight": (_TARGET, _OUTPUT)}
    else:
        places = {
            "source_embedding.weight": (_SOURCE if _SOURCE in weights else _SHARED,),
            "target_embedding.weight": (_TARGET if _TARGET in weights else _SHARED,),
            "output.weight": (_OUTPUT,),
        }
    found = {ours: _one(weights, theirs) for ours, theirs in places.items()}
    bias = weights.get("final_logits_bias")
    found["output_bias"] = torch.zeros(vocabulary) if bias is None else bias.flatten()
    used = {_SHARED, _SOURCE, _TARGET, _OUTPUT, *_TABLES, "final_logits_bias"}
    for side, layers, table in (
        ("encoder", architecture.encoder_layers, _ENCODER_LAYER),
        ("decoder", architecture.decoder_layers, _DECODER_LAYER),
    ):
        for layer, (ours, theirs), kind in product(range(layers), table.items(), ("weight", "bias")):
            names = [f"model.{side}.layers.{layer}.{name}.{kind}" for name in theirs]
            found[f"{side}.{layer}.{ours}.{kind}"] = torch.cat([weights[name] for name in names])
            used.update(names)
    if unknown := sorted(weights.keys() - used):
        raise InputError(f"it has {len(unknown)} weights of no known use: {', '.join(unknown[:3])}")
    return found


def _one(weights: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """The matrix that is stored under any of these names, or under several."""
    known = [name for name in names if name in weights]
    for other in known[1:]:
        if not torch.equal(weights[other], weights[known[0]]):
            raise InputError(
                f"by its configuration {known[0]} and {other} are one matrix, and they are stored as two"
            )
    return weights[known[0] if known else names[0]]


def _check_positions(weights: dict[str, Tensor], width: int) -> None:
    """Raise InputError if position vectors are stored that are not the ones that Marian computes."""
    for name in _TABLES:
        table = weights.get(name)
        # The last bits depend on who computed them.
        if table is not None and not torch.allclose(table, halved_sinusoids(len(table), width), atol=1e-3):
            raise InputError(f"its positions ({name}) are not Marian's sines and cosines")


def _forbidden(generation: dict[str, Any], eos_id: int, vocabulary: int) -> list[int]:
    """Tokens that are never generated."""
    words = generation.get("bad_words_ids") or []
    if others := [word for word in words if not isinstance(word, list) or len(word) != 1]:
        raise InputError(
            f"it forbids words of several tokens (bad_words_ids {others[:3]}), which depends on more than the last "
            "hidden state: take them out of generation_config.json to decode without it"
        )
    # As generate does: the end token is never a bad word.
    tokens = [*(generation.get("suppress_tokens") or []), *(word[0] for word in words if word != [eos_id])]
    if unknown := [token for token in tokens if type(token) is not int or not 0 <= token < vocabulary]:
        raise InputError(
            f"it forbids tokens that it does not have (bad_words_ids or suppress_tokens {unknown[:3]}): there are 0 to "
            f"{vocabulary - 1}"
        )
    return tokens


def _token(generation: dict[str, Any], config: dict[str, Any], name: str) -> int:
    value = config[name] if generation.get(name) is None else generation[name]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, int):
        raise InputError(f"its {name} is {value!r}, and decoding knows exactly one token")
    return value


def _read_weights(folder: Path) -> dict[str, Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if not safe.is_file() and not pickled.is_file():
        raise InputError("it has no weights, neither model.safetensors nor pytorch_model.bin")
    with damaged("its weights file", "fetch it again"):
        if safe.is_file():
            weights = load_file(safe)
        else:
            # What torch wrote before version 1.6 is no archive and cannot be mapped.
            mapped = zipfile.is_zipfile(pickled)
            weights = torch.load(pickled, map_location="cpu", weights_only=True, mmap=mapped)
        return {name: tensor.float() for name, tensor in weights.items()}


def read_codec(folder: Path) -> TextCodec:
    """The tokenizers in a Marian model's folder, as ``read_marian`` reads them."""
    settings = _read_json(folder / "tokenizer_config.json", default={})
    special = {
        name: _text(settings.get(f"{key}_token", default))
        for name, key, default in (
            ("end", "eos", "</s>"),
            ("unknown", "unk", "<unk>"),
            ("padding", "pad", "<pad>"),
        )
    }
    added = {_text(token) for token in settings.get("added_tokens_decoder", {}).values()} - set(
        special.values()
    )
    if added or settings.get("sp_model_kwargs"):
        what = (
            f"added tokens {sorted(added)[:3]}" if added else f"sp_model_kwargs {settings['sp_model_kwargs']}"
        )
        raise InputError(f"{folder} cannot be converted: its tokenizer_config.json has {what}")
    tokenizers = []
    for side in ("source", "target"):
        apart = side == "target" and settings.get("separate_vocabs", False)
        name = "target_vocab.json" if apart else "vocab.json"
        try:
            model = (folder / f"{side}.spm").read_bytes()
        except OSError as error:
            raise InputError(
                f"{folder} cannot be converted: {side}.spm cannot be read ({error.strerror})"
            ) from None
        try:
            pieces = _in_order(_read_json(folder / name))
            made_of = MarianPieces(
                model, pieces, clean_up=bool(settings.get("clean_up_tokenization_spaces")), **special
            )
            tokenizers.append(MarianTokenizer(made_of))
        except InputError as error:
            raise InputError(f"{folder} cannot be converted: {side}.spm with {name}: {error}") from None
    source, target = tokenizers
    return TextCodec(source, target)


def _in_order(vocabulary: dict[str, Any]) -> tuple[str, ...]:
    """The pieces of a vocabulary in the order of their ids."""
    ids = list(vocabulary.values())
    if any(type(number) is not int for number in ids) or sorted(ids) != list(range(len(ids))):
        raise InputError(
            f"the ids of its {len(ids)} pieces are not 0 to {len(ids) - 1}, each once and a whole number"
        )
    return tuple(sorted(vocabulary, key=vocabulary.__getitem__))


def _text(token: Any) -> str:
    """A token, which settings write as a string or with properties."""
    return token["content"] if isinstance(token, dict) else token


def _read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    if default is not None and not path.exists():
        return default
    return read_json(path, "fetch it again")
