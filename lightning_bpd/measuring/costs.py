"""The costs of decoding on this machine, and the block sizes that heads reach: enough to predict speed-ups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_bpd.decoding import DecodingOptions, decoding_costs, greedy, replay
from lightning_bpd.interfaces import ReplayableDrafter
from lightning_bpd.measuring.record import Arm, Replay
from lightning_bpd.saved.finished_model import GenerativeModel


def measure_heads(
    model: GenerativeModel,
    sources: Sequence[Any],
    arms: Sequence[Arm],
    batch_size: int,
    decode: DecodingOptions,
) -> dict[str, Any]:
    """The fields of a record that only a model with proposals has; empty for a model without.

    Args:
        model: A ``Translator`` or an ``Upscaler``.
        sources: Its rows.
        arms: What was decoded already, greedy decoding first.
        batch_size: Rows decoded together for the replay.
        decode: The limits of length.
    """
    if model.block_size in (None, 1):
        return {}
    whole = (arm for arm in arms[1:] if (arm.block_size, arm.acceptance) == (model.block_size, "exact"))
    exact = next(whole, None)
    # A row of the middle length, by itself, its cache half full.
    alone = list(model.batches(sources, 1))
    (place,), middle = alone[len(alone) // 2]
    half = max(arms[0].tokens[place] // 2, 1)
    assert model.drafter is not None
    return {
        "replay": _replayed(model, sources, batch_size, decode, sum(arms[0].tokens)),
        "acceptance_by_position": None if exact is None else exact.acceptance_by_position,
        "costs": decoding_costs(model.model, model.drafter, middle, decode.extra(middle), half),
    }


def _replayed(
    subject: GenerativeModel, sources: Sequence[Any], batch_size: int, decode: DecodingOptions, tokens: int
) -> Replay | None:
    """Iterations for all rows, of ``tokens`` tokens; None for a drafter that must be decoded with."""
    if not isinstance(subject.drafter, ReplayableDrafter):
        return None
    return Replay(tokens, replayed_iterations(subject, sources, batch_size, decode))


def replayed_iterations(
    subject: GenerativeModel, sources: Sequence[Any], batch_size: int, decode: DecodingOptions
) -> list[int]:
    """Iterations of exact blockwise decoding for k' = 1..k, summed over the rows; from one call over greedy output."""
    assert isinstance(subject.drafter, ReplayableDrafter)
    totals = [0] * subject.drafter.block_size
    for _, source in subject.batches(sources, batch_size):
        output = greedy(subject.model, source, decode.extra(source))
        sizes = replay(subject.model, subject.drafter, source, output, len(totals))
        totals = [total + int((accepted > 0).sum()) for total, accepted in zip(totals, sizes, strict=True)]
    return totals
