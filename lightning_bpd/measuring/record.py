"""The record of a measurement: what `compare` writes, and what `report` and `grid` read. Imports no torch.

Every field is data about one model on one corpus. A file is validated once, by ``read_record``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from lightning_bpd.faults import program
from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import Costs, InputError
from lightning_bpd.measuring.words import KINDS, Kind

FORMAT = 2
REGIMES = ("base", "frozen", "joint", "unknown")
DATA = ("gold", "distilled", "both", "unknown")

Count = Annotated[int, Field(ge=1)]
Counts = list[Annotated[int, Field(ge=0)]]


@dataclass(frozen=True)
class Training:
    """How the model was trained."""

    regime: Literal["base", "frozen", "joint", "unknown"]
    data: Literal["gold", "distilled", "both", "unknown"]
    block_size: Count
    """k as trained; 1 for a model without heads"""
    seed: int | None = None
    """None if the model does not say"""


@dataclass(frozen=True)
class Corpus:
    """The rows that were decoded."""

    folder: str
    name: str
    rows: Count
    hash: str


@dataclass(frozen=True)
class Replay:
    """Exact blockwise decoding of the whole corpus, counted from one teacher-forced call."""

    tokens: Count
    iterations: Counts
    """for k' = 1..k"""


@dataclass(frozen=True)
class Arm:
    """One way of decoding the corpus, and its results."""

    decoder: Literal["greedy", "blockwise"]
    block_size: Count
    """1 for greedy decoding"""
    acceptance: str
    quality: dict[str, float | None]
    """by the codec's names, the principal one first; None is an infinite PSNR"""
    to_greedy: dict[str, float | None] | None
    """quality with greedy output as the reference, if tokens have an order; None is an infinite PSNR: equal output"""
    calls: float
    """model calls a row"""
    mean_accepted_block_size: float
    greedy_agreement: float
    """share of rows whose tokens are those of greedy decoding"""
    seconds: float | None
    """wall-clock time a row; None if it was not measured"""
    speed_up: float | None
    """greedy decoding's seconds over these"""
    tokens: Counts
    """of each row, end token included"""
    iterations: Counts
    """of each row; in greedy decoding the number of its tokens"""
    accepted_sizes: Counts
    """how many iterations accepted 1, 2, ... tokens"""
    outputs: list[str] | None = None
    """of each row of text"""
    squared_errors: Counts | None = None
    """of each image, to the true one"""
    ssims: list[float] | None = None
    """of each image, if images are large enough"""

    def __post_init__(self) -> None:
        if not sum(self.iterations):
            raise ValueError("no iterations were counted")
        _check_length("accepted_sizes", self.accepted_sizes, self.block_size)

    @property
    def acceptance_by_position(self) -> list[float]:
        """The share of iterations that accept at least 1, 2, ... k' tokens."""
        total = sum(self.accepted_sizes)
        return [sum(self.accepted_sizes[first:]) / total for first in range(len(self.accepted_sizes))]

    @property
    def draft_acceptance_rate(self) -> float | None:
        """Accepted proposals over all proposals, as vLLM reports it; None if their number is not known or 0."""
        if self.block_size == 1 or self.acceptance == "adaptive":
            return None
        return sum(self.acceptance_by_position[1:]) / (self.block_size - 1)

    @property
    def rows(self) -> tuple[Any, ...]:
        """The output of each row, as far as the record has it."""
        return tuple(self.outputs or self.squared_errors or ())


@dataclass(frozen=True)
class Record:
    """One model, measured on one corpus by several ways of decoding. The first arm is greedy decoding."""

    kind: Literal["text", "images"]
    model: str
    training: Training
    corpus: Corpus
    settings: dict[str, Any]
    signature: str
    """how quality is computed"""
    provenance: dict[str, Any]
    arms: list[Arm]
    replay: Replay | None = None
    acceptance_by_position: list[float] | None = None
    """of the exact arm with k' = k"""
    costs: Costs | None = None
    references: list[str] | None = None
    """of each row of text; images are known by the hash of the corpus"""
    intensities: Count | None = None
    """in each image"""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if not self.arms or self.arms[0].decoder != "greedy":
            raise ValueError("the first of 'arms' must be greedy decoding")
        rows, block_size = self.corpus.rows, self.training.block_size
        if self.kind == "text":
            _check_length("references", self.references, rows)
        elif self.intensities is None:
            raise ValueError("'intensities' is missing")
        for number, arm in enumerate(self.arms):
            with_rows = {
                "tokens": arm.tokens,
                "iterations": arm.iterations,
                **(
                    {"outputs": arm.outputs}
                    if self.kind == "text"
                    else {"squared_errors": arm.squared_errors}
                ),
                **({"ssims": arm.ssims} if "ssim" in arm.quality else {}),
            }
            for name, values in with_rows.items():
                _check_length(f"arms[{number}].{name}", values, rows)
            if arm.quality.get(self.words.qualities[0]) is None:
                raise ValueError(
                    f"arms[{number}].quality: '{self.words.qualities[0]}' is missing, or infinite because the output "
                    "equals the reference"
                )
            for name in arm.quality if arm.to_greedy is not None else ():
                if name not in (arm.to_greedy or {}):
                    raise ValueError(f"arms[{number}].to_greedy: '{name}' is missing")
        if self.replay is not None:
            _check_length("replay.iterations", self.replay.iterations, block_size)
        if self.acceptance_by_position is not None:
            _check_length("acceptance_by_position", self.acceptance_by_position, block_size)
        if self.costs is not None:
            _check_length("costs.call", self.costs.call, block_size)
            _check_length("costs.propose", self.costs.propose, block_size)

    @property
    def words(self) -> Kind:
        """The names that belong to its kind."""
        return KINDS[self.kind]

    @property
    def greedy(self) -> Arm:
        """Greedy decoding of this model."""
        return self.arms[0]

    def arm(self, block_size: int, acceptance: str) -> Arm | None:
        """The blockwise arm of this block size and rule; None if it was not measured."""
        named = (arm for arm in self.arms[1:] if (arm.block_size, arm.acceptance) == (block_size, acceptance))
        return next(named, None)


def _check_length(name: str, values: Sequence[Any] | None, expected: int) -> None:
    if values is None:
        raise ValueError(f"'{name}' is missing")
    if len(values) != expected:
        raise ValueError(f"'{name}' must hold {expected} values, and holds {len(values)}")


# Left out of the file if there are none.
_OPTIONAL = {"references", "intensities", "outputs", "squared_errors", "ssims"}


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, whole or not at all."""

    def given(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in items if value is not None or name not in _OPTIONAL}

    content = asdict(record, dict_factory=given)
    write_atomically(path, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")


def _again() -> str:
    return f"measure this model again with `{program()} compare`"


def read_record(path: Path) -> Record:
    """Read and validate a record.

    Raises:
        InputError: The file cannot be read, is damaged, or is of another format. One line names file and field.
    """
    try:
        content = path.read_bytes()
        plain = json.loads(content)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): {_again()}") from error
    found = plain.get("format") if isinstance(plain, dict) else None
    if found != FORMAT:
        raise InputError(f"{path} is of format {found!r}, and this version reads format {FORMAT}: {_again()}")
    try:
        return _adapter().validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        message = "it is missing" if first["type"] == "missing" else message
        where = "".join(steps).removeprefix(".")
        raise InputError(f"{path}: {f'{where}: ' if where else ''}{message}: {_again()}") from error


@cache
def _adapter() -> TypeAdapter[Record]:
    for plain in (Training, Corpus, Replay, Costs, Arm, Record):
        plain.__pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False)  # type: ignore
    return TypeAdapter(Record)
