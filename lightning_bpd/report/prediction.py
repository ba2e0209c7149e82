"""The fastest block size on this machine, predicted from the costs of single calls and the replay, and as measured."""

from __future__ import annotations

from typing import NamedTuple

from lightning_bpd.report.runs import Run


class Choice(NamedTuple):
    """One block size k' of one model."""

    block_size: int
    seconds: float
    """predicted seconds for each row"""
    predicted: float
    """speed-up over greedy decoding"""
    measured: float | None
    """None where this k' was not timed"""


def predict(run: Run) -> list[Choice]:
    """Predicted and measured speed-up by the exact rule for k' = 1..k; empty for a model without heads or costs.

    A row takes the start, calls over k' tokens, and proposals once an iteration. Blockwise decoding makes one
    call more than iterations, the first, which only predicts. Greedy decoding, k' = 1, makes one call a token.
    """
    record, costs = run.record, run.record.costs
    if costs is None or record.replay is None or run.block_size == 1:
        return []
    choices: list[Choice] = []
    costs_by_size = zip(record.replay.iterations, costs.call, costs.propose, strict=True)
    for size, (total, call, propose) in enumerate(costs_by_size, start=1):
        iterations = total / record.corpus.rows
        seconds = costs.start + (iterations + (size > 1)) * call + iterations * propose
        arm = record.greedy if size == 1 else record.arm(size, "exact")
        greedy = choices[0].seconds if choices else seconds
        choices.append(Choice(size, seconds, greedy / seconds, None if arm is None else arm.speed_up))
    return choices


def best_predicted(choices: list[Choice]) -> Choice:
    """The fastest by prediction; the smaller of equals."""
    return max(choices, key=lambda choice: (choice.predicted, -choice.block_size))


def best_measured(choices: list[Choice]) -> Choice | None:
    """The fastest as measured; None if no blockwise decoding was timed."""
    timed = [choice for choice in choices if choice.measured is not None]
    best = max(timed, key=lambda choice: (choice.measured or 0.0, -choice.block_size), default=None)
    return best if any(choice.block_size > 1 for choice in timed) else None
