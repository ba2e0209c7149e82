"""A Hugging Face tokenizer, one object for each side of text: rows of tokens as the model was trained on them."""

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

# Found again between the special tokens that a tokenizer puts around it.
_PROBE = "a"
# In a template, where the source line goes.
SOURCE = "{source}"
# The template that is the tokenizer's own.
CHAT = "chat"
_QUESTION = {"role": "user", "content": "?"}
_ANSWER = "An answer."

Side = Literal["source", "target"]


@dataclass(frozen=True)
class RowSettings:
    """How text becomes rows, beside what the tokenizer's own files say. Plain data.

    Args:
        eos_id: Ends target rows.
        forced_id: The token that every decoded row begins after, where the model is made to generate one first.
        prompts: Whether sources are prompts of a decoder-only model, and targets what completes them.
        src_lang: Of a multilingual tokenizer.
        tgt_lang: Likewise.
        template: How a prompt is made of a source line: text with ``{source}`` in it, or ``chat`` for the tokenizer's
            chat template, where a line is what the user says or a whole conversation as JSON. The line itself if not
            given.
    """

    eos_id: int
    forced_id: int | None = None
    prompts: bool = False
    src_lang: str | None = None
    tgt_lang: str | None = None
    template: str | None = None


def load_tokenizer(reference: Reference) -> Any:
    """The tokenizer of a model, as the library gives it.

    Raises:
        InputError: There is none, or it does not know one of the reference's languages.
    """
    tokenizer = from_pretrained(transformers.AutoTokenizer, reference, **_languages(reference))
    # Without its files the library makes some tokenizers all the same, of nothing.
    names = (
        {*tokenizer.vocab_files_names.values(), "tokenizer.json"} if tokenizer.vocab_files_names else set()
    )
    folder = reference.folder
    if folder is not None and names and not any((folder / name).is_file() for name in names):
        raise InputError(
            f"{folder} holds no tokenizer, none of {', '.join(sorted(names))}: copy its files there too"
        )
    if isinstance(templates := tokenizer.chat_template, dict):
        for name in templates:  # Each is written into a file of this name.
            path_inside(Path(reference.name), name)
    for name, code in _languages(reference).items():
        _check_language(tokenizer, name, code, str(reference))
    return tokenizer


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest token id."""
    return max(tokenizer.get_vocab().values()) + 1


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """What ``save_pretrained`` writes, by file name."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def tokenizer_of_files(files: Mapping[str, bytes], settings: RowSettings) -> Any:
    """The inverse of ``tokenizer_files``.

    Raises:
        InputError: They hold no tokenizer.
    """
    with tempfile.TemporaryDirectory() as folder, explained(Reference(folder)), quiet():
        for name, content in files.items():
            path_inside(Path(folder), name).write_bytes(content)
        return transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **_languages(settings)
        )


def surroundings(tokenizer: Any, side: Side) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after text of a side.

    Raises:
        InputError: They cannot be told from the text's own.
    """
    whole, alone = (_encode(tokenizer, [_PROBE], side, special=special)[0] for special in (True, False))
    for place in range(len(whole) - len(alone) + 1):
        if whole[place : place + len(alone)] == alone:
            return whole[:place], whole[place + len(alone) :]
    raise InputError(
        f"the tokenizer {type(tokenizer).__name__} cuts text otherwise when it adds special tokens: it cannot be used"
    )


def conversation(line: str) -> list[dict[str, str]]:
    """The messages that a line stands for: those that it lists as JSON, or one of the user's."""
    if line.startswith("["):
        try:
            messages = json.loads(line)
        except (ValueError, RecursionError):
            messages = []
        if messages and all(
            isinstance(each, dict) and {"role", "content"} <= each.keys() for each in messages
        ):
            return messages
    return [{"role": "user", "content": line}]


def check_template(tokenizer: Any, template: str) -> None:
    """Raise InputError, saying what to do, if prompts cannot be made by a template."""
    if template == CHAT and tokenizer.chat_template is None:
        raise InputError(
            f"the model's tokenizer has no chat template: give a template with {SOURCE} in it instead"
        )
    if template != CHAT and SOURCE not in template:
        raise InputError(
            f"the template {template!r} has no place for the text: write {SOURCE} there, or give {CHAT}"
        )


