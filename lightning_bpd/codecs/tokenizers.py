"""Text as tokens: a SentencePiece model, stored as bytes, and its training (floor 2)."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal, Protocol, Self

import sentencepiece

from lightning_bpd.interfaces import InputError

# All line breaks of str.splitlines(). Byte pieces can form each of them, but a row is one line of output.
_LINE_BREAK = re.compile("\r\n|[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
# Enough lines for any vocabulary. Longer text is sampled, which bounds memory.
_SAMPLED_LINES = 2_000_000

BleuTokenizer = Literal[
    "none", "zh", "13a", "intl", "char", "ja-mecab", "ko-mecab", "spm", "flores101", "flores200", "spBLEU-1K"
]
"""sacreBLEU's names of its tokenizers"""
Normalization = Literal["identity", "nfkc", "nfkc_cf", "nmt_nfkc", "nmt_nfkc_cf"]


class TextSide(Protocol):
    """The interface of a tokenizer for data and translation: one side of text as rows of tokens."""

    @property
    def vocab_size(self) -> int:
        """The largest possible token id plus one."""

    @property
    def bos_id(self) -> int:
        """The start token, or the end token if there is no start token."""

    @property
    def eos_id(self) -> int:
        """The end token."""

    @property
    def prefix(self) -> Sequence[int]:
        """The tokens before the tokens of the text in a row."""

    @property
    def suffix(self) -> Sequence[int]:
        """The tokens after the tokens of the text in a row."""

    @property
    def keeps_end(self) -> bool:
        """Whether a row that is too long loses the beginning of its text instead of its end."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ between different tokenizers."""

    @property
    def unknown_id(self) -> int | None:
        """The token for text that the tokenizer does not know, or None."""

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each line, without prefix and suffix; none for an empty line."""

    def decode(self, rows: Sequence[Sequence[int]], keep_lines: bool = False) -> list[str]:
        """Return the text of each row of token ids, without start, end and padding tokens.

        Each line break becomes a space, unless ``keep_lines``.
        """


def whole_row(side: TextSide, tokens: Sequence[int], max_length: int) -> list[int]:
    """Make the row of a line's ``tokens``: prefix, as many tokens as fit into ``max_length``, and suffix."""
    count = max_length - len(side.prefix) - len(side.suffix)
    first = max(len(tokens) - count, 0) if side.keeps_end else 0
    row = [*side.prefix, *tokens[first : first + count], *side.suffix]
    # No model reads an empty row.
    return row or [side.bos_id]


def one_line(text: str) -> str:
    """Replace each line break by a space."""
    return _LINE_BREAK.sub(" ", text)


def read_sentencepiece(content: bytes) -> Any:
    """The SentencePieceProcessor of a file's bytes. Raises InputError if they hold no SentencePiece model."""
    with suppress(RuntimeError):
        # SentencePiece takes empty bytes for "no model yet" and fails only later.
        model = sentencepiece.SentencePieceProcessor(model_proto=content) if content else None
        if model is not None and model.vocab_size():
            return model
    raise InputError("not a SentencePiece model; give a file that SentencePiece wrote")


class TokenizerFile:
    """A tokenizer that is one file (a TextSide). The bytes of the file are all of it, so it can be pickled and copied.

    Args:
        content: The bytes, which ``from_content`` reads.
        vocab_size: The number of tokens.
        bos_id: The start token, or the token that takes its place.
        eos_id: The end token.
        unknown_id: The token for text that the tokenizer does not know.
    """

    ending: ClassVar[str]
    """the end of the file's name"""
    prefix: tuple[int, ...] = ()
    keeps_end: bool = False

    def __init__(
        self, content: bytes, vocab_size: int, bos_id: int, eos_id: int, unknown_id: int | None
    ) -> None:
        self.content, self.vocab_size = content, vocab_size
        self.bos_id, self.eos_id, self.unknown_id = bos_id, eos_id, unknown_id
        self.suffix = (eos_id,)
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_content, (self.content,)

    @classmethod
    def from_content(cls, content: bytes) -> Self:
        """Make the tokenizer of a file's bytes. Raises InputError if they hold none."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Load the tokenizer in the file ``path``. Raises InputError, naming the file, if it holds none."""
        try:
            return cls.from_content(Path(path).read_bytes())
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such tokenizer file") from None
        except OSError as error:
            raise InputError(f"{path}: the tokenizer file cannot be read: {error.strerror}") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def save(self, path: Path | str) -> None:
        """Write the file that ``load`` reads."""
        Path(path).write_bytes(self.content)


