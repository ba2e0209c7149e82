"""A Hugging Face tokenizer, one object for each side of a pair: it makes rows of tokens as in the model's training."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import transformers
from jinja2 import TemplateError

from lightning_bpd.adapters.reference import Reference, explained, from_pretrained, quiet
from lightning_bpd.files import path_inside
from lightning_bpd.interfaces import InputError

logger = logging.getLogger(__name__)

# A text whose tokens show which special tokens a tokenizer puts around it.
_PROBE = "a"
# The part of a template that the source line replaces.
SOURCE = "{source}"
# The name of the tokenizer's chat template.
CHAT = "chat"
_QUESTION = {"role": "user", "content": "?"}
_ANSWER = "An answer."

Side = Literal["source", "target"]


@dataclass(frozen=True)
class RowSettings:
    """Settings that turn text into rows, besides the tokenizer's files. Plain data.

    Args:
        eos_id: The token that ends target rows.
        forced_id: The token that the model is forced to generate first, if any; decoded rows begin after it.
        prompts: Whether sources are prompts of a decoder-only model, and targets their completions.
        src_lang: Source language of a multilingual tokenizer.
        tgt_lang: Target language, likewise.
        template: Makes a prompt from a source line: text that contains ``{source}``, or ``chat`` for the tokenizer's
            chat template. With ``chat`` a line is the user's message, or a whole conversation as JSON. By default the
            prompt is the line itself.
    """

    eos_id: int
    forced_id: int | None = None
    prompts: bool = False
    src_lang: str | None = None
    tgt_lang: str | None = None
    template: str | None = None


def load_tokenizer(reference: Reference) -> Any:
    """Load the tokenizer of a model by the library.

    Raises:
        InputError: There is no tokenizer, or it does not know one of the reference's languages.
    """
    tokenizer = from_pretrained(transformers.AutoTokenizer, reference, **_languages(reference))
    # If the files are missing, the library makes some tokenizers anyway, with an empty vocabulary.
    names = (
        {*tokenizer.vocab_files_names.values(), "tokenizer.json"} if tokenizer.vocab_files_names else set()
    )
    folder = reference.folder
    if folder is not None and names and not any((folder / name).is_file() for name in names):
        raise InputError(
            f"{folder} holds no tokenizer, none of {', '.join(sorted(names))}: copy its files there"
        )
    if isinstance(templates := tokenizer.chat_template, dict):
        for name in templates:  # Each is written into a file of this name.
            path_inside(Path(reference.name), name)
    for name, code in _languages(reference).items():
        _check_language(tokenizer, name, code, str(reference))
    return tokenizer


def vocabulary_size(tokenizer: Any) -> int:
    """Return the largest token id plus one."""
    return max(tokenizer.get_vocab().values()) + 1


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """Return the content of the files that ``save_pretrained`` writes, by file name."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def tokenizer_of_files(files: Mapping[str, bytes], settings: RowSettings) -> Any:
    """Make a tokenizer from the output of ``tokenizer_files``.

    Raises:
        InputError: The files hold no tokenizer.
    """
    with tempfile.TemporaryDirectory() as folder, explained(Reference(folder)), quiet():
        for name, content in files.items():
            path_inside(Path(folder), name).write_bytes(content)
        return transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **_languages(settings)
        )


