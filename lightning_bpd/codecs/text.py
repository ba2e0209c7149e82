"""Text on both sides: a tokenizer for each side or one for both, and BLEU (floor 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lightning_bpd.codecs.codec import Codec
from lightning_bpd.codecs.tokenizer_files import StoredTokenizer, from_bytes, load_tokenizer
from lightning_bpd.codecs.tokenizers import TextSide
from lightning_bpd.files import path_inside
from lightning_bpd.interfaces import Vocabularies

if TYPE_CHECKING:
    from torchmetrics import Metric


class TextualCodec(Codec):
    """Text on both sides, cut into tokens somehow."""

    source: TextSide
    target: TextSide
    bleu_tokenizer: str
    """sacreBLEU's tokenizer"""
    kind: ClassVar[str] = "text"
    remedy: ClassVar[str] = "let data.tokenizer name the tokenizer in the model's folder"
    ordinal: ClassVar[bool] = False

    @property
    def sides(self) -> dict[str, TextSide]:
        """The tokenizers by side."""
        return {"source": self.source, "target": self.target}

    @property
    def vocabularies(self) -> Vocabularies:
        """The sizes of both vocabularies, and the target side's start and end tokens."""
        source, target = self.source, self.target
        return Vocabularies(source.vocab_size, target.vocab_size, target.bos_id, target.eos_id)

    @property
    def prompts(self) -> bool:
        """Whether sources are prompts for a decoder-only model."""
        return False

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each target row."""
        return self.target.decode(rows)

    def pieces(self, prefix: Sequence[int], tokens: Sequence[int]) -> list[str]:
        """Return the text that each token adds; ``▁`` is a space, ``</s>`` the end token."""
        row = [*prefix, *tokens]
        rows = [row[:length] for length in range(len(prefix), len(row) + 1)]
        before, *texts = self.target.decode(rows)
        pieces = []
        for token, text in zip(tokens, texts, strict=True):
            # A character may be several tokens; until it is complete, the text holds U+FFFD instead.
            added = text.removeprefix(before.rstrip("\ufffd")).replace(" ", "▁")
            # Start and padding tokens have no text.
            pieces.append("</s>" if token == self.target.eos_id else added or f"<{token}>")
            before = text
        return pieces

    def quality(self) -> dict[str, Metric]:
        """Make BLEU and chrF."""
        # Imported here, because the imports of metrics are slow and translating does not need them.
        from lightning_bpd.metrics import CorpusBleu, CorpusChrf

        return {"bleu": CorpusBleu(self.bleu_tokenizer), "chrf": CorpusChrf()}

    def likelihood(self) -> dict[str, Metric]:
        """Make perplexity."""
        from lightning_bpd.metrics import Perplexity

        return {"perplexity": Perplexity()}

    def signature(self) -> str:
        """Return sacreBLEU's signature of BLEU."""
        return text_signature(self.bleu_tokenizer)

    def parts(self) -> Mapping[str, str]:
        """Return the sizes and fingerprints of both tokenizers."""
        return {
            f"{name} tokenizer": f"{side.vocab_size} tokens, fingerprint {side.fingerprint}"
            for name, side in self.sides.items()
        }


@dataclass(frozen=True)
class TextCodec(TextualCodec):
    """Text as tokens of tokenizers that are files (a Codec)."""

    source: StoredTokenizer
    target: StoredTokenizer
    """the object of ``source`` if the vocabulary is joint"""
    bleu_tokenizer: str = "13a"

    def describe(self) -> dict[str, Any]:
        """Return the tokenizers' bytes and fingerprints."""
        return {
            "tokenizers": {
                side: torch.frombuffer(bytearray(tokenizer.content), dtype=torch.uint8)
                for side, tokenizer in (("source", self.source), ("target", self.target))
            },
            "fingerprints": dict(self.parts()),
            "bleu_tokenizer": self.bleu_tokenizer,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> TextCodec:
        """Make the codec from the output of ``describe``."""
        source, target = (
            from_bytes(description["tokenizers"][side].numpy().tobytes()) for side in ("source", "target")
        )
        return cls(source, target, stored_bleu_tokenizer(description))

    def write(self, folder: Path) -> dict[str, Any]:
        """Write one file for a tokenizer of both sides, or one file for each: ``source`` and ``target``."""
        joint = self.source.fingerprint == self.target.fingerprint
        names = {"target": f"{'tokenizer' if joint else 'target'}{self.target.ending}"}
        if not joint:
            names["source"] = f"source{self.source.ending}"
        for side, name in names.items():
            getattr(self, side).save(folder / name)
        return {"tokenizers": names, "bleu_tokenizer": self.bleu_tokenizer}

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any]) -> TextCodec:
        """Read a codec that ``write`` wrote."""
        names = config["tokenizers"]
        target = load_tokenizer(path_inside(folder, names["target"]))
        source = load_tokenizer(path_inside(folder, names["source"])) if "source" in names else target
        return cls(source, target, stored_bleu_tokenizer(config))


def stored_bleu_tokenizer(config: Mapping[str, Any]) -> str:
    """Return sacreBLEU's tokenizer that a finished model names, 13a by default. Raises TypeError if it is no name."""
    name = config.get("bleu_tokenizer", "13a")
    if not isinstance(name, str):
        raise TypeError(f"its bleu_tokenizer is {str(name)[:50]!r}")
    return name


def text_signature(bleu_tokenizer: str) -> str:
    """Return sacreBLEU's signature of BLEU."""
    from lightning_bpd.metrics import bleu_signature

    return bleu_signature(bleu_tokenizer)