def warn_of_turns(side: ModelTokenizer) -> None:
    """Warn if the chat template ends answers with another token than rows end with, or hides where they are."""
    tokenizer, eos_id = side.tokenizer, side.eos_id
    answer = side.answer(_ANSWER)
    if answer is None:
        logger.warning(
            "The chat template asks for an answer otherwise than it writes one (its generation prompt does not begin "
            "what it makes of a whole conversation, as where it opens <think>): answers cannot be found in it, and are "
            "taken as they are"
        )
        return
    after = _encode(tokenizer, [answer.partition(_ANSWER)[2]], "source", special=False)[0]
    if eos_id in after:
        return
    found = next((token for token in after if token in tokenizer.added_tokens_decoder), None)
    own, ends = tokenizer.convert_ids_to_tokens([eos_id, eos_id if found is None else found])
    if found is None:
        logger.warning(
            "The chat template puts no token after what the assistant says, and rows end with %s", own
        )
        return
    logger.warning(
        "The chat template ends what the assistant says with %s, and rows end with %s: name the model with "
        "the option ,eos=%s",
        ends,
        own,
        ends,
    )


class ModelTokenizer:
    """One side of a Hugging Face tokenizer; what tasks.text.TextSide asks for.

    Source rows are what the tokenizer makes of text, special tokens included. Target rows are what the adapter's rows
    are: they begin after a forced token and end with the end token.

    Args:
        tokenizer: As the library gives it.
        side: The one that this object is for.
        settings: How text becomes rows.
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
            # The chat template writes its special tokens itself.
            before, after = [], []
        if side == "target":
            if settings.prompts:
                before = []
            elif before and before[0] == settings.forced_id:
                before = before[1:]
            after = [settings.eos_id]
        self.prefix, self.suffix = before, after
        # What is asked for, and who is to answer, stands at the end of a prompt.
        self.keeps_end = settings.prompts and side == "source"

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits that differ between tokenizers that cut text otherwise, whatever the template."""
        settings = {name: value for name, value in asdict(self.settings).items() if name != "template"}
        digest = hashlib.sha256(json.dumps([settings, *self._around]).encode())
        for name, content in tokenizer_files(self.tokenizer).items():
            # It names versions and classes, which make no other rows.
            if name != "tokenizer_config.json":
                digest.update(name.encode() + content)
        return digest.hexdigest()[:16]

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ between sides that make other rows."""
        whole = [self.identity, self.side, self.settings.template]
        if self.settings.template == CHAT:
            whole.append(str(self.tokenizer.chat_template))
        if self.keeps_end:
            # Corpora that were encoded otherwise are not to be taken for these.
            whole.append("keeps its end")
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """The token ids of each line, without what stands around them in a row. An empty line has none.

        Raises:
            InputError: The chat template makes nothing of a line.
        """
        wanted = [self._text(line) for line in lines if line]
        side: Side = "source" if self.settings.prompts else self.side
        found = _encode(self.tokenizer, wanted, side, special=False) if wanted else []
        if self.side == "target" and self.settings.template == CHAT:
            found = [_until(row, self.eos_id) for row in found]
        rows = iter(found)
        return [next(rows) if line else [] for line in lines]

    def _text(self, line: str) -> str:
        """What the model reads, or is to write, for a line."""
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
        """What the chat template makes of a line that the assistant says, and what it puts after it.

        As it writes an answer, whatever was asked: some put a space or a mark before it. None where what asks for the
        answer does not begin what it makes of both.
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
        # It is a program that comes with the model, and refuses by errors of its own: of roles, of their order.
        except (TemplateError, ImportError, ValueError, TypeError) as error:
            said = json.dumps(messages, ensure_ascii=False)
            raise InputError(
                f"the model's chat template cannot be filled with {said[:80]}{'...' * (len(said) > 80)}: {error}"
            ) from error

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of token ids, without special tokens; always one line."""
        if not len(rows):
            return []
        texts = self.tokenizer.batch_decode([list(map(int, row)) for row in rows], skip_special_tokens=True)
        # A row is one line of output, whatever its tokens spell.
        texts = [" ".join(text.splitlines()) for text in texts]
        return [text.strip() for text in texts] if self.settings.prompts else texts


def _encode(tokenizer: Any, lines: list[str], side: Side, special: bool) -> list[list[int]]:
    given = {"text_target": lines} if side == "target" else {"text": lines}
    # verbose: rows longer than the model's are cut or left out by whoever asked for them.
    found = tokenizer(**given, add_special_tokens=special, return_attention_mask=False, verbose=False)
    return [list(row) for row in found["input_ids"]]


def _until(row: list[int], token: int) -> list[int]:
    return row[: row.index(token)] if token in row else row


def _languages(settings: Reference | RowSettings) -> dict[str, str]:
    pairs = {"src_lang": settings.src_lang, "tgt_lang": settings.tgt_lang}
    return {name: code for name, code in pairs.items() if code is not None}


def _check_language(tokenizer: Any, name: str, code: str, where: str) -> None:
    if not hasattr(tokenizer, name):
        raise InputError(f"{where}: its tokenizer knows no {name}: leave it out")
    # M2M100 writes them __de__.
    known = tokenizer.get_vocab()
    if code not in known and f"__{code}__" not in known:
        raise InputError(
            f"{where}: its tokenizer knows no language {code!r}: use the codes of its own documentation"
        )
