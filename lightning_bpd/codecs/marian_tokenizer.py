"""Marian's tokenizers: a SentencePiece model splits text, and a separate vocabulary numbers the pieces (floor 2)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from lightning_bpd.codecs.tokenizers import TokenizerFile, one_line, read_sentencepiece
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


class MarianTokenizer(TokenizerFile):
    """Turns text into token ids and back, as transformers' MarianTokenizer does. Decoding starts from padding.

    A line may begin with a language such as ``>>deu<<``, which is one token. Names of special pieces in other positions
    of a line are ordinary text.

    Args:
        made_of: The SentencePiece model and the vocabulary.

    Raises:
        InputError: The bytes are not a SentencePiece model, or the vocabulary lacks a special piece.
    """

    ending = ".marian.json"
    unknown_id: int

    def __init__(self, made_of: MarianPieces) -> None:
        self._processor = read_sentencepiece(made_of.sentencepiece)
        self.made_of = made_of
        self._ids = {piece: number for number, piece in enumerate(made_of.pieces)}
        for name in ("end", "unknown", "padding"):
            if getattr(made_of, name) not in self._ids:
                raise InputError(f"the vocabulary has no {name} piece {getattr(made_of, name)!r}")
        settings = asdict(made_of) | {"sentencepiece": base64.b64encode(made_of.sentencepiece).decode()}
        content = json.dumps(settings, ensure_ascii=False, indent=0).encode()
        special = (self._ids[piece] for piece in (made_of.padding, made_of.end, made_of.unknown))
        super().__init__(content, len(made_of.pieces), *special)

    @classmethod
    def from_content(cls, content: bytes) -> Self:
        """Make the tokenizer that the JSON in ``content`` describes. Raises InputError if it describes none."""
        try:
            settings = json.loads(content)
            model = base64.b64decode(settings.pop("sentencepiece"), validate=True)
            made_of = MarianPieces(model, tuple(settings.pop("pieces")), **settings)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"not a Marian tokenizer: {error}") from error
        return cls(made_of)

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
