"""Wall-clock time of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def timed(work: Callable[[], Result], device: torch.device) -> tuple[Result, int]:
    """Run ``work``; return its result and the wall-clock nanoseconds until the device had finished it."""
    wait_for(device)
    start = time.perf_counter_ns()
    result = work()
    wait_for(device)
    return result, time.perf_counter_ns() - start


def wait_for(device: torch.device) -> None:
    """Wait until an accelerator has finished all its work. The CPU and ``meta`` have none left."""
    if device.type in ("cpu", "meta"):
        return
    if hasattr(torch, "accelerator"):  # from torch 2.6 on
        torch.accelerator.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    else:
        getattr(torch, device.type).synchronize(device)
