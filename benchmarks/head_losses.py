"""Memory and time of the heads' losses: one head, all heads, and all heads in the two plainer ways.

python benchmarks/head_losses.py
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import auto_cli
from timing import machine, markdown, wait, write_json
from torch import Tensor
from torch.nn import functional as F

from lightning_bpd.drafters import BlockHeads, HeadShape, head_losses, shifted_targets
from lightning_bpd.interfaces import TokenRows

SAMPLED, ALL, TORCH, NAIVE = "sampled", "all", "torch's linear_cross_entropy", "naive"
Stage = Literal["frozen", "joint"]
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One measurement, in a process of its own."""

    arm: str
    stage: Stage
    precision: Literal["float32", "bfloat16"]
    block_size: int
    second_matrix: Literal["per_head", "dense"]
    vocabulary: int
    width: int
    tokens: int
    repeats: int
    threads: int
    device: str

    @property
    def heads(self) -> range:
        """The heads that are trained: a frozen base is its own head 1."""
        if self.arm == SAMPLED:
            return range(self.block_size // 2 + 1, self.block_size // 2 + 2)
        return range(2 if self.stage == "frozen" else 1, self.block_size + 1)


def in_process(case: Case, environment: dict[str, str]) -> tuple[float, list[float], dict[str, Any]]:
    """What ``measure`` finds in a new process."""
    os.environ.update(environment)
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            return process.submit(measure, case).result()
    finally:
        for name in environment:
            del os.environ[name]


def measure(case: Case) -> tuple[float, list[float], dict[str, Any]]:
    """Peak memory of the first step above that of its inputs, in MiB; seconds of further steps; the machine."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(1)
    device = torch.device(case.device)
    joint = case.stage == "joint"
    heads = BlockHeads(case.width, HeadShape(case.block_size, second_matrix=case.second_matrix)).to(device)
    # Rows so long that hardly a head lacks its target: all arms then have the same work.
    rows = TokenRows(
        torch.randint(case.vocabulary, (1, case.tokens), device=device),
        torch.tensor([case.tokens], device=device),
    )
    hidden = torch.randn(1, case.tokens, case.width, device=device, requires_grad=joint)
    weight = torch.randn(case.vocabulary, case.width, device=device) * case.width**-0.5
    weight.requires_grad_(joint)
    parameters = [*heads.parameters(), *((hidden, weight) if joint else ())]

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        with torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "bfloat16"):
            loss = LOSSES[case.arm](heads, hidden, weight, rows, case.heads)
        loss.backward()  # type: ignore[no-untyped-call]

    before = resident(device)
    step()
    wait(device)
    memory = peak(device) - before
    seconds = []
    for _ in range(case.repeats):
        start = time.perf_counter()
        step()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return memory / MIB, seconds, machine(device)


def resident(device: torch.device) -> int:
    """Bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak(device: torch.device) -> int:
    """The most bytes that were in use."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(heads: BlockHeads, hidden: Tensor, weight: Tensor, rows: TokenRows, which: range) -> Tensor:
    """This project's loss, of one head or of several."""
    return head_losses(heads, hidden, weight, rows, which).loss


def naive(heads: BlockHeads, hidden: Tensor, weight: Tensor, rows: TokenRows, which: range) -> Tensor:
    """All logits at once."""
    targets = plain_targets(rows, which)
    logits = F.linear(heads(hidden, which), weight)
    means = [F.cross_entropy(logits[0, :, head], targets[:, head]) for head in range(len(which))]
    return torch.stack(means).mean()


def by_torch(heads: BlockHeads, hidden: Tensor, weight: Tensor, rows: TokenRows, which: range) -> Tensor:
    """All outputs of the heads at once, projected part by part by torch."""
    targets = plain_targets(rows, which)
    losses = F.linear_cross_entropy(
        heads(hidden, which).flatten(0, 2),
        weight,
        targets.flatten(),
        # Its own mean is wrong in bfloat16.
        reduction="none",
        ignore_index=-100,
        options=torch.nn.LinearCrossEntropyOptions(),
    )
    return (losses.float().view_as(targets).sum(0) / (targets != -100).sum(0)).mean()


def plain_targets(rows: TokenRows, which: range) -> Tensor:
    """int64 [T, n] of the one row, -100 where a head has no target."""
    targets, mask = shifted_targets(rows, which.stop - 1)
    return targets.masked_fill(~mask, -100)[0, :, which.start - 1 :]


LOSSES: dict[str, Callable[[BlockHeads, Tensor, Tensor, TokenRows, range], Tensor]] = {
    SAMPLED: ours,
    ALL: ours,
    TORCH: by_torch,
    NAIVE: naive,
}


def main(
    arms: Sequence[str] = (SAMPLED, ALL, TORCH, NAIVE),
    stages: Sequence[Stage] = ("frozen", "joint"),
    precisions: Sequence[Literal["float32", "bfloat16"]] = ("float32", "bfloat16"),
    block_size: int = 8,
    second_matrix: Literal["per_head", "dense"] = "per_head",
    vocabulary: int = 32_000,
    width: int = 512,
    tokens: int = 4096,
    repeats: int = 3,
    threads: int = 1,
    device: Literal["cpu", "cuda"] = "cpu",
    json: Path | None = None,
) -> None:
    """Measure forward and backward of each arm in a process of its own.

    Args:
        arms: sampled (one head of the block), all, torch's linear_cross_entropy (where torch has it), naive.
        stages: frozen (only the heads are trained, 2 to k) or joint (hidden states and vocabulary too, heads 1 to k).
        precisions: float32, or bfloat16 autocast with float32 weights.
        block_size: k.
        second_matrix: Of the heads.
        vocabulary: V.
        width: D.
        tokens: Target tokens.
        repeats: Timed steps of each arm.
        threads: CPU threads.
        device: Where to run.
        json: Where to write the numbers as well.
    """
    if not hasattr(F, "linear_cross_entropy"):
        arms = [arm for arm in arms if arm != TORCH]
    report: dict[str, Any] = {"tokens": tokens, "vocabulary": vocabulary, "width": width, "results": []}
    header = ["arm", "heads", "peak MiB", "of sampled", "s per step", "s per head", "of sampled"]
    for precision in precisions:
        for stage in stages:
            table = []
            first: tuple[float, float] | None = None
            for arm in arms:
                case = Case(
                    arm, stage, precision, block_size, second_matrix, vocabulary, width, tokens, repeats,
                    threads, device,
                )  # fmt: skip
                # Freed memory goes back to the kernel at once: the peak is then what was in use.
                memory, _, _ = in_process(replace(case, repeats=0), {"MALLOC_MMAP_THRESHOLD_": str(2**18)})
                _, times, report["machine"] = in_process(case, {})
                report["results"].append({**asdict(case), "memory_mib": memory, "seconds": times})
                seconds = statistics.median(times)
                per_head = seconds / len(case.heads)
                first = first or (memory, per_head)
                table.append(
                    [
                        arm,
                        str(len(case.heads)),
                        f"{memory:,.0f}",
                        f"{memory / first[0]:.2f}",
                        f"{seconds:.3f}",
                        f"{per_head:.3f}",
                        f"{per_head / first[1]:.2f}",
                    ]
                )
            print(f"\n{report['machine']}\n{precision}, {stage}, {second_matrix}, {tokens} tokens\n")
            print(markdown(header, table), flush=True)
    write_json(json, report)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
