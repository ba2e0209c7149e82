"""Hugging Face models as bases: each adapter is a SequenceModel. The only importer of transformers."""

from importlib.util import find_spec

from lightning_bpd.interfaces import InputError

if find_spec("transformers") is None:
    raise InputError(
        "Hugging Face models need the package transformers, which is not installed: pip install 'lightning_bpd[hf]'"
    )

from lightning_bpd.adapters.custom_generate import BlockwiseOutput, Request, adopt
from lightning_bpd.adapters.decoder_only import CausalAdapter
from lightning_bpd.adapters.encoder_decoder import Seq2SeqAdapter
from lightning_bpd.adapters.generation import check_languages
from lightning_bpd.adapters.loading import (
    ModelAdapter,
    describe_adapter,
    load_adapter,
    load_config,
    load_generation,
    rebuild_adapter,
    refuse_own_code,
    row_settings,
    save_adapter,
)
from lightning_bpd.adapters.reference import Reference, parse_reference
from lightning_bpd.adapters.tokenizer import (
    CHAT,
    ModelTokenizer,
    RowSettings,
    check_template,
    load_tokenizer,
    tokenizer_files,
    tokenizer_of_files,
    warn_of_turns,
)

__all__ = [
    "CHAT",
    "BlockwiseOutput",
    "CausalAdapter",
    "ModelAdapter",
    "ModelTokenizer",
    "Reference",
    "Request",
    "RowSettings",
    "Seq2SeqAdapter",
    "adopt",
    "check_languages",
    "check_template",
    "describe_adapter",
    "load_adapter",
    "load_config",
    "load_generation",
    "load_tokenizer",
    "parse_reference",
    "rebuild_adapter",
    "refuse_own_code",
    "row_settings",
    "save_adapter",
    "tokenizer_files",
    "tokenizer_of_files",
    "warn_of_turns",
]
