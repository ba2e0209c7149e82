"""Runs the unfinished steps of a plan, each in its own process, several at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Literal, Protocol

from lightning_bpd.files import remove_what_was_left
from lightning_bpd.grid.plan import Step, recipes
from lightning_bpd.grid.state import Record, has_result, read_record, states, write_record

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_LINES = 5
# A killed grid kills its steps too. Otherwise they would still run when the grid resumes them. A grid that died before
# the signal was arranged is no longer the parent of its step.
_DIES_WITH_GRID = ("setpriv", "--pdeathsig", "KILL", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')
# Seconds between two polls of the processes.
_POLL = 0.1


@dataclass(frozen=True)
class Outcome:
    """How a step ended."""

    step: Step
    status: Literal["done", "failed", "interrupted", "not run"]
    seconds: float = 0.0
    """seconds of this run of the step"""
    exit_code: int = 0
    words: str = ""
    """the reason of a failure or of not running"""
    log: tuple[str, ...] = ()
    """the last lines of its output, if it failed"""


class Watcher(Protocol):
    """Receives the events of a run."""

    def started(self, step: Step, resumed: bool) -> None:
        """The process of a step has started."""

    def ended(self, outcome: Outcome) -> None:
        """A step has ended, or will not run."""

    def waiting(self, running: Mapping[str, float], settled: int) -> None:
        """Called repeatedly with the running steps and their seconds, and the number of ended steps."""

    def asked_to_stop(self, number: signal.Signals, running: Sequence[str]) -> None:
        """A signal came and was passed on to the running steps."""


@dataclass
class _Running:
    step: Step
    process: subprocess.Popen[bytes]
    log: BinaryIO
    log_start: int
    """offset in the log, in bytes, at which the output of this run begins"""
    slot: int
    record: Record
    start: float

    def seconds(self) -> float:
        return time.monotonic() - self.start


def run_steps(
    steps: Sequence[Step],
    folder: Path,
    program: Sequence[str],
    slots: Sequence[Mapping[str, str]],
    watcher: Watcher,
    keep: bool = False,
) -> tuple[list[Outcome], signal.Signals | None]:
    """Run the unfinished steps in the plan's order, as far as their needs allow.

    A step that fails is not run again, and steps that need it are not run; all other steps are. The first signal
    (Ctrl-C, SIGTERM or a closed terminal) is passed on, so trainings save and stop, and no further step starts.

    Args:
        steps: The plan.
        folder: The grid's folder; no other process may run a grid in it.
        program: The command before a step's arguments, such as the interpreter and train.py.
        slots: Environment variables for each of the steps that run at once.
        watcher: Receives the events.
        keep: Accept results made by commands that differ from the plan's.

    Returns:
        Outcomes in the order of their ends, without steps that were done before; and the signal that came, if any.
    """
    # A grid that was killed while it stored the state of its last step has nothing to store any more.
    remove_what_was_left(folder / "steps")
    todo = states(steps, folder, keep)
    recipe = recipes(steps)
    waiting = [step for step in steps if todo[step.name].action != "nothing"]
    settled = {step.name: "done" for step in steps if step not in waiting}
    running: list[_Running] = []
    outcomes: list[Outcome] = []

    def settle(outcome: Outcome) -> None:
        outcomes.append(outcome)
        settled[outcome.step.name] = outcome.status
        watcher.ended(outcome)

    def pass_on(number: signal.Signals, time_of_asking: int) -> None:
        for each in running:
            if time_of_asking < 3:
                # Steps get SIGTERM for a closed terminal: they have no terminal.
                each.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)
            else:
                _kill(each.process)
        watcher.asked_to_stop(number, [each.step.name for each in running])

    with _signals() as asked:
        passed_on = 0
        try:
            while (waiting and not asked) or running:
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    settle(_end(folder, each, interrupted=bool(asked)))
                while passed_on < len(asked):
                    passed_on += 1
                    pass_on(asked[passed_on - 1], passed_on)
                started = False
                if not asked:
                    for step in _hopeless(waiting, settled):
                        waiting.remove(step)
                        settle(Outcome(step, "not run", words=_unmet(step, settled)))
                        started = True
                    free = [slot for slot in range(len(slots)) if slot not in [each.slot for each in running]]
                    next_step = _next(waiting, settled, [each.step for each in running])
                    if next_step is not None and free:
                        waiting.remove(next_step)
                        started = True
                        if next_step.given is not None:
                            settle(_use_given(folder, next_step, recipe[next_step.name]))
                        else:
                            resumes = todo[next_step.name].action == "resume"
                            watcher.started(next_step, resumes)
                            running.append(
                                _start(
                                    folder,
                                    next_step,
                                    recipe[next_step.name],
                                    program,
                                    slots,
                                    free[0],
                                    resumes,
                                )
                            )
                watcher.waiting({each.step.name: each.seconds() for each in running}, len(settled))
                if not started and (running or waiting):
                    time.sleep(_POLL)
        finally:
            # Processes are left here only after an error of our own.
            for each in running:
                _kill(each.process)
                each.process.wait()
                each.log.close()
    return outcomes, asked[0] if asked else None


def log_path(folder: Path, name: str) -> Path:
    """The file of a step's standard output and error."""
    return folder / "logs" / f"{name}.log"


