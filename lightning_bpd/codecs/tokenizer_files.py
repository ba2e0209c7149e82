"""Tokenizers as bytes and as files, whichever of the two kinds they are (floor 2)."""

from __future__ import annotations

from pathlib import Path

from lightning_bpd.codecs.marian_tokenizer import MarianTokenizer
from lightning_bpd.codecs.tokenizers import Tokenizer

StoredTokenizer = Tokenizer | MarianTokenizer
# A SentencePiece model in a file of its own ends in .model.
_MARIAN = ".marian.json"


def file_name(tokenizer: StoredTokenizer, stem: str) -> str:
    """What a file is called that holds the tokenizer, such as ``source.model`` of ``source``."""
    return stem + (_MARIAN if isinstance(tokenizer, MarianTokenizer) else ".model")


def load_tokenizer(path: Path | str) -> StoredTokenizer:
    """The tokenizer in the file ``path``. Raises InputError, naming the file, if it holds none."""
    return (MarianTokenizer if str(path).endswith(_MARIAN) else Tokenizer).load(path)


def to_bytes(tokenizer: StoredTokenizer) -> bytes:
    """All that a tokenizer is."""
    return tokenizer.content if isinstance(tokenizer, MarianTokenizer) else tokenizer.model_proto


def from_bytes(content: bytes) -> StoredTokenizer:
    """The inverse of ``to_bytes``. Raises InputError if they hold no tokenizer."""
    # No SentencePiece model begins with a brace.
    return MarianTokenizer.from_content(content) if content.startswith(b"{") else Tokenizer(content)
