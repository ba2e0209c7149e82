"""What the benchmarks share: interleaved timing, and Markdown."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lightning_bpd.timing import wait_for as wait
from lightning_bpd.tracking.provenance import processor


def interleaved_seconds(
    arms: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, list[float]]:
    """Wall-clock seconds of each arm's ``repeats`` runs, after one run each that is not counted.

    The arms take turns, each round in another order, so that what else the machine does falls on all alike. Before
    each round ``progress`` is told which it is.
    """
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    progress("warm-up")
    for arm in arms.values():
        arm()
    for number in range(repeats):
        progress(f"round {number + 1} of {repeats}")
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            wait(device)
            start = time.perf_counter()
            arms[name]()
            wait(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def rates(count: int, seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of ``count`` per second over the repeats."""
    values = [count / second for second in seconds]
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def spread(rate: Mapping[str, float]) -> str:
    """The range of a rate over its repeats, for a table cell."""
    return f"{rate['least']:,.0f} to {rate['greatest']:,.0f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    names = ("torch", "transformers", "ctranslate2")
    libraries = {name: version(name) for name in names if find_spec(name)}
    return {
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        **libraries,
    }


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write the numbers where ``--json`` asked for them, if it did."""
    if path is not None:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
