"""What of a grid is there already: records of commands, states of steps, figures, and how long the rest may take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lightning_bpd.faults import damaged, from_plain, read_json
from lightning_bpd.files import write_atomically
from lightning_bpd.grid.plan import Step, recipes
from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring import record as measurement
from lightning_bpd.measuring.words import QUALITIES

# Training k heads takes about as long as if the base were this many heads.
_BASE_IN_HEADS = 4
# The block size that the plan's own rough times are for.
_ROUGH_BLOCK_SIZE = 8


@dataclass(frozen=True)
class Record:
    """The last run of a step, as stored in ``steps/step_<name>.json``."""

    arguments: list[str]
    recipe: str
    """hash of the command and of all commands of the steps that it needed"""
    started: str
    """date and time of the first start, ISO 8601"""
    seconds: float = 0.0
    """wall-clock time, over all resumptions"""
    exit_code: int | None = None
    """None while the step runs; negative if a signal ended it"""


@dataclass(frozen=True)
class State:
    """The action that a step needs."""

    action: Literal["nothing", "run", "resume"]
    words: str


def record_path(folder: Path, name: str) -> Path:
    """The record of a step, in a grid's folder."""
    # Not compare_*.json, which the report would read as a measurement.
    return folder / "steps" / f"step_{name}.json"


def read_record(folder: Path, name: str) -> Record | None:
    """The record of a step; None if it is missing or cannot be read."""
    try:
        with damaged(record_path(folder, name), "the step is run again"):
            return from_plain(Record, read_json(record_path(folder, name), ""))
    except InputError:
        return None


def write_record(folder: Path, name: str, record: Record) -> None:
    """Write the record of a step atomically."""
    write_atomically(record_path(folder, name), json.dumps(asdict(record), indent=2) + "\n")


def has_result(step: Step) -> bool:
    """Whether the step's result exists and is complete."""
    if step.complete is None:
        return step.result.is_file()
    found = _read(step.result)
    return isinstance(found, dict) and found.get(step.complete) is True


def states(steps: Sequence[Step], folder: Path, keep: bool = False) -> dict[str, State]:
    """The action that each step needs, by name.

    Args:
        steps: The plan.
        folder: The grid's folder.
        keep: Accept results made by commands that differ from the plan's.
    """
    by_name = {step.name: step for step in steps}
    recipe = recipes(steps)
    found: dict[str, State] = {}
    for step in steps:
        record = read_record(folder, step.name)
        missing = [name for name in step.needs if found[name].action != "nothing"]
        # A result inside the folder of a step that starts anew is moved aside with that folder.
        lost = any(step.result.is_relative_to(by_name[name].own) for name in missing)
        state = _state(step, record, recipe[step.name], keep)
        if step.kind == "report" and state.action == "nothing":
            if newer := [name for name in step.after if _is_newer(by_name[name].result, step.result)]:
                state = State("run", f"to run: {newer[0]} is newer")
            lost = any(found[name].action != "nothing" for name in step.after)
        if lost:
            state = State("run", "to run")
        if missing and state.action != "nothing":
            state = State(state.action, f"needs {', '.join(missing)}")
        found[step.name] = state
    return found


def _state(step: Step, record: Record | None, recipe: str, keep: bool) -> State:
    same_command = record is not None and record.arguments == list(step.arguments)
    same = same_command and record is not None and record.recipe == recipe
    if has_result(step):
        if same:
            return State("nothing", "done" if step.given is None else f"given: {step.given}")
        if record is None:
            difference = "no record says which command made it"
        elif not same_command:
            difference = "it was made by another command"
        else:
            difference = "what it needs was made by another command"
        if keep:
            return State("nothing", f"kept, though {difference}")
        if step.given is None:
            return State("run", f"to run anew: {difference} (--keep keeps it)")
    if step.given is not None:
        return State("run", f"given: {step.given}")
    if step.resumes_from is not None and step.resumes_from.exists():
        return State("resume", "to resume") if same else State("run", "to run anew: another command began it")
    return State("run", "to run")


def estimates(steps: Sequence[Step], folder: Path, rough: Mapping[str, float]) -> dict[str, float | None]:
    """Seconds that each step may take: like finished steps of its kind, else roughly; None if nothing is known.

    Times of steps with heads are scaled by their number.

    Args:
        steps: The plan.
        folder: The grid's folder.
        rough: Seconds by kind, for k = 8 where there are heads.
    """
    known: dict[str, list[float]] = {}
    for step in steps:
        record = read_record(folder, step.name)
        if record is not None and record.exit_code == 0 and record.seconds > 0 and step.given is None:
            known.setdefault(_kind(step), []).append(record.seconds / _cost(step.block_size))
    found: dict[str, float | None] = {}
    for step in steps:
        kind = _kind(step)
        if step.given is not None:
            found[step.name] = 0.0
        elif kind in known:
            found[step.name] = sum(known[kind]) / len(known[kind]) * _cost(step.block_size)
        elif kind in rough:
            of_heads = kind in ("frozen", "joint", "compare")
            scale = _cost(step.block_size) / _cost(_ROUGH_BLOCK_SIZE) if of_heads else 1.0
            found[step.name] = rough[kind] * scale
        else:
            found[step.name] = None
    return found


def total(
    steps: Sequence[Step], seconds: Mapping[str, float | None], todo: Mapping[str, State], jobs: int
) -> tuple[float, int]:
    """Seconds until all is done, with so many steps at once, and the number of steps whose time is unknown."""
    left = [step for step in steps if todo[step.name].action != "nothing"]
    together = sum(seconds[step.name] or 0.0 for step in left if not step.alone)
    alone = sum(seconds[step.name] or 0.0 for step in left if step.alone)
    # Of steps that wait for one another, the longest chain.
    chains: dict[str, float] = {}
    for step in left:
        if not step.alone:
            before = max((chains.get(name, 0.0) for name in step.needs), default=0.0)
            chains[step.name] = before + (seconds[step.name] or 0.0)
    longest = max(chains.values(), default=0.0)
    return max(together / jobs, longest) + alone, sum(seconds[step.name] is None for step in left)


def key_figures(step: Step) -> str:
    """The main figures of a finished step as short text; empty if its result has none."""
    if step.kind == "compare":
        try:
            arms = measurement.read_record(step.result).arms
        except InputError:
            return ""
        exact = [asdict(arm) for arm in arms if arm.acceptance == "exact"]
        figures: dict[str, Any] = max(exact, key=lambda arm: arm["block_size"], default={})
    else:
        found = _read(step.result.parent / "metrics.json")
        figures = found.get("validation", {}) if isinstance(found, dict) else {}
    figures = {**figures, **figures.get("quality", {})}
    names = {"mean_accepted_block_size": "mean accepted block size", "speed_up": "speed-up"}
    return ", ".join(
        f"{label} {figures[name]:.2f}"
        for name, label in ({name: quality.label for name, quality in QUALITIES.items()} | names).items()
        if isinstance(figures.get(name), float | int)
    )


def _kind(step: Step) -> str:
    return "base" if step.kind == "teacher" else step.kind


def _cost(block_size: int) -> int:
    return _BASE_IN_HEADS + block_size


def _is_newer(path: Path, than: Path) -> bool:
    try:
        return path.stat().st_mtime_ns > than.stat().st_mtime_ns
    except OSError:
        return False


def _read(path: Path) -> Any:
    try:
        return read_json(path, "")
    except InputError:
        return None
