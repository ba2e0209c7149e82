"""References to Hugging Face models in settings: ``hf:NAME_OR_FOLDER``, and options after commas.

A comma inside a name or a value is written twice.
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
    """A Hugging Face model and the options for its use.

    Args:
        name: A folder that ``save_pretrained`` wrote, or a model's name on the hub; local copies come first.
        src_lang: Source language of a multilingual model, in its tokenizer's codes, such as en_XX or eng_Latn.
        tgt_lang: Target language, likewise.
        eos: The token that ends a row, as in the tokenizer's vocabulary, such as ``<|im_end|>``. By default the
            model's end token; if it has several, the tokenizer's.
        dtype: The dtype of the model's weights: float32, bfloat16, float16 or float64.
        longest_prompt: Positions of a decoder-only model that are for prompts; by default half of them.
        plain: Whether to ignore rules of the model's generation_config that decoding cannot follow, such as a minimum
            length or no repetitions.
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
        """The path of the model, if ``name`` is a folder."""
        path = Path(self.name).expanduser()
        return path if path.is_dir() else None


def parse_reference(text: str, before: Reference | None = None) -> Reference:
    """Parse a setting such as ``hf:runs/marian`` or ``hf:NAME,dtype=bfloat16``.

    Args:
        text: The setting.
        before: The reference of the model before it moved: its options are the defaults.

    Raises:
        InputError: The setting has no name, an unknown option, or a wrong value of an option.
    """
    parts = text.removeprefix(PREFIX).replace(",,", "\0").split(",")
    model, *options = (part.replace("\0", ",") for part in parts)
    known = {field.name for field in fields(Reference)} - {"name"}
    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key not in known:
            raise InputError(
                f"{text}: {option!r} is not an option of a model: choose from {', '.join(sorted(known))}; write a "
                "comma in a folder's name twice"
            )
        given[key] = value
    if not model:
        raise InputError(f"{text} names no model: give {PREFIX}FOLDER or {PREFIX}NAME")
    if given.get("dtype", "float32") not in DTYPES:
        raise InputError(f"{text}: unknown dtype {given['dtype']!r}: choose one of {', '.join(DTYPES)}")
    for name in {"plain", "trust_remote_code"} & given.keys():
        if given[name].lower() not in ("true", "false"):
            raise InputError(f"{text}: {name} must be true or false")
        given[name] = given[name].lower() == "true"
    if "longest_prompt" in given:
        if not given["longest_prompt"].isdecimal():
            raise InputError(f"{text}: longest_prompt must be a number of tokens")
        given["longest_prompt"] = int(given["longest_prompt"])
    return replace(before or Reference(model), name=model, **given)


def from_pretrained(kind: Any, reference: Reference, **options: Any) -> Any:
    """Call ``kind.from_pretrained`` for local files, or else for the hub.

    Raises:
        InputError: The model is not found, or cannot be loaded; the cause is the library's error.
    """
    folder = reference.folder
    if kind is not GenerationConfig:
        # A GenerationConfig would keep this option as a setting.
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
    """Hide the library's progress bars and reports; InputErrors report what is wrong."""
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
    """Turn errors of the library into InputErrors."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Damaged files make the library raise anything.
        message = str(error).strip()
        if "trust_remote_code" in message:
            raise InputError(
                f"{reference} comes with code of its own, which is not run: if you trust it, name the model "
                f"{reference},trust_remote_code=true"
            ) from error
        if reference.folder is None and (missing := _not_to_be_had(reference.name, error)):
            raise InputError(f"{reference.name}: {missing}") from error
        first = re.split(r"(?<=\.) ", shortened(error))[0]
        raise InputError(f"{reference} cannot be loaded: {first}") from error


def caused_by(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Whether an error, or a cause of it, is of one of ``kinds``."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, kinds):
        found = found.__cause__
    return found is not None


def _not_to_be_had(name: str, error: BaseException) -> str | None:
    """Say why the hub does not give a model, and what to do; None if it does, but the model cannot be loaded."""
    if caused_by(error, GatedRepoError):
        return (
            "the hub gives this model on request only: ask for it on its page there, and log in by "
            "'hf auth login'"
        )
    if caused_by(error, RepositoryNotFoundError, HFValidationError):
        return (
            "no such folder, and no such model in the local cache or on the hub: name the folder that "
            "save_pretrained wrote, or a model's name; for a private model log in by 'hf auth login'"
        )
    if caused_by(error, LocalEntryNotFoundError):
        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        return (
            "no such folder, and no complete model of this name in the local cache, and the hub cannot be "
            f"reached{offline}: name a folder, or download the model on a machine with a network"
        )
    if caused_by(error, HfHubHTTPError):
        return f"the hub does not give it: {' '.join(str(error).split())}"
    return None