def surroundings(tokenizer: Any, side: Side) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before and after text of a side.

    Raises:
        InputError: They cannot be told from the tokens of the text.
    """
    whole, alone = (_encode(tokenizer, [_PROBE], side, special=special)[0] for special in (True, False))
    for index in range(len(whole) - len(alone) + 1):
        if whole[index : index + len(alone)] == alone:
            return whole[:index], whole[index + len(alone) :]
    raise InputError(
        f"the tokenizer {type(tokenizer).__name__} splits text differently when it adds special tokens: it cannot be "
        "used"
    )


def conversation(line: str) -> list[dict[str, str]]:
    """Return the messages of a line: the list of messages that it holds as JSON, or one message of the user."""
    if line.startswith("["):
        try:
            messages = json.loads(line)
        except (ValueError, RecursionError):
            messages = []
        if messages and all(
            isinstance(message, dict) and {"role", "content"} <= message.keys() for message in messages
        ):
            return messages
    return [{"role": "user", "content": line}]


def check_template(tokenizer: Any, template: str) -> None:
    """Raise InputError if a template cannot make prompts."""
    if template == CHAT and tokenizer.chat_template is None:
        raise InputError(
            f"the model's tokenizer has no chat template: give a template that contains {SOURCE} instead"
        )
    if template != CHAT and SOURCE not in template:
        raise InputError(
            f"the template {template!r} does not say where the text goes: write {SOURCE} there, or give {CHAT}"
        )


def warn_of_turns(side: ModelTokenizer) -> None:
    """Warn if the chat template ends answers with a token other than the end token, or if answers cannot be found."""
    tokenizer, eos_id = side.tokenizer, side.eos_id
    answer = side.answer(_ANSWER)
    if answer is None:
        logger.warning(
            "The chat template asks for an answer in one format and writes it in another (a whole conversation does "
            "not begin with the generation prompt, which may open <think>): answers cannot be found in it, and are "
            "used without it"
        )
        return
    after = _encode(tokenizer, [answer.partition(_ANSWER)[2]], "source", special=False)[0]
    if eos_id in after:
        return
    found = next((token for token in after if token in tokenizer.added_tokens_decoder), None)
    row_end, answer_end = tokenizer.convert_ids_to_tokens([eos_id, eos_id if found is None else found])
    if found is None:
        logger.warning("The chat template puts no token after an answer, but rows end with %s", row_end)
        return
    logger.warning(
        "The chat template ends answers with %s, but rows end with %s: name the model with the option ,eos=%s",
        answer_end,
        row_end,
        answer_end,
    )


class ModelTokenizer:
    """One side of a Hugging Face tokenizer (a codecs.text.TextSide).

    Source rows are the tokens that the tokenizer makes from text, with special tokens. Target rows are like the
    adapter's rows: they begin after a forced token and end with the end token.

    Args:
        tokenizer: A tokenizer of the library.
        side: Which side this object encodes and decodes.
        settings: Turn text into rows.
    """

    def __init__(self, tokenizer: Any, side: Side, settings: RowSettings) -> None:
        self.tokenizer = tokenizer
        self.side = side
        self.settings = settings
        self.vocab_size = vocabulary_size(tokenizer)
        self.eos_id = settings.eos_id
        self.unknown_id: int | None = tokenizer.unk_token_id
        start = tokenizer.bos_token_id
        self.bos_id = settings.eos_id if start is None else int(start)
        before, after = surroundings(tokenizer, "source" if settings.prompts else side)
        self._around = before, after
        if settings.template == CHAT:
            # The chat template writes special tokens itself.
            before, after = [], []
        if side == "target":
            if settings.prompts:
                before = []
            elif before and before[0] == settings.forced_id:
                before = before[1:]
            after = [settings.eos_id]
        self.prefix, self.suffix = before, after
        # The question and the request to answer are at the end of a prompt.
        self.keeps_end = settings.prompts and side == "source"

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits that differ between tokenizers that split text differently; templates do not count."""
        settings = {name: value for name, value in asdict(self.settings).items() if name != "template"}
        digest = hashlib.sha256(json.dumps([settings, *self._around]).encode())
        for name, content in tokenizer_files(self.tokenizer).items():
            # This file names versions and classes, which do not change rows.
            if name != "tokenizer_config.json":
                digest.update(name.encode() + content)
        return digest.hexdigest()[:16]

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ between sides that make different rows."""
        whole = [self.identity, self.side, self.settings.template]
        if self.settings.template == CHAT:
            whole.append(str(self.tokenizer.chat_template))
        if self.keeps_end:
            # Corpora that were encoded before prompts kept their end must not be reused.
            whole.append("keeps its end")
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each line, without the prefix and suffix of a row; none for an empty line.

        Raises:
            InputError: The chat template fails on a line.
        """
        texts = [self._text(line) for line in lines if line]
        side: Side = "source" if self.settings.prompts else self.side
        encoded = _encode(self.tokenizer, texts, side, special=False) if texts else []
        if self.side == "target" and self.settings.template == CHAT:
            encoded = [_until(row, self.eos_id) for row in encoded]
        rows = iter(encoded)
        return [next(rows) if line else [] for line in lines]

    def _text(self, line: str) -> str:
        """Return the text that the model reads or writes for a line."""
        template = self.settings.template
        if template is None or (self.side == "target" and template != CHAT):
            return line
        if template != CHAT:
            return template.replace(SOURCE, line)
        if self.side == "source":
            return self._rendered(conversation(line))
        answer = self.answer(line)
        return line if answer is None else answer

    def answer(self, line: str) -> str | None:
        """Return an answer of the assistant as the chat template writes it, with the text that follows it.

        The question does not matter. Some templates put a space or a mark before the answer. None if a conversation
        with an answer does not begin with the prompt that asks for it.
        """
        whole = self._rendered([_QUESTION, {"role": "assistant", "content": line}])
        return whole.removeprefix(self._asked) if whole.startswith(self._asked) else None

    @cached_property
    def _asked(self) -> str:
        return self._rendered([_QUESTION])

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=messages[-1]["role"] != "assistant"
            )
        # The template is a program of the model, which raises its own errors: of roles, of their order.
        except (TemplateError, ImportError, ValueError, TypeError) as error:
            text = json.dumps(messages, ensure_ascii=False)
            raise InputError(
                f"the model's chat template cannot be filled with {text[:80]}{'...' * (len(text) > 80)}: {error}"
            ) from error

    def decode(self, rows: Sequence[Sequence[int]], keep_lines: bool = False) -> list[str]:
        """Return the text of each row of token ids, without special tokens; its lines joined unless ``keep_lines``."""
        if not len(rows):
            return []
        texts = self.tokenizer.batch_decode([list(map(int, row)) for row in rows], skip_special_tokens=True)
        if not keep_lines:
            texts = [" ".join(text.splitlines()) for text in texts]
        return [text.strip() for text in texts] if self.settings.prompts else texts


def _encode(tokenizer: Any, lines: list[str], side: Side, special: bool) -> list[list[int]]:
    argument = "text_target" if side == "target" else "text"
    # Not verbose: the caller cuts or drops rows that are too long for the model.
    encoded = tokenizer(
        **{argument: lines}, add_special_tokens=special, return_attention_mask=False, verbose=False
    )
    return [list(row) for row in encoded["input_ids"]]


def _until(row: list[int], token: int) -> list[int]:
    return row[: row.index(token)] if token in row else row


def _languages(settings: Reference | RowSettings) -> dict[str, str]:
    pairs = {"src_lang": settings.src_lang, "tgt_lang": settings.tgt_lang}
    return {name: code for name, code in pairs.items() if code is not None}


def _check_language(tokenizer: Any, name: str, code: str, where: str) -> None:
    if not hasattr(tokenizer, name):
        raise InputError(f"{where}: its tokenizer knows no {name}: leave it out")
    # M2M100 writes languages as __de__.
    known = tokenizer.get_vocab()
    if code not in known and f"__{code}__" not in known:
        raise InputError(
            f"{where}: its tokenizer knows no language {code!r}: use the codes of its documentation"
        )
