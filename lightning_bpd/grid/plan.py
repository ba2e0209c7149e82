"""The experiment of the paper's Tables 1 and 2 as commands: base, teacher, distilled data, heads, measurements.

The plan depends only on the settings. ``state.py`` looks at existing results, and ``run.py`` runs the steps.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring.words import KINDS

Regime = Literal["frozen", "joint"]
Mix = Literal["gold", "distilled", "both"]
Kind = Literal["base", "teacher", "distilled", "frozen", "joint", "compare", "report"]


@dataclass(frozen=True)
class Grid:
    """The settings of a grid.

    Args:
        name: Name of the grid and of its folder.
        runs: Folder that holds the folders of all grids and runs.
        kind: The data of the models, text or images. Images have no teacher: mixes is [gold].
        data: Folder of the text; for images a value of --data.path of a training, or null if the configuration has it.
        generated_pairs: Number of training pairs of the demo corpus to write into ``data`` before the first step.
        base_configs: Files that configure the base and the teacher, and on which the next two files are stacked.
        frozen_config: File stacked on ``base_configs`` for heads on a frozen base.
        joint_config: File stacked on ``base_configs`` for training base and heads together.
        block_sizes: The values of k to train. Heads on a frozen base begin at 2: with k = 1 there is nothing to train.
        regimes: The regimes to train: frozen, joint or both.
        mixes: The targets that heads are trained on: the corpus's own (gold), the teacher's (distilled), or both.
        seeds: Seeds of the runs, one run for each seed, regime, mix and block size.
        base_seed: Seed of the base.
        teacher_seed: Seed of the teacher.
        joint_from: Joint training starts from the frozen run of the same k, mix and seed (its base and heads), or from
            the base. With k = 1 it always starts from the base.
        joint_head_weights: Weights of p_1 and of each head in the loss of joint training. The last weight is also the
            weight of all further heads. null gives equal weights, as in the paper.
        rules: Acceptance rules by which each model is measured.
        corpus: Name of the corpus to measure on; for images validation or test.
        timed: Sentences or images to time, one at a time; 0 for no timing.
        arguments: Further arguments of every training, such as --trainer.precision=bf16-mixed.
        base_arguments: Further arguments of training base and teacher.
        heads_arguments: Further arguments of all trainings of heads.
        frozen_arguments: Further arguments of training heads on a frozen base.
        joint_arguments: Further arguments of joint training.
        distill_arguments: Further arguments of distilling, such as --processes=1.
        compare_arguments: Further arguments of measuring, such as --device=cpu.
        jobs: Steps that run at once; by default the number of GPUs, or of cores if there is no GPU.
        threads: Threads of each step on the CPU (OMP_NUM_THREADS); cores divided by jobs by default.
        base: Folder of a finished model to use as the base instead of training a base.
        teacher: Folder of a finished model to use as the teacher instead of training a teacher.
        teacher_data: Folder of finished distilled text to use instead of distilling.
        seconds: Rough seconds of steps by kind (base, distilled, frozen, joint, compare, report). They estimate kinds
            of which no step has run yet; those of frozen, joint and compare are for k = 8.
    """

    name: str = "grid"
    runs: str = "runs"
    kind: Literal["text", "images"] = "text"
    data: str | None = "data/multi30k"
    generated_pairs: int | None = None
    base_configs: list[str] = field(default_factory=lambda: ["configs/translation/multi30k.yaml"])
    frozen_config: str = "configs/translation/frozen.yaml"
    joint_config: str = "configs/translation/joint.yaml"
    block_sizes: list[int] = field(default_factory=lambda: [1, 2, 4, 6, 8, 10])
    regimes: list[Regime] = field(default_factory=lambda: ["frozen", "joint"])
    mixes: list[Mix] = field(default_factory=lambda: ["gold", "distilled"])
    seeds: list[int] = field(default_factory=lambda: [1])
    base_seed: int = 1
    teacher_seed: int = 2
    joint_from: Literal["frozen", "base"] = "frozen"
    joint_head_weights: list[float] | None = field(default_factory=lambda: [8, 4, 2, 1, 0.5])
    rules: list[str] = field(default_factory=lambda: ["exact", "top-2", "top-3", "minimum-2", "minimum-3"])
    corpus: str = "test_2016_flickr"
    timed: int = 100
    arguments: list[str] = field(default_factory=list)
    base_arguments: list[str] = field(default_factory=list)
    heads_arguments: list[str] = field(default_factory=list)
    frozen_arguments: list[str] = field(default_factory=list)
    joint_arguments: list[str] = field(default_factory=list)
    distill_arguments: list[str] = field(default_factory=list)
    compare_arguments: list[str] = field(default_factory=list)
    jobs: int | None = None
    threads: int | None = None
    base: str | None = None
    teacher: str | None = None
    teacher_data: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of all files of the grid."""
        return Path(self.runs).expanduser() / self.name