def _next(waiting: Sequence[Step], settled: Mapping[str, str], running: Sequence[Step]) -> Step | None:
    """The first step that may start beside the running steps."""
    if any(step.alone for step in running):
        return None
    for step in waiting:
        ready = all(settled.get(name) == "done" for name in step.needs)
        ready = ready and all(name in settled for name in step.after)
        if ready and not (step.alone and running):
            return step
    return None


def _hopeless(waiting: Sequence[Step], settled: Mapping[str, str]) -> list[Step]:
    return [step for step in waiting if any(settled.get(name, "done") != "done" for name in step.needs)]


def _unmet(step: Step, settled: Mapping[str, str]) -> str:
    return "needs " + ", ".join(name for name in step.needs if settled.get(name, "done") != "done")


def _start(
    folder: Path,
    step: Step,
    recipe: str,
    program: Sequence[str],
    slots: Sequence[Mapping[str, str]],
    slot: int,
    resumes: bool,
) -> _Running:
    arguments = [*step.arguments, *(step.resume if resumes else ())]
    record = read_record(folder, step.name) if resumes else None
    if record is None:
        _set_aside(folder, step)
        record = Record(
            list(step.arguments), recipe, datetime.now().astimezone().isoformat(timespec="seconds")
        )
    # Written before the process starts: a result without a record would be made again.
    write_record(folder, step.name, replace(record, exit_code=None))
    path = log_path(folder, step.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("ab" if resumes else "wb")
    log.write(f"$ {' '.join(arguments)}\n".encode())
    log.flush()
    log_start = log.tell()
    with_grid = (*_DIES_WITH_GRID, str(os.getpid())) if shutil.which("setpriv") else ()
    process = subprocess.Popen(
        [*with_grid, *program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **slots[slot]},
        # Otherwise Ctrl-C reaches the step twice, from the terminal and from here, and a second Ctrl-C stops unsaved.
        start_new_session=True,
    )
    return _Running(step, process, log, log_start, slot, record, time.monotonic())


def _end(folder: Path, ended: _Running, interrupted: bool) -> Outcome:
    ended.log.close()
    step, code, seconds = ended.step, ended.process.returncode, ended.seconds()
    write_record(
        folder, step.name, replace(ended.record, seconds=ended.record.seconds + seconds, exit_code=code)
    )
    if code == 0 and has_result(step):
        return Outcome(step, "done", seconds)
    if code != 0 and interrupted:
        return Outcome(step, "interrupted", seconds, code)
    words = f"exit code {code}" if code else f"it ended well, but wrote no {step.result}"
    return Outcome(
        step, "failed", seconds, code, words, _last_lines(log_path(folder, step.name), ended.log_start)
    )


def _use_given(folder: Path, step: Step, recipe: str) -> Outcome:
    """Link a given result to the path where the step would have written its result."""
    assert step.given is not None
    if step.own.is_symlink():
        step.own.unlink()
    else:
        _set_aside(folder, step)
    given = step.given.resolve()
    if step.result.parent == step.own:
        step.own.parent.mkdir(parents=True, exist_ok=True)
        step.own.symlink_to(given)
    else:
        # A folder that holds a link, so that measurements of the model are not written beside the original.
        step.own.mkdir(parents=True)
        step.result.parent.symlink_to(given)
        config = given.parent / "config.yaml"
        if config.is_file():
            (step.own / config.name).symlink_to(config)
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    write_record(folder, step.name, Record(list(step.arguments), recipe, started, exit_code=0))
    if not has_result(step):
        return Outcome(step, "failed", words=f"{step.given} holds no finished result ({step.result.name})")
    return Outcome(step, "done")


def _set_aside(folder: Path, step: Step) -> None:
    """Move the results of an earlier command of this step to ``earlier``, where the report does not look."""
    if not os.path.lexists(step.own):
        return
    number = 1
    while (kept := folder / "earlier" / f"{step.name}.{number}").exists():
        number += 1
    kept.parent.mkdir(parents=True, exist_ok=True)
    step.own.rename(kept)


def _last_lines(path: Path, start: int) -> tuple[str, ...]:
    with path.open("rb") as file:
        # Only the end is read, because a log may be long.
        file.seek(max(start, path.stat().st_size - 20_000))
        lines = file.read().decode(errors="replace").splitlines()
    return tuple(line.rstrip() for line in lines if line.strip())[-LAST_LINES:]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and the processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Collect the signals that ask to stop instead of stopping."""
    asked: list[signal.Signals] = []

    def handle(number: int, frame: FrameType | None) -> None:
        asked.append(signal.Signals(number))

    previous: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
