"""The check that every model passes before its use: the adapter gives the logits of the model."""

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
    """Put the model into eval mode without gradients, and turn its errors into InputErrors."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        # The family does not take one of our arguments, masks or caches.
        raise InputError(
            f"{family(model)} cannot be a base: with our cache and a mask for each row it fails with "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        model.train(training)


def random_tokens(rows: int, length: int, vocabulary: int, filler: int, device: torch.device) -> Tensor:
    """Return int64 [rows, length], equal in every call, without padding tokens."""
    tokens = torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(0))
    return torch.where(tokens == filler, (filler + 1) % vocabulary, tokens).to(device)


def check_histories(adapter: Adapter, source: TokenRows, target: Tensor, logits: Tensor) -> None:
    """Feed, rewind and reorder two ragged rows, and compare the logits with logits made without a cache.

    Args:
        adapter: The model.
        source: Two sources of different length.
        target: int64 [2, 6], the tokens that decoding would feed.
        logits: [2, 6, V], the model's own logits after each target token.

    Raises:
        InputError: The logits differ by more than rounding.
    """
    model: Any = adapter
    state = model.start(source, None, 8)
    history = "fed several tokens at once"

    def step(rows: list[int], first: list[int], count: int) -> None:
        positions = torch.tensor(first)[:, None] + torch.arange(count)
        indices = torch.tensor(rows)[:, None]
        ours = model.plain_logits(model.step(target[indices, positions], state))
        error = difference(ours, logits[indices, positions])
        if not error <= tolerance(logits.dtype):
            raise InputError(
                f"{family(model.model)} cannot be a base: {history}, its logits differ by {error:.1e} of the largest "
                "from those without a cache; its positions or masks are of a kind that lightning_bpd/adapters does "
                "not know"
            )

    step([0, 1], [0, 0], 4)
    history = "with rows rewound to different lengths"
    state.rewind(torch.tensor([1, 3]))
    step([0, 1], [1, 3], 2)
    history = "with reordered rows"
    state.reorder(torch.tensor([1, 0, 0], device=target.device))
    step([1, 0, 0], [5, 3, 3], 1)
    state.rewind(torch.tensor([0, 4, 2]))
    step([1, 0, 0], [0, 4, 2], 2)
