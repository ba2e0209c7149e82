"""Tiny Marian models as transformers writes them: random weights, SentencePiece models of the generated corpus."""

from __future__ import annotations

import io
import json
import logging
import os
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
import sentencepiece
import torch
import transformers

from tools.demo_corpus.sentences import sentence_pairs

ENGLISH, GERMAN = map(list, zip(*islice(sentence_pairs(3), 400), strict=True))
LANGUAGE = ">>deu<<"

logging.getLogger("transformers").setLevel(logging.ERROR)


@cache
def sentencepiece_model(side: str, **settings: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter({"source": ENGLISH, "target": GERMAN}[side]),
        model_writer=model,
        vocab_size=110,
        model_type="unigram",
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    return model.getvalue()


def vocabulary(*sides: str) -> dict[str, int]:
    """As opus-mt's: end and unknown first, then pieces of all sides in an order of their own, padding last."""
    pieces = set()
    for side in sides:
        model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(side))
        # Marian's vocabulary lacks pieces that its training text never showed.
        pieces |= {model.id_to_piece(number) for number in range(3, model.vocab_size()) if number % 17}
    names = ["</s>", "<unk>", LANGUAGE, *sorted(pieces), "<pad>"]
    return {name: number for number, name in enumerate(names)}


def change(file: Path, **settings: Any) -> None:
    """Set some keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def write_tokenizer(folder: Path, separate: bool = False, **settings: Any) -> transformers.MarianTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    for side in ("source", "target"):
        (folder / f"{side}.spm").write_bytes(sentencepiece_model(side))
    sides = ("source",) if separate else ("source", "target")
    (folder / "vocab.json").write_text(json.dumps(vocabulary(*sides)))
    if separate:
        (folder / "target_vocab.json").write_text(json.dumps(vocabulary("target")))
        settings["separate_vocabs"] = True
    files = {"source_spm": "source.spm", "target_spm": "target.spm", "vocab": "vocab.json"}
    if separate:
        files["target_vocab_file"] = "target_vocab.json"
    tokenizer = transformers.MarianTokenizer(
        **{name: str(folder / file) for name, file in files.items()}, **settings
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_marian(folder: Path, seed: int = 0, separate: bool = False, **settings: Any) -> Any:
    """A model with its tokenizer in ``folder``; returns transformers' own, in float64 and eval mode."""
    write_tokenizer(folder, separate)
    sizes = [
        len(json.loads((folder / name).read_text()))
        for name in ("vocab.json", "target_vocab.json")[: 1 + separate]
    ]
    padding = sizes[-1] - 1
    shape: dict[str, Any] = {
        "vocab_size": sizes[0], "decoder_vocab_size": sizes[-1], "share_encoder_decoder_embeddings": not separate,
        "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 256,
        "activation_function": "swish", "scale_embedding": True, "pad_token_id": padding, "eos_token_id": 0,
        "bos_token_id": None, "decoder_start_token_id": padding, "forced_eos_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.MarianMTModel(transformers.MarianConfig(**(shape | settings))).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), ("final_logits_bias", model.final_logits_bias)]:
            if "embed_positions" not in name:
                # Biases too, which begin as zeros. Norms of either sign, and a source that does not drown what the row
                # itself says, or rows would repeat one token.
                std = (
                    1.0
                    if "norm.weight" in name
                    else 0.1
                    if "bias" in name or "encoder_attn.out" in name
                    else 0.7
                )
                tensor.normal_(std=std)
        # Nothing but its being forbidden keeps the padding token away.
        model.final_logits_bias[0, padding] += 20.0
    model.generation_config = transformers.GenerationConfig(
        bad_words_ids=[[padding]], pad_token_id=padding, eos_token_id=0, decoder_start_token_id=padding,
        forced_eos_token_id=None,
    )  # fmt: skip
    model.save_pretrained(folder)
    return model.double()
