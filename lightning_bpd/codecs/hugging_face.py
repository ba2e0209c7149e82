"""Hugging Face models as bases: their codec, and their description in a finished model's folder (floor 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lightning_bpd.codecs.text import TextualCodec, stored_bleu_tokenizer
from lightning_bpd.faults import damaged
from lightning_bpd.files import path_inside
from lightning_bpd.interfaces import InputError

if TYPE_CHECKING:
    from lightning_bpd import adapters
    from lightning_bpd.adapters import ModelAdapter, ModelTokenizer
else:

    class _Adapters:
        """The module, imported at its first use: it needs transformers, and says so if that is missing."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("lightning_bpd.adapters"), name)

    adapters = _Adapters()

PREFIX = "hf:"
REMEDY = "fetch or save the model again"
# The subfolder of a finished model for a base that was trained together with its heads.
BASE_FOLDER = "base"


def is_reference(path: object) -> bool:
    """Whether a setting names a Hugging Face model: ``hf:NAME_OR_FOLDER``."""
    return str(path).startswith(PREFIX)


@dataclass(frozen=True)
class HuggingFaceCodec(TextualCodec):
    """Text as tokens of a Hugging Face model's tokenizer (a Codec)."""

    source: ModelTokenizer
    target: ModelTokenizer
    bleu_tokenizer: str = "13a"
    remedy: ClassVar[str] = "let data.tokenizer name the same model as model.base, or leave it out"

    @property
    def prompts(self) -> bool:
        """Whether the model is decoder-only."""
        return bool(self.source.settings.prompts)

    def parts(self) -> Mapping[str, str]:
        """Return the sizes and fingerprints of both tokenizers; prompt templates do not count."""
        return {
            f"{name} tokenizer": f"{side.vocab_size} tokens, fingerprint {side.identity}"
            for name, side in (("source", self.source), ("target", self.target))
        }

    def describe(self) -> dict[str, Any]:
        """Return the bytes of the tokenizer's files, the settings of rows, and fingerprints."""
        files = adapters.tokenizer_files(self.source.tokenizer)
        return {
            "hugging_face_tokenizer": {
                "files": {
                    name: torch.frombuffer(bytearray(content), dtype=torch.uint8)
                    for name, content in files.items()
                },
                "settings": dataclasses.asdict(self.source.settings),
            },
            "fingerprints": dict(self.parts()),
            "bleu_tokenizer": self.bleu_tokenizer,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> HuggingFaceCodec:
        """Make the codec from the output of ``describe``."""
        stored = description["hugging_face_tokenizer"]
        settings = adapters.RowSettings(**stored["settings"])
        files = {name: content.numpy().tobytes() for name, content in stored["files"].items()}
        return make_codec(
            adapters.tokenizer_of_files(files, settings), settings, stored_bleu_tokenizer(description)
        )

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer's files by ``save_pretrained``; return ``config()``."""
        self.source.tokenizer.save_pretrained(folder)
        return self.config()

    def config(self) -> dict[str, Any]:
        """Return the codec's part of a finished model's config.json."""
        return {
            "hugging_face_tokenizer": {
                "settings": dataclasses.asdict(self.source.settings),
                "fingerprints": dict(self.parts()),
            },
            "bleu_tokenizer": self.bleu_tokenizer,
        }


def make_codec(tokenizer: Any, settings: Any, bleu_tokenizer: str = "13a") -> HuggingFaceCodec:
    """Make the codec of a tokenizer of transformers and RowSettings."""
    return HuggingFaceCodec(
        adapters.ModelTokenizer(tokenizer, "source", settings),
        adapters.ModelTokenizer(tokenizer, "target", settings),
        bleu_tokenizer,
    )


def with_template(codec: HuggingFaceCodec, template: str) -> HuggingFaceCodec:
    """Return a copy of a decoder-only model's codec with another prompt template; see adapters.RowSettings.

    Raises InputError if the template cannot be used.
    """
    settings = codec.source.settings
    adapters.check_template(codec.source.tokenizer, template)
    made = make_codec(
        codec.source.tokenizer, dataclasses.replace(settings, template=template), codec.bleu_tokenizer
    )
    if template == adapters.CHAT:
        adapters.warn_of_turns(made.target)
    return made


def open_codec(reference: str) -> HuggingFaceCodec:
    """Load the codec of the Hugging Face model ``hf:NAME_OR_FOLDER``, without its weights.

    Raises InputError if there is no such model, it has no tokenizer, or only its target language is named.
    """
    parsed = adapters.parse_reference(reference)
    with damaged(reference, REMEDY):
        config = adapters.load_config(parsed)
        tokenizer = adapters.load_tokenizer(parsed)
        adapters.check_languages(tokenizer, parsed)
        generation = adapters.load_generation(parsed, config, tokenizer)
        return make_codec(tokenizer, adapters.row_settings(parsed, config, generation))


def open_network(reference: str) -> ModelAdapter:
    """Load a Hugging Face model as a network. Raises InputError if it cannot be loaded, or cannot be a base."""
    parsed = adapters.parse_reference(reference)
    with damaged(reference, REMEDY):
        return adapters.load_adapter(parsed)


def write_base(
    network: ModelAdapter, codec: HuggingFaceCodec, origin: str | None, fingerprint: str, folder: Path
) -> dict[str, Any]:
    """Return the description of base and tokenizer for config.json; write a trained base into ``folder / "base"``.

    Args:
        network: The base.
        codec: The base's codec.
        origin: The reference of the base, if the base still equals it; None if the base was trained since.
        fingerprint: Fingerprint of the base's weights.
        folder: The finished model's folder.
    """
    inside = origin is None
    if origin is None:
        settings = codec.source.settings
        reference = adapters.Reference(
            BASE_FOLDER,
            src_lang=settings.src_lang,
            tgt_lang=settings.tgt_lang,
            dtype=adapters.describe_adapter(network)["dtype"],
            longest_prompt=network.longest_prompt if isinstance(network, adapters.CausalAdapter) else None,
        )
        adapters.save_adapter(network, folder / BASE_FOLDER)
        codec.write(folder / BASE_FOLDER)
        origin = str(reference)
    base = {"hugging_face": origin, "inside": inside, "fingerprint": fingerprint}
    return {"base": base, **codec.config()}


def refuse_own_code(network: ModelAdapter, codec: HuggingFaceCodec, reference: str) -> None:
    """Raise InputError if a model trained from this base could not be loaded without the base's own code."""
    adapters.refuse_own_code(network, codec.source.tokenizer, reference)


def name_of(reference: str) -> str:
    """Return the folder, or the name on the hub, in a reference."""
    return adapters.parse_reference(reference).name


def stored_reference(reference: str, moved: str | None = None) -> str:
    """Return a reference stored in a file, without permission to run code: only the user may give it.

    If the model has moved, ``moved`` is its new reference, whose options override the stored ones.
    """
    stored = adapters.parse_reference(reference)
    if moved is None and not stored.trust_remote_code:
        return reference
    stored = dataclasses.replace(stored, trust_remote_code=False)
    return str(stored if moved is None else adapters.parse_reference(moved, stored))


def weight_type(reference: str) -> torch.dtype:
    """Return the dtype of a referenced model's weights."""
    return getattr(torch, adapters.parse_reference(reference).dtype)


def base_reference(folder: Path, config: Mapping[str, Any], moved: str | None = None) -> str:
    """Return the reference of a finished model's base, inside the model's folder or elsewhere, without trust in code.

    ``config`` is the finished model's configuration, and ``moved`` the base's new reference, if it has moved.
    """
    where = stored_reference(config["base"]["hugging_face"], moved)
    if moved is None and config["base"]["inside"]:
        parsed = adapters.parse_reference(where)
        where = str(dataclasses.replace(parsed, name=str(path_inside(folder, parsed.name))))
    return where


def read_codec(folder: Path, config: Mapping[str, Any], reference: str | None = None) -> HuggingFaceCodec:
    """Load the codec of a finished model; ``reference`` is the base's new reference, if it has moved.

    Raises InputError if the tokenizer is not that of the model's training.
    """
    stored = config["hugging_face_tokenizer"]
    where = reference or base_reference(folder, config)
    tokenizer = adapters.load_tokenizer(adapters.parse_reference(where))
    settings = adapters.RowSettings(**stored["settings"])
    codec = make_codec(tokenizer, settings, stored_bleu_tokenizer(config))
    for name, fingerprint in stored["fingerprints"].items():
        if codec.parts()[name] != fingerprint:
            raise InputError(
                f"the model in {folder} was trained with another {name} ({fingerprint}) than {where} has "
                f"({codec.parts()[name]}): name the base that it was trained on"
            )
    return codec


def describe_network(network: ModelAdapter) -> dict[str, Any]:
    """Return the plain data from which ``rebuild_network`` makes the network again, without its weights."""
    return {"hugging_face": adapters.describe_adapter(network)}


def rebuild_network(config: Mapping[str, Any], weights: Mapping[str, Tensor], where: str) -> ModelAdapter:
    """Make the network from the output of ``describe_network`` and its weights."""
    return adapters.rebuild_adapter(config["hugging_face"], weights, where)
