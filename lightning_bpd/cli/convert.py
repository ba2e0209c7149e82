"""convert: from a Hugging Face Marian model to a finished model of our own Transformer."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning_bpd.codecs import hugging_face
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.finished_model import GenerativeModel, is_finished, read_folder
from lightning_bpd.saved.marian import read_marian
from lightning_bpd.tracking.provenance import provenance

logger = logging.getLogger(__name__)


def convert(model: str, output: str) -> None:
    """Make a finished model, one folder, of a Hugging Face Marian model, such as those of opus-mt.

    Greedy decoding gives what generate gives with one beam, token for token.

    Args:
        model: Folder of the Marian model: config.json, weights, source.spm, target.spm and vocab.json. Or a finished
            model with block heads on such a base: the heads come along, for hidden states stay the same.
        output: Folder to write; a finished model that is already there is replaced.
    """
    converted = _with_heads(Path(model)) if is_finished(Path(model)) else read_marian(model)
    metrics = {"converted_from": str(Path(model).resolve().name), "provenance": provenance()}
    converted.save(output, metrics)
    size = converted.block_size
    heads = "no block heads" if size is None else f"block heads for up to {size} tokens"
    weights = sum(weight.numel() for weight in converted.network.parameters())
    logger.info("%s: %s weights, %s", output, f"{weights:,}", heads)


def _with_heads(folder: Path) -> GenerativeModel:
    """A finished model whose base is a Marian folder, with the base converted."""
    found = read_folder(folder)
    if not found.network.of_hugging_face:
        raise InputError(f"{folder} holds a network of this project already: there is nothing to convert")
    base = folder / hugging_face.BASE_FOLDER if found.origin is None else hugging_face.name_of(found.origin)
    converted = read_marian(base)
    return GenerativeModel(converted.network, converted.codec, found.heads)
