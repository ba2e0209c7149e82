"""Hugging Face models as bases: each adapter is a SequenceModel. The only importer of transformers."""

from importlib.util import find_spec

from lightning_bpd.interfaces import InputError

if find_spec("transformers") is None:
    raise InputError(
        "Hugging Face models need the package transformers, which is not installed: pip install 'lightning_bpd[hf]'"
    )

from lightning_bpd.adapters.decoder_only import CausalAdapter
from lightning_bpd.adapters.encoder_decoder import Seq2SeqAdapter

__all__ = ["CausalAdapter", "Seq2SeqAdapter"]
