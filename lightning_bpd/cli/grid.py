"""grid: base, teacher, distilled data, heads of every size, measurements and a report, by one declared plan."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_bpd.cli.run_folder import RESULTS, lock
from lightning_bpd.faults import program
from lightning_bpd.files import shipped
from lightning_bpd.grid.display import Display, Outcome, duration
from lightning_bpd.grid.plan import Grid, Step, plan
from lightning_bpd.grid.run import run_steps
from lightning_bpd.grid.state import estimates, states, total
from lightning_bpd.interfaces import InputError

TRAIN = [sys.executable, "-m", "lightning_bpd"]


def grid(dry_run: bool = False, keep: bool = False, **settings: Any) -> None:
    """Train and measure a grid of models: frozen and joint, on gold and distilled data, for several block sizes.

    Configuration files stack (--config configs/grids/translation.yaml --config configs/grids/small.yaml), later ones
    win, and flags win over files. Every step is a separate command with its own folder; its output is in
    <runs>/<name>/logs. The same command resumes a stopped grid and runs failed steps again.

    Args:
        dry_run: Only print the plan: each step, its state, its command, and its estimated time.
        keep: Accept finished results made by commands that differ from the plan's. Otherwise they are moved to
            <runs>/<name>/earlier and made anew, because a table must not mix settings that its plan does not name.
    """
    configuration = Grid(**settings)
    steps = plan(configuration)
    _check_inputs(configuration)
    jobs, slots = _slots(configuration)
    console = Console()
    if dry_run:
        _print_plan(console, configuration, steps, jobs, keep)
        return
    folder = configuration.folder
    if any((folder / name).exists() for name in RESULTS):
        raise InputError(f"{folder} holds a run, not a grid: choose another --name or --runs")
    try:
        held = lock(folder)
    except InputError as error:
        raise InputError(
            f"another process runs a grid in {folder}: wait for it or choose another --name"
        ) from error
    with held:
        if configuration.generated_pairs is not None:
            from lightning_bpd.datamodules.demo import write_demo_corpus

            assert configuration.data is not None
            write_demo_corpus(Path(configuration.data), configuration.generated_pairs)
        # A status line shows the running steps, if standard output is a terminal.
        with console.status("") if console.is_terminal else nullcontext() as status:
            display = Display(console, status, folder, len(steps))
            display.say(_overview(configuration, steps, jobs, keep))
            outcomes, asked = run_steps(steps, folder, TRAIN, slots, display, keep)
    _conclude(display, steps, outcomes, asked)


def _check_inputs(configuration: Grid) -> None:
    """Raise InputError for missing inputs before the first step runs."""
    configs = [("base_configs", file) for file in configuration.base_configs]
    configs += [
        (f"{regime}_config", getattr(configuration, f"{regime}_config")) for regime in configuration.regimes
    ]
    for setting, file in configs:
        if not (Path(file).is_file() or shipped(file).is_file()):
            raise InputError(f"{setting}: there is no file {file}, seen from {Path.cwd()}")
    from lightning_bpd.decoding import parse_acceptance

    for rule in configuration.rules:
        parse_acceptance(rule)
    if configuration.kind == "images" and configuration.corpus not in ("validation", "test"):
        raise InputError(
            f"--corpus {configuration.corpus}: a grid of images is measured on validation or test"
        )
    data = configuration.data
    if data is not None and configuration.generated_pairs is None:
        # Images may be in an archive.
        found = Path(data).is_dir() if configuration.kind == "text" else Path(data).exists()
        if not found:
            raise InputError(f"--data {data}: no such folder (data/README.md says what belongs in it)")
    given = (
        ("base", configuration.base, "config.json", "finished model"),
        ("teacher", configuration.teacher, "config.json", "finished model"),
        ("teacher_data", configuration.teacher_data, "distillation.json", "finished distilled text"),
    )
    for setting, folder, file, kind in given:
        if folder is not None and not (Path(folder).expanduser() / file).is_file():
            raise InputError(f"--{setting} {folder}: no {kind} is there (it has no {file})")
    if configuration.kind == "images" and configuration.base is not None and data is None:
        config = Path(configuration.base).expanduser().resolve().parent / "config.yaml"
        said = any(argument.startswith("--data") for argument in configuration.compare_arguments)
        if not config.is_file() and not said:
            raise InputError(
                f"--base {configuration.base}: there is no {config}, which would say what images it is measured on: "
                "give --data, or for scikit-learn's digits --compare_arguments '[--data=digits]'"
            )


def _slots(configuration: Grid) -> tuple[int, list[dict[str, str]]]:
    """How many steps run at once, and the environment variables of each."""
    cores = len(os.sched_getaffinity(0))
    gpus = _gpus()
    jobs = configuration.jobs or len(gpus) or cores
    threads = str(configuration.threads or max(1, cores // jobs))
    slots = [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} for _ in range(jobs)]
    if gpus:
        for number, slot in enumerate(slots):
            # An equal share of the GPUs. If there are more jobs than GPUs, several jobs share one.
            slot["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[number::jobs] or [gpus[number % len(gpus)]])
    return jobs, slots


def _gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if visible is None else visible.split(",")
    return [name.strip() for name in names[:count]]


def _print_plan(console: Console, configuration: Grid, steps: Sequence[Step], jobs: int, keep: bool) -> None:
    folder = configuration.folder
    todo = states(steps, folder, keep)
    seconds = estimates(steps, folder, configuration.seconds)
    lines = []
    name_width = max(len(step.name) for step in steps)
    for step in steps:
        state, time = todo[step.name], seconds[step.name]
        estimate = "unknown" if time is None else f"about {duration(time)}"
        if state.action == "nothing":
            estimate = ""
        command = f"{step.given} is used"
        if step.given is None:
            more = step.resume if state.action == "resume" else ()
            command = f"{program()} {shlex.join([*step.arguments, *more])}"
        lines += [f"{step.name:{name_width}}  {estimate:18}  {state.words}".rstrip(), f"    {command}"]
    lines += ["", _overview(configuration, steps, jobs, keep)]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _overview(configuration: Grid, steps: Sequence[Step], jobs: int, keep: bool) -> str:
    todo = states(steps, configuration.folder, keep)
    seconds = estimates(steps, configuration.folder, configuration.seconds)
    left = sum(state.action != "nothing" for state in todo.values())
    if not left:
        return f"{configuration.folder}: all {len(steps)} steps are done"
    time, unknown = total(steps, seconds, todo, jobs)
    about = f"about {duration(time)}" if time else "time unknown"
    if time and unknown:
        about = f"{about} and {unknown} steps of unknown time"
    at_once = "one at a time" if jobs == 1 else f"{jobs} at once"
    return f"{configuration.folder}: {left} of {len(steps)} steps to do, {at_once}: {about}"


def _conclude(
    shown: Display, steps: Sequence[Step], outcomes: Sequence[Outcome], asked: signal.Signals | None
) -> None:
    """Print the result. Exits with 1 if a step failed, and with 128 + signal if the grid was stopped."""
    if asked is not None:
        shown.say("Stopped; the same command goes on")
        sys.exit(128 + asked)
    failed = [outcome.step.name for outcome in outcomes if outcome.status == "failed"]
    not_run = sum(outcome.status == "not run" for outcome in outcomes)
    report = next((step for step in steps if step.kind == "report"), None)
    if report is not None and report.result.is_file() and report.name not in failed:
        shown.say(f"Report: {report.result}")
    if failed:
        without = f"; {not_run} steps that need them were not run" if not_run else ""
        shown.say(f"FAILED: {', '.join(failed)}{without}; the same command tries them again")
        sys.exit(1)
