"""Tokenizers of both kinds as bytes and as files (floor 2)."""

from __future__ import annotations

from pathlib import Path

from lightning_bpd.codecs.marian_tokenizer import MarianTokenizer
from lightning_bpd.codecs.tokenizers import Tokenizer

StoredTokenizer = Tokenizer | MarianTokenizer
# A SentencePiece model in a file of its own ends in .model.
_MARIAN = ".marian.json"


def file_name(tokenizer: StoredTokenizer, stem: str) -> str:
    """Return the name of the tokenizer's file, such as ``source.model`` for the stem ``source``."""
    return stem + (_MARIAN if isinstance(tokenizer, MarianTokenizer) else ".model")


def load_tokenizer(path: Path | str) -> StoredTokenizer:
    """Load the tokenizer in the file ``path``. Raises InputError, naming the file, if it holds none."""
    return (MarianTokenizer if str(path).endswith(_MARIAN) else Tokenizer).load(path)


def to_bytes(tokenizer: StoredTokenizer) -> bytes:
    """Return a tokenizer as bytes."""
    return tokenizer.content if isinstance(tokenizer, MarianTokenizer) else tokenizer.model_proto


def from_bytes(content: bytes) -> StoredTokenizer:
    """Make a tokenizer from the output of ``to_bytes``. Raises InputError if the bytes hold no tokenizer."""
    # No SentencePiece model begins with a brace.
    return MarianTokenizer.from_content(content) if content.startswith(b"{") else Tokenizer(content)
