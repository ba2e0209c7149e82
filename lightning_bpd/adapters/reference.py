"""How settings name a Hugging Face model: ``hf:NAME_OR_FOLDER``, and options after commas.

A comma that belongs to a name or a value is written twice.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from transformers import GenerationConfig
from transformers.utils import logging

from lightning_bpd.faults import shortened
from lightning_bpd.interfaces import InputError

PREFIX = "hf:"
DTYPES = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Reference:
    """A Hugging Face model and how it is to be used.

    Args:
        name: A folder that ``save_pretrained`` wrote, or a model's name on the hub; local copies are found first.
        src_lang: Source language of a multilingual model, as its tokenizer calls it, such as en_XX or eng_Latn.
        tgt_lang: Target language, likewise.
        eos: The token that ends a row, as the tokenizer's vocabulary has it, such as ``<|im_end|>``; if not given the
            model's, and of several the tokenizer's own.
        dtype: What its weights are computed in: float32, bfloat16, float16 or float64.
        longest_prompt: Of a decoder-only model, how many of its positions are for prompts; half if not given.
        plain: Whether to leave out what the model's generation_config asks for and decoding cannot do, such as a least
            length or no repetitions, so that greedy decoding is plain.
        trust_remote_code: Whether code that comes with the model may run.
    """

    name: str
    src_lang: str | None = None
    tgt_lang: str | None = None
    eos: str | None = None
    dtype: str = "float32"
    longest_prompt: int | None = None
    plain: bool = False
    trust_remote_code: bool = False

    def __str__(self) -> str:
        changed = [
            f"{field.name}={value}"
            for field in fields(self)[1:]
            if (value := getattr(self, field.name)) != field.default
        ]
        return PREFIX + ",".join(part.replace(",", ",,") for part in (self.name, *changed))

    @property
    def folder(self) -> Path | None:
        """Where it is, if it is a folder."""
        path = Path(self.name).expanduser()
        return path if path.is_dir() else None


def parse_reference(text: str, before: Reference | None = None) -> Reference:
    """The reference that a setting such as ``hf:runs/marian`` or ``hf:NAME,dtype=bfloat16`` means.

    Args:
        text: The setting.
        before: How the model was named before it moved: its options hold where the setting gives none.

    Raises:
        InputError: It has no name, an unknown option, or a value that the option cannot have.
    """
    parts = text.removeprefix(PREFIX).replace(",,", "\0").split(",")
    model, *options = (part.replace("\0", ",") for part in parts)
    known = {field.name for field in fields(Reference)} - {"name"}
    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key not in known:
            raise InputError(
                f"{text}: {option!r} is no option of a model: known are {', '.join(sorted(known))}; a comma in a "
                "folder's name is written twice"
            )
        given[key] = value
    if not model:
        raise InputError(f"{text} names no model: give {PREFIX}FOLDER or {PREFIX}NAME")
    if given.get("dtype", "float32") not in DTYPES:
        raise InputError(f"{text}: unknown dtype {given['dtype']!r}: choose one of {', '.join(DTYPES)}")
    for name in {"plain", "trust_remote_code"} & given.keys():
        if given[name].lower() not in ("true", "false"):
            raise InputError(f"{text}: {name} is true or false")
        given[name] = given[name].lower() == "true"
    if "longest_prompt" in given:
        if not given["longest_prompt"].isdecimal():
            raise InputError(f"{text}: longest_prompt is a number of tokens")
        given["longest_prompt"] = int(given["longest_prompt"])
    return replace(before or Reference(model), name=model, **given)


def from_pretrained(kind: Any, reference: Reference, **options: Any) -> Any:
    """``kind.from_pretrained`` of what is here, or else of the hub.

    Raises:
        InputError: It is neither here nor there, or cannot be loaded; its cause is what the library raised.
    """
    folder = reference.folder
    if kind is not GenerationConfig:
        # Which would keep it as a setting of its own.
        options["trust_remote_code"] = reference.trust_remote_code
    with explained(reference), quiet():
        if folder is not None:
            return kind.from_pretrained(folder, local_files_only=True, **options)
        try:
            return kind.from_pretrained(reference.name, local_files_only=True, **options)
        except OSError:
            return kind.from_pretrained(reference.name, **options)


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and reports of the library's own: what is wrong is said by InputErrors."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recommended: pip install")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


@contextmanager
def explained(reference: Reference) -> Iterator[None]:
    """What the library says when it cannot load something becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Damaged files make the library raise anything.
        message = str(error).strip()
        if "trust_remote_code" in message:
            raise InputError(
                f"{reference} comes with code of its own, which is not run: if you trust it, say so by "
                f"{reference},trust_remote_code=true"
            ) from error
        if reference.folder is None and (missing := _not_to_be_had(reference.name, error)):
            raise InputError(f"{reference.name}: {missing}") from error
        first = re.split(r"(?<=\.) ", shortened(error))[0]
        raise InputError(f"{reference} cannot be loaded: {first}") from error


def caused_by(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Whether an error, or one that it was raised from, is of a kind."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, kinds):
        found = found.__cause__
    return found is not None


def _not_to_be_had(name: str, error: BaseException) -> str | None:
    """Why a model is not to be had from the hub, and what to do; None for one that is there and cannot be loaded."""
    if caused_by(error, GatedRepoError):
        return (
            "a model of the hub that is given on request alone: ask for it on its page there, and log in by "
            "'hf auth login'"
        )
    if caused_by(error, RepositoryNotFoundError, HFValidationError):
        return (
            "no such folder, and no such model in the local cache or on the hub: name the folder that "
            "save_pretrained wrote, or a model's name; for a private one log in by 'hf auth login'"
        )
    if caused_by(error, LocalEntryNotFoundError):
        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        return (
            "no such folder, and no such model, or not all of it, in the local cache, and the hub cannot be "
            f"reached{offline}: name a folder, or fetch the model where there is a network"
        )
    if caused_by(error, HfHubHTTPError):
        return f"the hub does not give it: {' '.join(str(error).split())}"
    return None
