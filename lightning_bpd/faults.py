"""Which errors are the user's or the machine's, and which are faults of this package (floor 0)."""

from __future__ import annotations

import errno
import importlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from traceback import walk_tb
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from lightning_bpd.interfaces import InputError

# By module, the errors by which a library refuses a value of the command line or of a configuration.
_REFUSALS: dict[str, tuple[str, ...]] = {
    "jsonargparse": ("Exception",),
    "yaml": ("Exception",),
    "lightning_fabric": (
        "ValueError",
        "TypeError",
        "ImportError",
        "OverflowError",
        "MisconfigurationException",
    ),
    "pytorch_lightning": (
        "ValueError",
        "TypeError",
        "ImportError",
        "OverflowError",
        "MisconfigurationException",
    ),
    "torch.optim": ("ValueError", "TypeError"),
}
_ADVICE = {
    errno.ENOSPC: "make room and give the same command again",
    errno.EDQUOT: "make room and give the same command again",
    errno.ENOENT: "check the path",
    errno.EACCES: "check who may read and write there, or choose another place",
    errno.EPERM: "check who may read and write there, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the disk or network file system fails: check it, and give the same command again",
}
_RESTORING = ("restore", "_restore", "resume_start")
_NO_MEMORY = ("out of memory", "can't allocate memory")


def program() -> str:
    """Return the program's name as the user types it before a command."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py" and started.parent.name == "lightning_bpd":
        return "python -m lightning_bpd"
    return "lightning-bpd" if started.name == "lightning-bpd" else "python train.py"


def explain(error: BaseException) -> str | None:
    """The message for an error that the user or the machine caused; None for a fault of this package.

    The user or the machine causes: an InputError, also one wrapped by a library; every OSError; too little memory;
    and a configuration that Lightning, the parser of the command line or an optimiser refuses.
    """
    if isinstance(error, ValueError) or _raised_in(error, "jsonargparse"):
        own: BaseException | None = error
        while own is not None and not isinstance(own, InputError):
            own = own.__cause__ or own.__context__
        if own is not None:
            # An error from a data loading process begins with the traceback of that process.
            return str(own).rpartition("InputError: ")[2]
    if str(error).startswith("Symlink loop") and isinstance(error.__context__, OSError):
        error = error.__context__  # pathlib raises this before Python 3.13
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return (
            f"there is too little memory ({error}): use smaller batches or a smaller model, or another device"
        )
    if _is_restoring(error):
        return (
            f"the checkpoint cannot be resumed from ({shortened(error)}): it is damaged, or of another model; give the "
            "options that the run began with, another --ckpt_path, or leave it out for a new run"
        )
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for module, refused in _REFUSALS.items():
        if _raised_in(error, module) and not kinds.isdisjoint(refused):
            if isinstance(error, RecursionError):
                return "a configuration or an option is nested too deeply: write it with fewer brackets"
            if isinstance(error, OverflowError):
                return f"a number in the configuration is too large ({error}): give a smaller one"
            words = _in_short(str(error)) if module == "jsonargparse" else str(error)
            return words or f"the configuration cannot be used: {module} raises {type(error).__name__}"
    return None


def shortened(error: BaseException) -> str:
    """A short form of an error: the first line of its message that is not empty or general."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if first.startswith("Error(s) in loading state_dict") and others:
        first = f"{others[0]}; {len(others)} such differences" if others[1:] else others[0]
    # The message of a KeyError, for example, is only a name.
    kind = "" if " " in first else f"{type(error).__name__}{': ' if first else ''}"
    return f"{kind}{first[:300]}"


@contextmanager
def damaged(what: object, remedy: str) -> Iterator[None]:
    """Turn every error of reading a damaged file into an InputError.

    Args:
        what: The name of the file or folder in messages.
        remedy: The advice to the user.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{what} cannot be read: {error.strerror or error}; {remedy}") from error
    except BaseException as error:  # Libraries may raise any error for damaged bytes.
        # The panic of a library in Rust is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{what} is damaged ({shortened(error)}): {remedy}") from error


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError, with the remedy, if the file holds no JSON object."""
    with damaged(path, remedy):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError("it is not a JSON object")
    return content


T = TypeVar("T")


def from_plain(kind: type[T], values: Mapping[str, Any]) -> T:
    """Make a dataclass from the plain data of a file. Raises TypeError if a value does not have its field's type."""
    hints = get_type_hints(kind)
    for name, value in values.items():
        hint = hints.get(name, object)
        kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
        if get_origin(hint) is Literal:
            fits = value in get_args(hint)
        elif type(value) is bool or (float in kinds and type(value) is int):
            fits = bool in kinds or type(value) is int
        else:
            fits = isinstance(value, tuple(get_origin(each) or each for each in kinds))
        if not fits:
            raise TypeError(f"its {name} is {str(value)[:50]!r}")
    return kind(**values)


def class_path(kind: type) -> str:
    """The import path of a class, by which files name it."""
    return f"{kind.__module__}.{kind.__qualname__}"


def named_class(path: str, base: type, where: str) -> Any:
    """The class that a file names. Nothing else than a subclass of ``base`` is called, whatever the file says.

    Raises:
        InputError: It cannot be imported, or is no such class.
    """
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{where} needs {path}, which cannot be imported ({error}): install the package that has it"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise InputError(f"{path}, which {where} names, is no {base.__name__}: export the model again")
    return kind


def report_request() -> str:
    """The text after the traceback of a fault of this package."""
    return (
        f"This is a fault of lightning_bpd {version('lightning_bpd')}, not yours. Please report it with this "
        "traceback, the command, its configuration and the output of pip freeze."
    )


def _in_short(message: str) -> str:
    """The message of the command line's parser, without the list of all types that it tried."""
    if inner := re.search(r"given class_path '([\w.]+)':\s*(.+?)\s*- Expected a <class", message, re.DOTALL):
        message = f"{inner[1].rpartition('.')[2]}: {inner[2]}"
    if re.search(r"<class 'str'>.*([Gg]ot|Given) value: (True|False|-?\d)", message, re.DOTALL):
        message += "; YAML reads no, off, yes, on and numbers as other than text: write the value in quotes"
    if "unrecognized arguments" in message or "is not accepted" in message:
        message += "; write options in full, as --help lists them"
    return message


def _of_system(error: OSError) -> str:
    if error.errno is None:
        return str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename is not None else ""
    advice = _ADVICE.get(error.errno, "check the path and the disk, and give the same command again")
    return f"{where}{error.strerror}: {advice}"


def _is_restoring(error: BaseException) -> bool:
    """Whether Lightning was reading a checkpoint."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return any(
        frame.f_globals.get("__name__", "").endswith("connectors.checkpoint_connector")
        and frame.f_code.co_name.startswith(_RESTORING)
        for frame in frames
    )


def _raised_in(error: BaseException, module: str) -> bool:
    """Whether code of a module raised the error, directly or through Python's standard library."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    others = [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names]
    return bool(others) and f"{others[-1]}.".startswith(f"{module}.")
