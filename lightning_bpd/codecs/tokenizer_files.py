"""Tokenizers of both kinds from files and bytes (floor 2)."""

from __future__ import annotations

from pathlib import Path

from lightning_bpd.codecs.marian_tokenizer import MarianTokenizer
from lightning_bpd.codecs.tokenizers import Tokenizer

StoredTokenizer = Tokenizer | MarianTokenizer


def load_tokenizer(path: Path | str) -> StoredTokenizer:
    """Load the tokenizer in the file ``path``. Raises InputError, naming the file, if it holds none."""
    return (MarianTokenizer if str(path).endswith(MarianTokenizer.ending) else Tokenizer).load(path)


def from_bytes(content: bytes) -> StoredTokenizer:
    """Make a tokenizer from its ``content``. Raises InputError if the bytes hold no tokenizer."""
    # No SentencePiece model begins with a brace.
    return (MarianTokenizer if content.startswith(b"{") else Tokenizer).from_content(content)
