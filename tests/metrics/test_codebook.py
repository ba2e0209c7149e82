import math

import pytest
import torch

from lightning_bpd.metrics.codebook import CodebookCounts, codebook_perplexity, codebook_use, collapse


def test_counts_of_several_codebooks():
    metric = CodebookCounts(2, 4)
    metric.update(torch.tensor([[0, 3], [0, 1]]))
    metric.update(torch.tensor([[[[2, 3]]]]))
    assert metric.compute().tolist() == [[2, 0, 1, 0], [0, 1, 0, 2]]


def test_use_and_perplexity():
    counts = torch.tensor([[1, 1, 1, 1], [5, 0, 0, 0]])
    assert codebook_use(counts) == pytest.approx(0.625)
    assert codebook_perplexity(counts) == pytest.approx(2.5)
    assert codebook_perplexity(torch.tensor([[3, 1]])) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[10] * 40], None),
        ([[40] * 9 + [0] * 31], "the codebook collapses: 9 of 40 codes are used, with a perplexity of 9.0"),
        ([[100_000] + [1] * 39], "40 of 40 codes are used, with a perplexity of 1.0"),
        ([[10] * 40, [400] + [0] * 39], "codebook 2 collapses: 1 of 40 codes"),
        ([[20] + [0] * 39], None),  # too few to tell
    ],
)
def test_a_collapsed_codebook_is_named(counts, message):
    found = collapse(torch.tensor(counts))
    assert found is None if message is None else message in found