class Tokenizer(TokenizerFile):
    """A SentencePiece model, which turns text into token ids and back.

    Its start token is the end token if the model has no start token, as in fairseq.

    Args:
        model_proto: The content of a SentencePiece ``.model`` file.

    Raises:
        InputError: The bytes are not a SentencePiece model, or the model has no end token.
    """

    ending = ".model"

    def __init__(self, model_proto: bytes) -> None:
        processor = read_sentencepiece(model_proto)
        eos_id, bos_id = processor.eos_id(), processor.bos_id()
        if eos_id < 0:
            raise InputError(
                "the SentencePiece model has no end token; train it with an eos_id of 0 or more, "
                "or give no tokenizer file so that one is trained on the training text"
            )
        vocab_size = processor.vocab_size()
        super().__init__(
            model_proto, vocab_size, bos_id if bos_id >= 0 else eos_id, eos_id, processor.unk_id()
        )
        self._processor = processor
        self._control_ids = frozenset(id_ for id_ in range(vocab_size) if processor.is_control(id_))

    @classmethod
    def from_content(cls, content: bytes) -> Self:
        """Make the tokenizer of the bytes of a ``.model`` file. Raises InputError as the class does."""
        return cls(content)

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each line, without start or end token; none for an empty line.

        Raises TypeError for a line that is not text, such as a lone surrogate ("\\ud800").
        """
        return self._processor.encode(list(lines), num_threads=-1)

    def decode(self, rows: Sequence[Sequence[int]], keep_lines: bool = False) -> list[str]:
        """Return the text of each row of token ids, without start, end and padding tokens (TextSide.decode).

        Line breaks come from byte pieces only. Bytes that are not UTF-8 become U+FFFD, the unknown token `` ⁇ ``.
        Raises IndexError for an id outside the vocabulary.
        """
        if not len(rows):
            return []
        texts = self._processor.decode(
            [[int(token) for token in row if token not in self._control_ids] for row in rows], num_threads=-1
        )
        return texts if keep_lines else [one_line(text) for text in texts]


def check_knows(tokenizer: TextSide, lines: Sequence[str], given: str, path: str) -> None:
    """Raise InputError if a tokenizer was clearly made for other text than ``lines``, the first lines of ``path``.

    ``given`` is the name of the tokenizer in the message.
    """
    # Vocabularies of other projects lack a few characters. Half the tokens of unknown words may be spaces.
    tolerance = 0.0 if isinstance(tokenizer, Tokenizer) else 0.4
    with_text = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    rows = tokenizer.encode([line for _, line in with_text])
    unknown = [
        number
        for (number, _), row in zip(with_text, rows, strict=True)
        if not row or row.count(tokenizer.unknown_id) > tolerance * len(row)  # type: ignore[arg-type]
    ]
    if len(unknown) * 2 > len(with_text):
        raise InputError(
            f"{given}: the tokenizer does not match the text: it does not know some characters in {len(unknown)} of the"
            f" first {len(lines)} lines of {path}, the first time in line {unknown[0]}; give a tokenizer made for these"
            " languages, or none."
        )


def train_tokenizer(
    lines: Iterable[str],
    vocab_size: int,
    byte_fallback: bool = True,
    normalization: Normalization = "identity",
    threads: int = 4,
) -> Tokenizer:
    """Train a byte-pair encoding on ``lines`` that decodes ordinary text unchanged.

    Without normalization, case, spacing and composition of characters are kept. Ids 0 to 3 are padding, unknown,
    start and end. ``lines`` is read once, in bounded memory. More than two million lines are sampled, and lines above
    4192 bytes are skipped. Equal lines give equal bytes.

    Args:
        lines: The text, any number of lines.
        vocab_size: Number of tokens, including the four special ones and the 256 bytes.
        byte_fallback: Whether characters outside the training text become bytes; otherwise they are unknown.
        normalization: SentencePiece's rule for similar characters; ``identity`` changes none.
        threads: Threads that read the text. SentencePiece stores the number in the model, which changes the
            fingerprint but never the tokens; so the default is a constant and not the number of cores.

    Raises:
        InputError: There is no text, or ``vocab_size`` is too large or too small for the text.
    """
    sample = _sample(lines, _SAMPLED_LINES)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            # Popped lines are not held twice.
            sentence_iterator=(sample.pop() for _ in range(len(sample))),
            model_writer=model,
            model_type="bpe",
            vocab_size=max(vocab_size, 5),  # below 5 SentencePiece's message does not name the least size
            byte_fallback=byte_fallback,
            normalization_rule_name=normalization,
            remove_extra_whitespaces=False,
            character_coverage=1.0,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            num_threads=threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(str(error), vocab_size) from error
    return Tokenizer(model.getvalue())


def _sample(lines: Iterable[str], size: int) -> list[str]:
    """Draw at most ``size`` lines, each equally likely. SentencePiece's own sample differs from run to run."""
    random = Random(0)
    sample: list[str] = []
    for seen, line in enumerate(lines):
        if seen < size:
            sample.append(line)
        elif (index := int(random.random() * (seen + 1))) < size:
            sample[index] = line
    return sample


def _explained(message: str, vocab_size: int) -> Exception:
    """Turn SentencePiece's message into one sentence that names a vocabulary size that works."""
    if found := re.search(r"Vocabulary size too high .* a value <= (\d+)", message):
        return InputError(
            f"a vocabulary of {vocab_size} is more than the training text supports; "
            f"the largest that works is {found[1]}"
        )
    if found := re.search(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)", message):
        return InputError(
            f"a vocabulary of {vocab_size} is too small for the characters of the training text; "
            f"it takes at least {found[1]}"
        )
    if "sentences_.empty()" in message:
        return InputError(
            "there is no text to train a tokenizer on; the training files need at least one line"
        )
    return RuntimeError(f"SentencePiece could not train a tokenizer: {message}")
