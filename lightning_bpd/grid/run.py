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

from lightning_bpd.files import remove_what_was_left
from lightning_bpd.grid.display import Display, Outcome, log_path
from lightning_bpd.grid.plan import Step, recipes
from lightning_bpd.grid.state import Record, has_result, read_record, states, write_record

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_LINES = 5
# A killed grid kills its steps too. Otherwise they would still run when the grid resumes them. A grid that died before
# the signal was arranged is no longer the parent of its step.
_DIES_WITH_GRID = ("setpriv", "--pdeathsig", "KILL", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')
# Seconds between two polls of the processes.
_POLL = 0.1


@dataclass
class _Running:
    step: Step
    process: subprocess.Popen[bytes]
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
    display: Display,
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
        display: Shows the events.
        keep: Accept results made by commands that differ from the plan's.

    Returns:
        Outcomes in the order of their ends, without steps that were done before; and the signal that came, if any.
    """
    # A grid that was killed while it stored the state of its last step has nothing to store any more.
    remove_what_was_left(folder / "steps")
    runner = _Runner(steps, folder, program, slots, display, keep)
    with _signals() as asked:
        runner.run(asked)
    return runner.outcomes, asked[0] if asked else None


class _Runner:
    """The steps that wait, run and have ended; the arguments are those of ``run_steps``."""

    def __init__(
        self,
        steps: Sequence[Step],
        folder: Path,
        program: Sequence[str],
        slots: Sequence[Mapping[str, str]],
        display: Display,
        keep: bool,
    ) -> None:
        self.folder, self.program, self.slots, self.display = folder, program, slots, display
        self.todo, self.recipe = states(steps, folder, keep), recipes(steps)
        self.waiting = [step for step in steps if self.todo[step.name].action != "nothing"]
        self.settled = {step.name: "done" for step in steps if step not in self.waiting}
        self.running: list[_Running] = []
        self.outcomes: list[Outcome] = []

    def run(self, asked: Sequence[signal.Signals]) -> None:
        """Run until all steps have ended or, once a signal is in ``asked``, until the running steps have."""
        passed_on = 0
        try:
            while (self.waiting and not asked) or self.running:
                for each in [each for each in self.running if each.process.poll() is not None]:
                    self.running.remove(each)
                    self._settle(self._end(each, interrupted=bool(asked)))
                while passed_on < len(asked):
                    passed_on += 1
                    self._pass_on(asked[passed_on - 1], at_once=passed_on > 2)
                started = not asked and self._start_next()
                now = {each.step.name: each.seconds() for each in self.running}
                self.display.waiting(now, len(self.settled))
                if not started and (self.running or self.waiting):
                    time.sleep(_POLL)
        finally:
            # Processes are left here only after an error of our own.
            for each in self.running:
                _kill(each.process)
                each.process.wait()

    def _settle(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.settled[outcome.step.name] = outcome.status
        self.display.ended(outcome)

    def _pass_on(self, number: signal.Signals, at_once: bool) -> None:
        for each in self.running:
            if at_once:
                _kill(each.process)
            else:
                # Steps get SIGTERM for a closed terminal: they have no terminal.
                each.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)
        self.display.asked_to_stop(number, [each.step.name for each in self.running])

    def _start_next(self) -> bool:
        """Start the first step that may start, or settle a step that cannot. Returns whether there was one."""
        for step in self.waiting:
            if unmet := [name for name in step.needs if self.settled.get(name, "done") != "done"]:
                self.waiting.remove(step)
                self._settle(Outcome(step, "not run", words=f"needs {', '.join(unmet)}"))
                return True
        free = sorted(set(range(len(self.slots))) - {each.slot for each in self.running})
        if not free or any(each.step.alone for each in self.running):
            return False
        for step in self.waiting:
            if not {*step.needs, *step.after} <= self.settled.keys() or (step.alone and self.running):
                continue
            self.waiting.remove(step)
            if step.given is not None:
                self._settle(self._use_given(step))
            else:
                self._start(step, free[0])
            return True
        return False

    def _start(self, step: Step, slot: int) -> None:
        resumes = self.todo[step.name].action == "resume"
        self.display.started(step, resumes)
        arguments = [*step.arguments, *(step.resume if resumes else ())]
        record = read_record(self.folder, step.name) if resumes else None
        if record is None:
            _set_aside(self.folder, step)
            record = Record(list(step.arguments), self.recipe[step.name], _now())
        # Written before the process starts: a result without a record would be made again.
        write_record(self.folder, step.name, replace(record, exit_code=None))
        path = log_path(self.folder, step.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with_grid = (*_DIES_WITH_GRID, str(os.getpid())) if shutil.which("setpriv") else ()
        with path.open("ab" if resumes else "wb") as log:
            log.write(f"$ {' '.join(arguments)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [*with_grid, *self.program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.slots[slot]},
                # Otherwise Ctrl-C reaches the step twice, from the terminal and from here, and the second one stops it
                # unsaved.
                start_new_session=True,
            )
            self.running.append(_Running(step, process, log.tell(), slot, record, time.monotonic()))

    def _end(self, ended: _Running, interrupted: bool) -> Outcome:
        step, code, seconds = ended.step, ended.process.returncode, ended.seconds()
        record = replace(ended.record, seconds=ended.record.seconds + seconds, exit_code=code)
        write_record(self.folder, step.name, record)
        if code == 0 and has_result(step):
            return Outcome(step, "done", seconds)
        if code != 0 and interrupted:
            return Outcome(step, "interrupted", seconds, code)
        words = f"exit code {code}" if code else f"it ended well, but wrote no {step.result}"
        log = _last_lines(log_path(self.folder, step.name), ended.log_start)
        return Outcome(step, "failed", seconds, code, words, log)

    def _use_given(self, step: Step) -> Outcome:
        """Link a given result to the path where the step would have written its result."""
        assert step.given is not None
        if step.own.is_symlink():
            step.own.unlink()
        else:
            _set_aside(self.folder, step)
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
        record = Record(list(step.arguments), self.recipe[step.name], _now(), exit_code=0)
        write_record(self.folder, step.name, record)
        if has_result(step):
            return Outcome(step, "done")
        words = f"{step.given} holds no finished result ({step.result.name})"
        return Outcome(step, "failed", words=words)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


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
