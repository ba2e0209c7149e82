"""convert: from a Hugging Face Marian model to a finished model of our own Transformer."""

from __future__ import annotations

from pathlib import Path

from lightning_bpd.tasks.finished_model import write_folder
from lightning_bpd.tasks.marian import read_marian
from lightning_bpd.tracking.provenance import provenance


def convert(model: str, output: str) -> None:
    """Make a finished model, one folder, of a Hugging Face Marian model, such as those of opus-mt.

    Greedy decoding gives what generate gives with one beam, token for token.

    Args:
        model: Folder of the Marian model: config.json, weights, source.spm, target.spm and vocab.json.
        output: Folder to write; a finished model that is already there is replaced.
    """
    metrics = {"converted_from": str(Path(model).resolve().name), "provenance": provenance()}
    write_folder(read_marian(model), Path(output), metrics)
