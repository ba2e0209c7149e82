"""convert: from models of other projects, Marian, LlamaGen and PAR, to finished models of our own Transformers."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning_bpd.codecs import hugging_face
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.finished_model import GenerativeModel, is_finished, read_folder
from lightning_bpd.saved.llamagen import read_llamagen
from lightning_bpd.saved.marian import read_marian
from lightning_bpd.tracking.provenance import provenance

logger = logging.getLogger(__name__)


def convert(
    model: str, output: str, tokenizer: str | None = None, side: int = 384, heads: int | None = None
) -> None:
    """Make a finished model, one folder, of a model of another project.

    These are Marian models of Hugging Face, such as those of opus-mt, and checkpoints of LlamaGen and PAR, which
    generate images of a class. Greedy decoding of a Marian model gives what generate gives with one beam, token for
    token.

    Args:
        model: Folder of the Marian model: config.json, weights, source.spm, target.spm and vocab.json. Or a finished
            model with block heads on such a base: the heads come along, for hidden states stay the same. Or a .pt file
            of LlamaGen or PAR, of which tensors alone are read.
        output: Folder to write; a finished model that is already there is replaced.
        tokenizer: Of LlamaGen and PAR, the tokenizer of their images: hf: and the folder of a JanusVQVAE.
        side: Of LlamaGen and PAR, height and width of the images that they were trained on, 256 or 384.
        heads: Of LlamaGen and PAR, attention heads, for a width that was not released.
    """
    if Path(model).is_file():
        if tokenizer is None:
            raise InputError("--tokenizer is missing: give hf: and the folder of the tokenizer of its images")
        converted = read_llamagen(model, tokenizer, side, heads)
    elif tokenizer is not None or heads is not None:
        raise InputError(
            f"--tokenizer and --heads are for a .pt file of LlamaGen or PAR, which {model} is not"
        )
    else:
        converted = _with_heads(Path(model)) if is_finished(Path(model)) else read_marian(model)
    metrics = {"converted_from": str(Path(model).resolve().name), "provenance": provenance()}
    converted.save(output, metrics)
    size = converted.block_size
    drafting = "no block heads" if size is None else f"block heads for up to {size} tokens"
    weights = sum(weight.numel() for weight in converted.network.parameters())
    logger.info("%s: %s weights, %s", output, f"{weights:,}", drafting)


def _with_heads(folder: Path) -> GenerativeModel:
    """A finished model whose base is a Marian folder, with the base converted."""
    found = read_folder(folder)
    if not found.network.of_hugging_face:
        raise InputError(f"{folder} holds a network of this project already: there is nothing to convert")
    base = folder / hugging_face.BASE_FOLDER if found.origin is None else hugging_face.name_of(found.origin)
    converted = read_marian(base)
    return GenerativeModel(converted.network, converted.codec, found.heads)
