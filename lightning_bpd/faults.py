"""Which errors are the user's or the machine's, and which are faults of this package (floor 0)."""

from __future__ import annotations

import errno
import sys
from importlib.metadata import version
from traceback import walk_tb

from lightning_bpd.interfaces import InputError

# What these libraries refuse comes from the command line or a configuration: by module, the errors that say so.
_REFUSALS: dict[str, tuple[str, ...]] = {
    "jsonargparse": ("Exception",),
    "yaml": ("Exception",),
    "lightning_fabric": ("ValueError", "TypeError", "ImportError", "MisconfigurationException"),
    "pytorch_lightning": ("ValueError", "TypeError", "ImportError", "MisconfigurationException"),
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
_NO_MEMORY = ("out of memory", "can't allocate memory")


def explain(error: BaseException) -> str | None:
    """What to tell the user about an error that the user or the machine caused; None for a fault of this package.

    These are the user's or the machine's: an InputError, or what a library made of it; every OSError; too little
    memory; and what Lightning, the parser of the command line or an optimiser refuses of the configuration.
    """
    if isinstance(error, ValueError) or _raised_in(error, "jsonargparse"):
        own: BaseException | None = error
        while own is not None and not isinstance(own, InputError):
            own = own.__cause__ or own.__context__
        if own is not None:
            return str(own)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return (
            f"there is too little memory ({error}): use smaller batches or a smaller model, or another device"
        )
    if str(error).startswith("Error(s) in loading state_dict"):
        _, *differences = str(error).splitlines()
        return (
            f"the checkpoint does not fit the model that is configured ({len(differences)} differences, the first: "
            f"{differences[0].strip()}): leave out the options that change the model, or start a new run"
        )
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for module, refused in _REFUSALS.items():
        if _raised_in(error, module) and not kinds.isdisjoint(refused):
            return str(error) or f"the configuration cannot be used: {module} raises {type(error).__name__}"
    return None


def report_request() -> str:
    """What follows the traceback of an error that is a fault of this package."""
    return (
        f"This is a fault of lightning_bpd {version('lightning_bpd')}, not yours. Please report it with this "
        "traceback, the command, its configuration and the output of pip freeze."
    )


def _of_system(error: OSError) -> str:
    if error.errno is None:
        return str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename is not None else ""
    advice = _ADVICE.get(error.errno, "check the path and the disk, and give the same command again")
    return f"{where}{error.strerror}: {advice}"


def _raised_in(error: BaseException, module: str) -> bool:
    """Whether code of a module raised it, itself or by way of Python's own library."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    others = [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names]
    return bool(others) and f"{others[-1]}.".startswith(f"{module}.")
