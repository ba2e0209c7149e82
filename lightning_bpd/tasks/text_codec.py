"""Text on both sides: two tokenizers, or one for both, and BLEU (floor 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lightning_bpd.tasks.text import Tokenizer

if TYPE_CHECKING:
    from torchmetrics import Metric


@dataclass(frozen=True)
class TextCodec:
    """Text as tokens (a Codec)."""

    source: Tokenizer
    target: Tokenizer
    """the same object as ``source`` where the vocabulary is joint"""
    kind: ClassVar[str] = "text"
    remedy: ClassVar[str] = "let data.tokenizer name the tokenizer in the model's folder"
    ordinal: ClassVar[bool] = False

    @property
    def sides(self) -> dict[str, Tokenizer]:
        """The tokenizers by the side that they are for."""
        return {"source": self.source, "target": self.target}

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each target row."""
        return self.target.decode(rows)

    def pieces(self, prefix: Sequence[int], tokens: Sequence[int]) -> list[str]:
        """What each token adds to the text of those before it; ``▁`` is a space, ``</s>`` the end token."""
        row = [*prefix, *tokens]
        before, *texts = self.decode([row[:length] for length in range(len(prefix), len(row) + 1)])
        found = []
        for token, text in zip(tokens, texts, strict=True):
            # A character may be several tokens; until it is whole, SentencePiece puts U+FFFD in its place.
            added = text.removeprefix(before.rstrip("\ufffd")).replace(" ", "▁")
            # Start and padding have no text.
            found.append("</s>" if token == self.target.eos_id else added or f"<{token}>")
            before = text
        return found

    def quality(self) -> dict[str, Metric]:
        """BLEU."""
        # Not above: translating needs no metrics, and would wait for what they import.
        from lightning_bpd.metrics import CorpusBleu

        return {"bleu": CorpusBleu()}

    def likelihood(self) -> dict[str, Metric]:
        """Perplexity."""
        from lightning_bpd.metrics import Perplexity

        return {"perplexity": Perplexity()}

    def signature(self) -> str:
        """sacreBLEU's."""
        from lightning_bpd.metrics import bleu_signature

        return bleu_signature()

    def parts(self) -> Mapping[str, str]:
        """Both tokenizers' fingerprints."""
        return {
            f"{side} tokenizer": f"{tokenizer.vocab_size} tokens, fingerprint {tokenizer.fingerprint}"
            for side, tokenizer in self.sides.items()
        }

    def describe(self) -> dict[str, Any]:
        """The tokenizers' bytes, and their fingerprints."""
        return {
            "tokenizers": {
                side: torch.frombuffer(bytearray(tokenizer.model_proto), dtype=torch.uint8)
                for side, tokenizer in self.sides.items()
            },
            "fingerprints": dict(self.parts()),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> TextCodec:
        """The inverse of ``describe``."""
        source, target = (
            Tokenizer(description["tokenizers"][side].numpy().tobytes()) for side in ("source", "target")
        )
        return cls(source, target)

    def write(self, folder: Path) -> dict[str, Any]:
        """``tokenizer.model``, or ``source.model`` and ``target.model``."""
        joint = self.source.fingerprint == self.target.fingerprint
        names = (
            {"target": "tokenizer.model"} if joint else {"source": "source.model", "target": "target.model"}
        )
        self.target.save(folder / names["target"])
        if not joint:
            self.source.save(folder / names["source"])
        return {"tokenizers": names}

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any]) -> TextCodec:
        """The inverse of ``write``."""
        names = config["tokenizers"]
        target = Tokenizer.load(folder / names["target"])
        return cls(Tokenizer.load(folder / names["source"]) if "source" in names else target, target)
