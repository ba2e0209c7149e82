"""How much of a codebook is used, exact on any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bpd.metrics.sums import Sums

# A codebook counts as collapsed if it has fewer codes in use, or a lower perplexity, than these shares of its codes.
LEAST_USE, LEAST_PERPLEXITY = 0.25, 0.05
# Each code could have been chosen as often, on average, before a codebook is judged.
_CHANCES = 8


class CodebookCounts(Sums):
    """How often each code of each codebook was chosen.

    Args:
        codebooks: Z, the number of codebooks.
        codes: V, the codes of each.
    """

    def __init__(self, codebooks: int, codes: int) -> None:
        super().__init__(codebooks * codes)
        self._shape = codebooks, codes

    def update(self, codes: Tensor) -> None:
        """Add codes, int64 [..., Z], those of codebook z in column z."""
        codebooks, number = self._shape
        numbered = codes.reshape(-1, codebooks) + number * torch.arange(codebooks, device=codes.device)
        self.sums = self.sums + numbered.flatten().bincount(minlength=codebooks * number).to(self.sums.device)

    def compute(self) -> Tensor:
        """Return the counts, int64 [Z, V]."""
        return self.sums.view(self._shape)


def codebook_use(counts: Tensor) -> float:
    """The share of codes that were chosen at all, the mean over codebooks; counts are int64 [Z, V]."""
    return float((counts > 0).double().mean())


def codebook_perplexity(counts: Tensor) -> float:
    """e to the entropy of the codes' frequencies, from 1 to V, the mean over codebooks; NaN without codes."""
    shares = counts.double() / counts.sum(-1, keepdim=True)
    return float(torch.special.entr(shares).sum(-1).exp().mean())


def collapse(counts: Tensor) -> str | None:
    """A sentence about the first codebook that has collapsed; None if none has, or too few codes were counted.

    A codebook has collapsed if fewer than a quarter of its codes are chosen, or if their perplexity is below 5 % of
    their number: then the grid carries far fewer bits than its codes could.
    """
    codes = counts.size(-1)
    for number, own in enumerate(counts, start=1):
        used, perplexity = int((own > 0).sum()), codebook_perplexity(own[None])
        judged = int(own.sum()) >= _CHANCES * codes
        if judged and (used < LEAST_USE * codes or perplexity < LEAST_PERPLEXITY * codes):
            which = "the codebook" if len(counts) == 1 else f"codebook {number}"
            return (
                f"{which} collapses: {used} of {codes} codes are used, with a perplexity of {perplexity:.1f}"
            )
    return None
