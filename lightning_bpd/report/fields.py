"""Values of a record that was read from JSON, each checked, and the message of what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lightning_bpd.interfaces import InputError

AGAIN = "measure this model again with `python train.py compare`"


def number(value: Any) -> bool:
    """a number"""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number_or_none(value: Any) -> bool:
    """a number or null"""
    return value is None or number(value)


def count(value: Any) -> bool:
    """a number of 1 or more"""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def strings(value: Any) -> bool:
    """a list of text"""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def numbers(value: Any) -> bool:
    """a list of numbers"""
    return isinstance(value, list) and all(map(number, value))


def counts(value: Any) -> bool:
    """a list of whole numbers"""
    return numbers(value) and all(isinstance(each, int) and each >= 0 for each in value)


def field(
    record: Any,
    key: str,
    kind: type | tuple[str, ...] | Callable[[Any], bool],
    where: str,
    length: int | None = None,
) -> Any:
    """One value of a record: of a type, one of some words, or what a check (whose docstring names it) passes."""
    if not isinstance(record, dict) or key not in record:
        raise InputError(f"{where}: {key!r} is missing: {AGAIN}")
    value = record[key]
    if isinstance(kind, tuple):
        right, what = value in kind, f"one of {', '.join(kind)}"
    elif isinstance(kind, type):
        right, what = (
            isinstance(value, kind),
            {"dict": "an object", "str": "text"}.get(kind.__name__, kind.__name__),
        )
    else:
        right, what = kind(value), str(kind.__doc__)
    if not right:
        raise InputError(f"{where}: {key!r} must be {what}: {AGAIN}")
    if length is not None and len(value) != length:
        raise InputError(f"{where}: {key!r} must hold {length} values, and holds {len(value)}: {AGAIN}")
    return value