@dataclass(frozen=True)
class Step:
    """One command of the plan, or a finished result that takes a command's place."""

    name: str
    kind: Kind
    arguments: tuple[str, ...]
    """the command and its options, as they follow ``python train.py``"""
    result: Path
    """file that exists when the step is done"""
    own: Path
    """file or folder that only this step writes; it is moved aside before the step starts anew"""
    complete: str | None = None
    """a key that is true in ``result``, a JSON file, once the step is done; None if the file's existence suffices"""
    resumes_from: Path | None = None
    """file of an interrupted run from which the step resumes; None if it starts anew"""
    resume: tuple[str, ...] = ()
    """further arguments that make the step resume"""
    needs: tuple[str, ...] = ()
    """steps that must have succeeded before"""
    after: tuple[str, ...] = ()
    """steps that must have ended before, in success or failure"""
    alone: bool = False
    """whether no other step may run at the same time"""
    block_size: int = 0
    """k of the trained or measured model; 0 for a model without heads"""
    given: Path | None = None
    """finished result to use instead of running the command"""


def plan(grid: Grid) -> list[Step]:
    """All steps, each after the steps that it needs. Raises InputError if the settings contradict each other."""
    _check(grid)
    trainings = list(_trainings(grid))
    compares = [
        _compare(grid, step, trainings) for step in trainings if step.kind in ("base", "frozen", "joint")
    ]
    return [*trainings, *compares, _report(grid, compares)]


