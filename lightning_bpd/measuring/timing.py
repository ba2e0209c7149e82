"""Wall-clock time of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def timed(work: Callable[[], Result], device: torch.device) -> tuple[Result, int]:
    """Run ``work``; return its result and the wall-clock nanoseconds until the device had finished it."""
    _wait_for(device)
    start = time.perf_counter_ns()
    result = work()
    _wait_for(device)
    return result, time.perf_counter_ns() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
