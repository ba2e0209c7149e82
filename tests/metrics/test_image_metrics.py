import math

import numpy as np
import pytest
import torch
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from lightning_bpd.interfaces import InputError
from lightning_bpd.metrics.images import (
    BitsPerDimension,
    PeakSignalToNoise,
    StructuralSimilarity,
    bits_per_dimension,
    psnr,
    squared_error,
    ssim,
)


def pair(count=5, height=16, width=13, channels=3, noise=20):
    random = np.random.default_rng(0)
    references = random.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    changed = references + random.integers(-noise, noise + 1, references.shape)
    return np.clip(changed, 0, 255).astype(np.uint8), references


def channels_first(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).double()


@pytest.mark.parametrize(("size", "channels"), [((16, 13), 3), ((8, 8), 1), ((6, 6), 1)])
def test_as_torchmetrics_computes_them(size, channels):
    outputs, references = pair(5, *size, channels)
    tensors = channels_first(outputs), channels_first(references)
    ours = PeakSignalToNoise()
    ours.update(outputs, references)
    theirs = PeakSignalNoiseRatio(data_range=255.0)
    theirs.update(*tensors)
    assert float(ours.compute()) == pytest.approx(float(theirs.compute()), rel=1e-6)
    similarity = StructuralSimilarity()
    similarity.update(outputs, references)
    theirs = StructuralSimilarityIndexMeasure(data_range=255.0)
    theirs.update(*tensors)
    assert 0 < float(similarity.compute()) < 1
    assert float(similarity.compute()) == pytest.approx(float(theirs.compute()), abs=2e-6)


@pytest.mark.parametrize("metric", [PeakSignalToNoise, StructuralSimilarity])
def test_ranks_and_batches_change_no_digit(metric):
    outputs, references = pair()
    whole = metric()
    whole.update(outputs, references)
    ranks = [metric(), metric()]
    for place in range(5):
        ranks[place % 2].update([outputs[place]], [references[place]])
    summed = metric()
    summed.update(outputs[:1], references[:1])
    for name in metric()._defaults:
        setattr(summed, name, sum(getattr(rank, name) for rank in ranks))
    assert summed.compute().item() == whole.compute().item()


def test_known_values():
    outputs = np.full((1, 8, 8, 1), 10, dtype=np.uint8)
    references = np.full((1, 8, 8, 1), 13, dtype=np.uint8)
    assert squared_error(outputs, references) == squared_error(references, outputs) == 64 * 9
    assert psnr(64 * 9, 64) == pytest.approx(20 * math.log10(255 / 3))
    assert psnr(0, 64) == math.inf
    assert ssim(references, references) == [pytest.approx(1)]
    # Of even images only the term of brightness is left.
    first = (0.01 * 255) ** 2
    assert ssim(outputs, references) == [pytest.approx((2 * 10 * 13 + first) / (10**2 + 13**2 + first))]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_measured_is_no_number():
    for metric in (PeakSignalToNoise(), StructuralSimilarity(), BitsPerDimension()):
        assert math.isnan(metric.compute())
    empty = PeakSignalToNoise()
    empty.update([], [])
    assert math.isnan(empty.compute())
    assert math.isnan(bits_per_dimension(1.0, 0))


def test_bits_of_an_even_guess():
    dimensions = 3072
    nats = dimensions * math.log(256)
    assert bits_per_dimension(nats, dimensions) == pytest.approx(8)
    metric = BitsPerDimension()
    metric.update(torch.tensor(nats, dtype=torch.float64), dimensions)
    metric.update(torch.tensor(nats / 2, dtype=torch.float64), torch.tensor(dimensions))
    assert float(metric.compute()) == pytest.approx(6)
    metric.update(torch.tensor(math.inf), 1)
    assert math.isnan(metric.compute())


@pytest.mark.parametrize(
    ("outputs", "references", "message"),
    [
        (pair()[0], pair()[1][:, :-1], "but references have shape"),
        (pair()[0][0], pair()[1][0], "uint8 of shape N x"),
        (torch.zeros(1, 8, 8, 1), torch.zeros(1, 8, 8, 1), "images have type torch.float32"),
    ],
)
def test_what_does_not_fit_is_told(outputs, references, message):
    with pytest.raises(InputError, match=message):
        PeakSignalToNoise().update(outputs, references)


def test_images_too_small_for_ssim():
    outputs, references = pair(1, 5, 9)
    with pytest.raises(InputError, match="5 x 9 pixels are too small for SSIM"):
        ssim(outputs, references)
