"""What a running grid prints: a line when a step starts and ends and, on a terminal, the running steps."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.status import Status

from lightning_bpd.grid.plan import Step
from lightning_bpd.grid.state import key_figures


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


class Display:
    """Prints the events of a run.

    Args:
        console: Where lines are printed.
        status: The line that shows the running steps; None for no such line.
        folder: The grid's folder.
        steps: The number of steps.
    """

    def __init__(self, console: Console, status: Status | None, folder: Path, steps: int) -> None:
        self.console, self.status, self.folder, self.steps = console, status, folder, steps

    def say(self, text: str) -> None:
        """Print a line without markup."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def started(self, step: Step, resumed: bool) -> None:
        """The process of a step has started."""
        self.say(f"{step.name}: {'resumed' if resumed else 'started'}")

    def ended(self, outcome: Outcome) -> None:
        """A step has ended, or will not run."""
        name, time = outcome.step.name, duration(outcome.seconds)
        if outcome.status == "done":
            given = f"given, {outcome.step.given}" if outcome.step.given is not None else f"done in {time}"
            self.say(f"{name}: {given}  {key_figures(outcome.step)}".rstrip())
        elif outcome.status == "failed":
            self.say(f"{name}: FAILED after {time}: {outcome.words}; see {log_path(self.folder, name)}")
            for line in outcome.log:
                self.say(f"    {line}")
        elif outcome.status == "interrupted":
            self.say(f"{name}: stopped after {time}")
        else:
            self.say(f"{name}: not run: {outcome.words}")

    def waiting(self, running: Mapping[str, float], settled: int) -> None:
        """Called repeatedly with the running steps and their seconds, and the number of ended steps."""
        if self.status is not None:
            now = ", ".join(f"{name} {duration(seconds)}" for name, seconds in running.items())
            self.status.update(f"{settled} of {self.steps} steps  {now}")

    def asked_to_stop(self, number: signal.Signals, running: Sequence[str]) -> None:
        """A signal came and was passed on to the running steps."""
        waits = f"; waiting for {', '.join(running)} to save and stop (again: at once)" if running else ""
        self.say(f"{number.name}{waits}")


def duration(seconds: float) -> str:
    """Format seconds as ``7 s``, ``2 min 5 s`` or ``3 h 20 min``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def log_path(folder: Path, name: str) -> Path:
    """The file of a step's standard output and error."""
    return folder / "logs" / f"{name}.log"