def recipes(steps: Sequence[Step]) -> dict[str, str]:
    """For each step a hash of its command and of all commands that it directly or indirectly needs."""
    found: dict[str, str] = {}
    for step in steps:
        content = json.dumps([step.arguments, [found[name] for name in step.needs]])
        found[step.name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return found


def _trainings(grid: Grid) -> Iterator[Step]:
    yield _base(grid, "base", grid.base_seed, grid.base)
    distils = any(mix != "gold" for mix in grid.mixes)
    if distils:
        if grid.teacher_data is None:
            yield _base(grid, "teacher", grid.teacher_seed, grid.teacher)
        yield _distilled(grid)
    for regime in grid.regimes:
        for mix in grid.mixes:
            for block_size in grid.block_sizes:
                for seed in grid.seeds:
                    if regime == "joint" or block_size > 1:
                        yield _heads(grid, regime, mix, block_size, seed)


# The command lines, all of them. ---------------------------------------------------------------------------------


def _base(grid: Grid, name: Literal["base", "teacher"], seed: int, given: str | None) -> Step:
    arguments = [
        *("fit", *_stacked(grid.base_configs), "--seed_everything", str(seed)),
        *("--runs", str(grid.folder), "--experiment", name, *_data(grid)),
        *(*grid.arguments, *grid.base_arguments),
    ]
    return _fit(grid, name, name, arguments, given=given)


def _distilled(grid: Grid) -> Step:
    folder = grid.folder / "distilled"
    teacher = grid.folder / "teacher" / "model"
    arguments = [
        *("distill", "--teacher", str(teacher), *_data(grid), "--output", str(folder)),
        *grid.distill_arguments,
    ]
    given = None if grid.teacher_data is None else Path(grid.teacher_data).expanduser()
    return Step(
        "distilled",
        "distilled",
        tuple(arguments) if given is None else ("use", str(given)),
        result=folder / "distillation.json",
        own=folder,
        complete="complete",
        resumes_from=folder,
        needs=("teacher",) if given is None else (),
        given=given,
    )


def _heads(grid: Grid, regime: Regime, mix: Mix, block_size: int, seed: int) -> Step:
    name = _name(regime, mix, block_size, seed)
    starts_from = "base"
    if regime == "joint" and grid.joint_from == "frozen" and block_size > 1:
        starts_from = _name("frozen", mix, block_size, seed)
    config = grid.frozen_config if regime == "frozen" else grid.joint_config
    arguments = [
        *("fit", *_stacked([*grid.base_configs, config])),
        *(
            "--model.base",
            str(grid.folder / starts_from / "model"),
            "--model.heads.block_size",
            str(block_size),
        ),
        *(() if grid.kind == "images" else ("--data.mix", mix)),
        *(() if mix == "gold" else ("--data.distilled", str(grid.folder / "distilled"))),
        *("--seed_everything", str(seed)),
        *("--runs", str(grid.folder), "--experiment", name, *_data(grid)),
    ]
    if regime == "joint":
        arguments += ["--model.head_weights", json.dumps(_weights(grid.joint_head_weights, block_size))]
    if block_size == 1:
        # All block sizes are 1, so only quality can tell which checkpoint is best.
        arguments += ["--best_checkpoint.monitor", f"val/{KINDS[grid.kind].qualities[0]}"]
    arguments += [*grid.arguments, *grid.heads_arguments]
    arguments += grid.frozen_arguments if regime == "frozen" else grid.joint_arguments
    needs = [starts_from] if mix == "gold" else [starts_from, "distilled"]
    return _fit(grid, name, regime, arguments, needs=needs, block_size=block_size)


def _compare(grid: Grid, model: Step, trainings: Sequence[Step]) -> Step:
    folder = grid.folder / model.name
    # Where images are, the model's own run says; that of a base made elsewhere may say something else.
    data = grid.data if grid.kind == "text" or model.given is not None else None
    arguments = [
        *("compare", "--model", str(folder / "model")),
        *(() if data is None else ("--data", data)),
        *("--corpus", grid.corpus),
        *("--rules", json.dumps(grid.rules), "--timed", str(grid.timed)),
        *grid.compare_arguments,
    ]
    result = folder / f"compare_{grid.corpus}.json"
    return Step(
        f"compare_{model.name}",
        "compare",
        tuple(arguments),
        result=result,
        own=result,
        needs=(model.name,),
        # A timed measurement runs alone on the machine.
        after=tuple(step.name for step in trainings) if grid.timed else (),
        alone=grid.timed > 0,
        block_size=model.block_size,
    )


def _report(grid: Grid, compares: Sequence[Step]) -> Step:
    folder = grid.folder / "report"
    return Step(
        "report",
        "report",
        # Models of the grid may have been measured on other corpora, too.
        ("report", str(grid.folder), "--output", str(folder), "--corpus", grid.corpus),
        result=folder / "report.html",
        own=folder,
        after=tuple(step.name for step in compares),
    )


def _fit(
    grid: Grid,
    name: str,
    kind: Kind,
    arguments: Sequence[str],
    needs: Sequence[str] = (),
    block_size: int = 0,
    given: str | None = None,
) -> Step:
    folder = grid.folder / name
    return Step(
        name,
        kind,
        tuple(arguments) if given is None else ("use", given),
        # Written at the very end.
        result=folder / "model" / "config.json",
        own=folder,
        resumes_from=folder / "checkpoints" / "last.ckpt",
        resume=("--ckpt_path", "last"),
        needs=tuple(needs),
        block_size=block_size,
        given=None if given is None else Path(given).expanduser(),
    )


def _data(grid: Grid) -> tuple[str, ...]:
    if grid.data is None:
        return ()
    return "--data" if grid.kind == "text" else "--data.path", grid.data


def _stacked(configs: Sequence[str]) -> list[str]:
    return [argument for config in configs for argument in ("--config", config)]


def _name(regime: Regime, mix: Mix, block_size: int, seed: int) -> str:
    return f"{regime}_{mix}_k{block_size}_s{seed}"


def _weights(weights: Sequence[float] | None, block_size: int) -> list[float] | None:
    if weights is None:
        return None
    return [float(weights[min(place, len(weights) - 1)]) for place in range(block_size)]


def _check(grid: Grid) -> None:
    if not re.fullmatch(r"\w[\w.+=,-]*", grid.name):
        raise InputError(f"name {grid.name!r} cannot name a folder: use letters, digits and . _ - + = , only")
    for setting in ("base_configs", "block_sizes", "regimes", "mixes", "seeds", "rules"):
        values = getattr(grid, setting)
        if not values:
            raise InputError(f"{setting} is empty: a grid needs at least one")
        if len(set(values)) < len(values):
            raise InputError(f"{setting} {values} names something twice")
    if min(grid.block_sizes) < 1:
        raise InputError(f"block_sizes {grid.block_sizes}: a block has at least 1 token")
    if grid.kind == "images" and (grid.mixes != ["gold"] or grid.generated_pairs is not None):
        raise InputError("a grid of images has no distilled and no generated data: mixes must be [gold]")
    if grid.kind == "text" and grid.data is None:
        raise InputError("data is null: a grid of text needs the folder of the text")
    if grid.base_seed == grid.teacher_seed:
        raise InputError(f"base_seed and teacher_seed are both {grid.base_seed}: they must differ")
    if grid.joint_from == "frozen" and "joint" in grid.regimes and "frozen" not in grid.regimes:
        raise InputError("joint_from is frozen, but regimes has no frozen: add it, or set joint_from to base")
    if grid.joint_head_weights == []:
        raise InputError("joint_head_weights is empty: give at least one weight, or null for equal ones")
    for setting, least in (("timed", 0), ("jobs", 1), ("threads", 1), ("generated_pairs", 1)):
        value = getattr(grid, setting)
        if value is not None and value < least:
            raise InputError(f"{setting} is {value}; it must be at least {least}")
    kinds = ("base", "distilled", "frozen", "joint", "compare", "report")
    if unknown := sorted(set(grid.seconds) - set(kinds)):
        raise InputError(f"seconds names {unknown[0]!r}; the kinds of steps are {', '.join(kinds)}")
