"""Hugging Face models as bases: what their tokens mean, and what a finished model's folder says of them (floor 2).

``transformers`` is loaded by what needs it alone, and its absence is an InputError that says what to install.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lightning_bpd.codecs.text import text_likelihood, text_pieces, text_quality, text_signature
from lightning_bpd.faults import damaged
from lightning_bpd.files import path_inside
from lightning_bpd.interfaces import InputError

if TYPE_CHECKING:
    from torchmetrics import Metric

    from lightning_bpd.adapters import ModelAdapter, ModelTokenizer

PREFIX = "hf:"
REMEDY = "fetch or save the model again"
# Where a finished model keeps a base that was trained together with its heads.
BASE_FOLDER = "base"


def is_reference(path: object) -> bool:
    """Whether a setting names a Hugging Face model: ``hf:NAME_OR_FOLDER``."""
    return str(path).startswith(PREFIX)


@dataclass(frozen=True)
class HuggingFaceCodec:
    """Text as the tokens of a Hugging Face model's own tokenizer (a Codec)."""

    source: ModelTokenizer
    target: ModelTokenizer
    bleu_tokenizer: str = "13a"
    """what sacreBLEU cuts text with"""
    kind: ClassVar[str] = "text"
    remedy: ClassVar[str] = "let data.tokenizer name the same model as model.base, or leave it out"
    ordinal: ClassVar[bool] = False

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each target row."""
        return self.target.decode(rows)

    def pieces(self, prefix: Sequence[int], tokens: Sequence[int]) -> list[str]:
        """What each token adds to the text of those before it; ``▁`` is a space, ``</s>`` the end token."""
        return text_pieces(self.target, prefix, tokens)

    def quality(self) -> dict[str, Metric]:
        """BLEU and chrF."""
        return text_quality(self.bleu_tokenizer)

    def likelihood(self) -> dict[str, Metric]:
        """Perplexity."""
        return text_likelihood()

    def signature(self) -> str:
        """sacreBLEU's, of BLEU."""
        return text_signature(self.bleu_tokenizer)

    def parts(self) -> Mapping[str, str]:
        """What tells the tokenizers of both sides apart from others; prompts may be made of text in any way."""
        return {
            f"{name} tokenizer": f"{side.vocab_size} tokens, fingerprint {side.identity}"
            for name, side in (("source", self.source), ("target", self.target))
        }

    def describe(self) -> dict[str, Any]:
        """The bytes of the tokenizer's files, how text becomes rows, and fingerprints."""
        from lightning_bpd.adapters import tokenizer_files

        files = tokenizer_files(self.source.tokenizer)
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
        """The inverse of ``describe``."""
        from lightning_bpd.adapters import RowSettings, tokenizer_of_files

        stored = description["hugging_face_tokenizer"]
        settings = RowSettings(**stored["settings"])
        files = {name: content.numpy().tobytes() for name, content in stored["files"].items()}
        return make_codec(
            tokenizer_of_files(files, settings), settings, description.get("bleu_tokenizer", "13a")
        )

    def write(self, folder: Path) -> dict[str, Any]:
        """The tokenizer's files, as ``save_pretrained`` writes them."""
        self.source.tokenizer.save_pretrained(folder)
        return self.config()

    def config(self) -> dict[str, Any]:
        """What a finished model's config.json says of it."""
        return {
            "hugging_face_tokenizer": {
                "settings": dataclasses.asdict(self.source.settings),
                "fingerprints": dict(self.parts()),
            },
            "bleu_tokenizer": self.bleu_tokenizer,
        }


def make_codec(tokenizer: Any, settings: Any, bleu_tokenizer: str = "13a") -> HuggingFaceCodec:
    """The codec of a tokenizer (as transformers gives it) and RowSettings."""
    from lightning_bpd.adapters import ModelTokenizer

    return HuggingFaceCodec(
        ModelTokenizer(tokenizer, "source", settings),
        ModelTokenizer(tokenizer, "target", settings),
        bleu_tokenizer,
    )


def with_template(codec: HuggingFaceCodec, template: str) -> HuggingFaceCodec:
    """The same codec for prompts that are made of source lines otherwise; see adapters.RowSettings.

    Raises:
        InputError: The codec is not a decoder-only model's, or the template cannot be used.
    """
    from lightning_bpd import adapters

    settings = codec.source.settings
    if not settings.prompts:
        raise InputError(
            "the base is an encoder-decoder, which takes no prompts: use ParallelText for its data"
        )
    adapters.check_template(codec.source.tokenizer, template)
    made = make_codec(
        codec.source.tokenizer, dataclasses.replace(settings, template=template), codec.bleu_tokenizer
    )
    if template == adapters.CHAT:
        adapters.warn_of_turns(made.target)
    return made


