"""Marian's tokenizers: a SentencePiece model splits text, and a separate vocabulary numbers the pieces (floor 2)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import sentencepiece

from lightning_bpd.codecs.tokenizers import one_line
from lightning_bpd.interfaces import InputError

# The language at the beginning of a line, such as >>deu<<.
_LANGUAGE = re.compile(r">>.*?<<", re.DOTALL)
_BEFORE_CLEANING = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


@dataclass(frozen=True)
class MarianPieces:
    """The parts of a Marian tokenizer, for one side of text.

    Args:
        sentencepiece: The content of ``source.spm`` or ``target.spm``.
        pieces: The vocabulary in the order of its ids.
        end: The piece that ends a row.
        unknown: The piece for text that the vocabulary lacks.
        padding: The piece that pads rows; decoding starts from it.
        clean_up: Whether decoded text loses the spaces before English punctuation.
    """

    sentencepiece: bytes
    pieces: tuple[str, ...]
    end: str = "</s>"
    unknown: str = "<unk>"
    padding: str = "<pad>"
    clean_up: bool = False


class MarianTokenizer:
    """Turns text into token ids and back, as transformers' MarianTokenizer does (a TextSide).

    A line may begin with a language such as ``>>deu<<``, which is one token. Names of special pieces in other positions
    of a line are ordinary text.

    Args:
        made_of: The SentencePiece model and the vocabulary.

    Raises:
        InputError: The bytes are not a SentencePiece model, or the vocabulary lacks a special piece.
    """

    vocab_size: int
    bos_id: int
    """the padding token, which decoding starts from"""
    eos_id: int
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...]
    """the end token"""
    keeps_end: bool = False
    unknown_id: int
    fingerprint: str
    """16 hexadecimal digits that differ between different tokenizers"""

    def __init__(self, made_of: MarianPieces) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=made_of.sentencepiece)
            # SentencePiece accepts empty bytes as a model that is loaded later.
            loaded = self._processor.vocab_size() > 0
        except RuntimeError:
            loaded = False
        if not loaded:
            raise InputError("not a SentencePiece model")
        self.made_of = made_of
        self._ids = {piece: number for number, piece in enumerate(made_of.pieces)}
        for name in ("end", "unknown", "padding"):
            if getattr(made_of, name) not in self._ids:
                raise InputError(f"the vocabulary has no {name} piece {getattr(made_of, name)!r}")
        self.vocab_size = len(made_of.pieces)
        self.bos_id, self.eos_id = self._ids[made_of.padding], self._ids[made_of.end]
        self.suffix = (self.eos_id,)
        self.unknown_id = self._ids[made_of.unknown]
        self.fingerprint = hashlib.sha256(self.content).hexdigest()[:16]

    def __reduce__(self) -> tuple[type[MarianTokenizer], tuple[MarianPieces]]:
        return MarianTokenizer, (self.made_of,)

    @property
    def content(self) -> bytes:
        """The tokenizer's parts as JSON, which ``from_content`` reads."""
        settings = asdict(self.made_of)
        settings["sentencepiece"] = base64.b64encode(self.made_of.sentencepiece).decode()
        return json.dumps(settings, ensure_ascii=False, indent=0).encode()

    @classmethod
    def from_content(cls, content: bytes) -> MarianTokenizer:
        """Make the tokenizer that ``content`` describes. Raises InputError if it describes none."""
        try:
            settings = json.loads(content)
            model = base64.b64decode(settings.pop("sentencepiece"), validate=True)
            made_of = MarianPieces(model, tuple(settings.pop("pieces")), **settings)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
            raise InputError(f"not a Marian tokenizer: {error}") from error
        return cls(made_of)

    @classmethod
    def load(cls, path: Path | str) -> MarianTokenizer:
        """Load the tokenizer in the file ``path``. Raises InputError, naming the file, if it holds none."""
        try:
            return cls.from_content(Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"{path}: the tokenizer file cannot be read: {error.strerror}") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def save(self, path: Path | str) -> None:
        """Write the file that ``load`` reads."""
        Path(path).write_bytes(self.content)

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each line, without start or end token; none for an empty line."""
        languages = [found[0] if (found := _LANGUAGE.match(line)) else "" for line in lines]
        texts = [line[len(language) :] for line, language in zip(lines, languages, strict=True)]
        rows = self._processor.encode(texts, out_type=str, num_threads=-1)
        return [
            [self._ids.get(piece, self.unknown_id) for piece in ([language, *row] if language else row)]
            for language, row in zip(languages, rows, strict=True)
        ]

    def decode(self, rows: Sequence[Sequence[int]], keep_lines: bool = False) -> list[str]:
        """Return the text of each row of token ids, without end, padding and unknown tokens (TextSide.decode).

        Raises IndexError for an id outside the vocabulary.
        """
        special = {self.eos_id, self.bos_id, self.unknown_id}
        pieces = self.made_of.pieces
        texts = [
            self._cleaned(
                self._processor.decode_pieces([pieces[token] for token in row if token not in special])
            )
            for row in rows
        ]
        return texts if keep_lines else [one_line(text) for text in texts]

    def _cleaned(self, text: str) -> str:
        # The SentencePiece model returns an unknown piece unchanged, with its ▁.
        text = text.replace("▁", " ").strip()
        if self.made_of.clean_up:
            for spaced in _BEFORE_CLEANING:
                text = text.replace(spaced, spaced.strip())
        return text
