"""Released class-conditional checkpoints of LlamaGen and PAR as models of our own (floor 3).

Their layout: arXiv 2406.06525 and 2412.15119, and the state dictionaries of FoundationVision/LlamaGen and of its fork
for PAR.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_bpd.codecs.image_codes import ImageCodes
from lightning_bpd.codecs.image_tokenizers import read_tokenizer
from lightning_bpd.faults import damaged
from lightning_bpd.interfaces import InputError, Vocabularies
from lightning_bpd.models import TokenShape
from lightning_bpd.saved.finished_model import GenerativeModel
from lightning_bpd.saved.network import build

# Heads by width. The weights do not tell them.
_HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2560: 40, 3200: 32}
_TOP = {
    "class_embedding.weight": "cls_embedding.embedding_table.weight",
    "token_embedding.weight": "tok_embeddings.weight",
    "decoder_norm.weight": "norm.weight",
    "output.weight": "output.weight",
}
_LAYER = {
    "attention_norm.weight": ("attention_norm.weight",),
    "query_key_value.weight": ("attention.wqkv.weight",),
    "output.weight": ("attention.wo.weight",),
    "feed_forward_norm.weight": ("ffn_norm.weight",),
    "gate_up.weight": ("feed_forward.w1.weight", "feed_forward.w3.weight"),
    "down.weight": ("feed_forward.w2.weight",),
}
_TRANSITION = "spe_tok_embeddings.special_embeddings.weight"


def read_llamagen(
    path: str | Path, tokenizer: str, side: int = 384, heads: int | None = None
) -> GenerativeModel:
    """Read a checkpoint of LlamaGen or PAR, of the class-conditional kind.

    Args:
        path: The ``.pt`` file, of which tensors alone are read.
        tokenizer: Its tokenizer, ``hf:`` and the folder of a JanusVQVAE, which is LlamaGen's VQ-16.
        side: Height and width of the images that it was trained on, which the file does not tell.
        heads: Attention heads, for a width that was not released.

    Raises:
        InputError: The file is damaged or is no such checkpoint, or the tokenizer has another number of codes.
    """
    path = Path(path)
    with damaged(path, "it is no checkpoint of LlamaGen or PAR; fetch it again, or give another file"):
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # As single process, DDP, DeepSpeed or FSDP wrote it.
        stored = next((stored[key] for key in ("model", "module", "state_dict") if key in stored), stored)
        return _converted(stored, tokenizer, side, heads, str(path))


def _converted(
    stored: dict[str, Any], tokenizer: str, side: int, heads: int | None, where: str
) -> GenerativeModel:
    missing = [name for name in _TOP.values() if name not in stored]
    if missing:
        raise InputError(
            f"{where} holds no {missing[0]}: give a class-conditional checkpoint of LlamaGen or PAR"
        )
    weights = {name: stored[theirs].float() for name, theirs in _TOP.items()}
    layers = 0
    while f"layers.{layers}.attention.wqkv.weight" in stored:
        for name, theirs in _LAYER.items():
            parts = [stored[f"layers.{layers}.{each}"].float() for each in theirs]
            weights[f"decoder.{layers}.{name}"] = torch.cat(parts)
        layers += 1
    count = 1
    if _TRANSITION in stored:
        weights["transition"] = stored[_TRANSITION].float()
        count += len(weights["transition"])
    vocabulary, width = weights["token_embedding.weight"].shape
    heads = heads or _HEADS.get(width)
    if heads is None:
        raise InputError(f"{where}: a width of {width} was not released; say how many heads it has")
    shape = TokenShape(
        d_model=width,
        heads=heads,
        decoder_layers=layers,
        feed_forward=weights["decoder.0.down.weight"].size(1),
        regions=count,
        zero_rotary=True,
    )
    classes = len(weights["class_embedding.weight"]) - 1
    # Classes have no names in the checkpoint.
    codec = ImageCodes.of(read_tokenizer(tokenizer, (side, side, 3)), tuple(map(str, range(classes))))
    if codec.vocabulary != vocabulary:
        raise InputError(
            f"{where} has {vocabulary} codes and the tokenizer {tokenizer} has {codec.vocabulary}: give its own "
            "tokenizer"
        )
    vocabularies = Vocabularies(classes, vocabulary, vocabulary, grid=codec.grid)
    network = build(lambda: shape.build(vocabularies), layers, weights, where)
    return GenerativeModel(network, codec)
