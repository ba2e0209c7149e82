"""Short forms on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, MutableMapping
from pathlib import Path
from typing import Any

from lightning_bpd.codecs.hugging_face import is_reference
from lightning_bpd.files import path_inside
from lightning_bpd.interfaces import InputError


def expand_data_folder(args: list[str], classes: Collection[str]) -> list[str]:
    """Let ``--data DIR`` mean ``--data.init_args.folder DIR`` if DIR is an existing folder.

    Any other value of ``--data`` names a data class, as ``class_path`` does in configuration files; ``classes`` are the
    short names of the data classes. Raises InputError if the value is neither.
    """
    expanded = list(args)
    for position, argument in enumerate(args):
        name, equals, value = argument.partition("=")
        if equals and name == "--data" and _is_folder(value, classes):
            expanded[position] = f"--data.init_args.folder={value}"
        elif args[position - 1 : position] == ["--data"] and _is_folder(argument, classes):
            expanded[position - 1] = "--data.init_args.folder"
    return expanded


def names_model(args: list[str]) -> bool:
    """Whether the user gives a configuration, or says more about the model than settings of the default's drafter."""
    names = [argument.partition("=")[0] for argument in args[1:]]
    if any(name.startswith("--model.drafter.") for name in names):
        chosen = ("-c", "--config", "--model", "--model.drafter", "--model.drafter.class_path")
        return any(name in chosen for name in names)
    return any(name.startswith(("-c", "--config", "--model")) for name in names)


def refuse_decode_of_model(args: list[str]) -> None:
    """Raise InputError for decoding options under ``model``, which the group ``decode`` would silently replace."""
    for argument in args:
        if match := re.match(r"--model(\.init_args)?\.decode\b", argument):
            name = argument[match.end() :].partition("=")[0]
            raise InputError(f"{match[0]}{name} would be ignored: write --decode{name}")


def _is_folder(value: str, classes: Collection[str]) -> bool:
    # The next option, or a class described in place.
    if value.startswith(("-", "{")):
        return False
    path = Path(value)
    if path.is_dir():
        return True
    # A class by its short name or with its module, or a file that describes one.
    if value in classes or path.is_file() or ("." in value and "/" not in value):
        return False
    raise InputError(
        f"--data {value}: no such folder, nor a data class; known are {', '.join(sorted(classes))}"
    )


def naming_options(args: list[str]) -> list[str]:
    """The arguments that name the run, and the configuration files, which may name it too."""
    names = ("--config", "-c", "--experiment", "--runs", "--ckpt_path")
    kept: list[str] = []
    for position, argument in enumerate(args):
        if argument in names:
            kept += args[position : position + 2]
        elif argument.startswith(("-c", *(f"{name}=" for name in names))):
            kept.append(argument)
    return kept


def drop_repeated(options: MutableMapping[str, Any], args: list[str]) -> None:
    """Let ``--KEY+=ITEM`` in ``args`` add no item that the list in ``options`` already holds.

    A resumed run has the item from its first start. Numbers may be repeated, such as equal weights.
    """
    for key in {match[1] for argument in args if (match := re.match(r"--([\w.]+)\+(=|$)", argument))}:
        items = options.get(key)
        if isinstance(items, list):
            options[key] = [
                item
                for position, item in enumerate(items)
                if isinstance(item, int | float) or item not in items[:position]
            ]


def take_tokenizers_of_base(model: MutableMapping[str, Any], data: MutableMapping[str, Any]) -> None:
    """Let data without its own tokenizer use the tokenizers, or the codec, of the base that the model starts from.

    Args:
        model: The model's arguments. ``base`` may be the folder of a finished model or a Hugging Face model.
        data: The data's arguments, which are changed.
    """
    base = model.get("base")
    if not isinstance(base, str) or "tokenizer" not in data or data["tokenizer"] is not None:
        return
    if is_reference(base):
        data["tokenizer"] = base
        return
    try:
        config = json.loads((Path(base) / "config.json").read_text(encoding="utf-8"))
        if "hugging_face_tokenizer" in config or "codec" in config:
            data["tokenizer"] = base
            return
        paths = {side: str(path_inside(Path(base), name)) for side, name in config["tokenizers"].items()}
        target = paths["target"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # Not a finished model: whoever reads the base will say so.
    if "source" in paths and "target_tokenizer" in data:
        data["joint_vocabulary"] = False
        data["target_tokenizer"] = target
    data["tokenizer"] = paths.get("source", target)