def open_codec(reference: str) -> HuggingFaceCodec:
    """What the tokens of a Hugging Face model mean; its weights are not read.

    Args:
        reference: ``hf:NAME_OR_FOLDER``, and options.

    Raises:
        InputError: There is no such model, or it has no tokenizer; or the target language is named alone.
    """
    from lightning_bpd import adapters

    parsed = adapters.parse_reference(reference)
    with damaged(reference, REMEDY):
        config = adapters.load_config(parsed)
        tokenizer = adapters.load_tokenizer(parsed)
        adapters.check_languages(tokenizer, parsed)
        generation = adapters.load_generation(parsed, config, tokenizer)
        return make_codec(tokenizer, adapters.row_settings(parsed, config, generation))


def open_network(reference: str) -> ModelAdapter:
    """A Hugging Face model as a network.

    Raises:
        InputError: It cannot be loaded, or cannot be a base; the message says what is missing.
    """
    from lightning_bpd import adapters

    with damaged(reference, REMEDY):
        return adapters.load_adapter(adapters.parse_reference(reference))


def write_base(
    network: ModelAdapter, codec: HuggingFaceCodec, origin: str | None, fingerprint: str, folder: Path
) -> dict[str, Any]:
    """What config.json says of base and tokenizer; those that lie nowhere else are written into ``folder / "base"``.

    Args:
        network: The base.
        codec: Its tokens.
        origin: The reference that the base was read from and still equals; None where it was trained since.
        fingerprint: Of its weights.
        folder: The finished model's.
    """
    from lightning_bpd import adapters

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
    """Raise InputError if a base is to be trained whose finished model could not be read without code of its own."""
    from lightning_bpd import adapters

    adapters.refuse_own_code(network, codec.source.tokenizer, reference)


def name_of(reference: str) -> str:
    """The folder or the hub's name in a reference."""
    from lightning_bpd import adapters

    return adapters.parse_reference(reference).name


def stored_reference(reference: str, moved: str | None = None) -> str:
    """A reference that a file holds, without leave to run code: that is for the user to give, not for the file.

    Args:
        reference: What the file holds.
        moved: Where the model is now, if it has moved; what options this gives hold, and the stored ones else.
    """
    from lightning_bpd import adapters

    stored = adapters.parse_reference(reference)
    if moved is None and not stored.trust_remote_code:
        return reference
    stored = dataclasses.replace(stored, trust_remote_code=False)
    return str(stored if moved is None else adapters.parse_reference(moved, stored))


def weight_type(reference: str) -> torch.dtype:
    """The type that the weights of a referenced model are loaded in."""
    from lightning_bpd import adapters

    return getattr(torch, adapters.parse_reference(reference).dtype)


def base_reference(folder: Path, config: Mapping[str, Any], moved: str | None = None) -> str:
    """Where the base of a finished model is; one inside its folder is named with it. Its code is not trusted.

    Args:
        folder: The finished model's.
        config: Its configuration.
        moved: Where its base is now, if it has moved.
    """
    from lightning_bpd import adapters

    where = stored_reference(config["base"]["hugging_face"], moved)
    if moved is None and config["base"]["inside"]:
        parsed = adapters.parse_reference(where)
        where = str(dataclasses.replace(parsed, name=str(path_inside(folder, parsed.name))))
    return where


def read_codec(folder: Path, config: Mapping[str, Any], reference: str | None = None) -> HuggingFaceCodec:
    """The codec of a finished model.

    Args:
        folder: The finished model's.
        config: Its configuration.
        reference: Where its base is now, if it has moved.

    Raises:
        InputError: The tokenizer is another one than the heads were trained with.
    """
    from lightning_bpd import adapters

    stored = config["hugging_face_tokenizer"]
    where = reference or base_reference(folder, config)
    tokenizer = adapters.load_tokenizer(adapters.parse_reference(where))
    settings = adapters.RowSettings(**stored["settings"])
    codec = make_codec(tokenizer, settings, config.get("bleu_tokenizer", "13a"))
    for name, own in stored["fingerprints"].items():
        if codec.parts()[name] != own:
            raise InputError(
                f"the model in {folder} was trained with another {name} ({own}) than {where} has "
                f"({codec.parts()[name]}): name the base that it was trained on"
            )
    return codec


def describe_network(network: ModelAdapter) -> dict[str, Any]:
    """What rebuilds the network, weights aside, as plain data."""
    from lightning_bpd import adapters

    return {"hugging_face": adapters.describe_adapter(network)}


def rebuild_network(config: Mapping[str, Any], weights: Mapping[str, Tensor], where: str) -> ModelAdapter:
    """The inverse of ``describe_network``, with its weights."""
    from lightning_bpd import adapters

    return adapters.rebuild_adapter(config["hugging_face"], weights, where)
