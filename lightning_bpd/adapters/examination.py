"""The examination that every model passes before it is used: its logits by the adapter are its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_bpd.adapters.projection import difference, family, tolerance
from lightning_bpd.interfaces import InputError, TokenRows

if TYPE_CHECKING:
    from lightning_bpd.adapters.base import Adapter


@contextmanager
def examined(model: Any) -> Iterator[None]:
    """The model in eval mode and without gradients; what it cannot do is said as an InputError."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        # Whatever a family does not take: an argument, a mask, a cache of ours.
        raise InputError(
            f"{family(model)} cannot be a base: fed with a cache and masks of single rows it fails with "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        model.train(training)


def random_tokens(rows: int, length: int, vocabulary: int, filler: int, device: torch.device) -> Tensor:
    """int64 [rows, length], the same ones each time, none of them padding."""
    tokens = torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(0))
    return torch.where(tokens == filler, (filler + 1) % vocabulary, tokens).to(device)


def check_histories(adapter: Adapter, source: TokenRows, target: Tensor, logits: Tensor) -> None:
    """Feed, rewind and reorder two ragged rows, and compare what comes out with logits made without a cache.

    Args:
        adapter: The model.
        source: Two sources of different length.
        target: int64 [2, 6], what decoding would feed.
        logits: [2, 6, V], the model's own after each of them.

    Raises:
        InputError: They differ by more than rounding.
    """
    model: Any = adapter
    state = model.start(source, None, 8)
    done = "fed several tokens at once"

    def step(rows: list[int], first: list[int], count: int) -> None:
        places = torch.tensor(first)[:, None] + torch.arange(count)
        which = torch.tensor(rows)[:, None]
        ours = model.plain_logits(model.step(target[which, places], state))
        error = difference(ours, logits[which, places])
        if not error <= tolerance(logits.dtype):
            raise InputError(
                f"{family(model.model)} cannot be a base: {done}, its logits differ by {error:.1e} of the largest "
                "from those without a cache; its positions or masks are of a kind that lightning_bpd/adapters does "
                "not know"
            )

    step([0, 1], [0, 0], 4)
    done = "with rows that were rewound to different lengths"
    state.rewind(torch.tensor([1, 3]))
    step([0, 1], [1, 3], 2)
    done = "with rows that changed places"
    state.reorder(torch.tensor([1, 0, 0], device=target.device))
    step([1, 0, 0], [5, 3, 3], 1)
    state.rewind(torch.tensor([0, 4, 2]))
    step([1, 0, 0], [0, 4, 2], 2)
