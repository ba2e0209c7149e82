import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from lightning_bpd.interfaces import InputError
from lightning_bpd.metrics.generated_images import (
    Gaussian,
    class_accuracy,
    frechet_distance,
    gaussian,
    nearest_images,
)


def features(seed, count=50, width=6):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix + seed


def test_a_gaussian_is_mean_and_covariance():
    found = gaussian(features(1).float())
    assert np.allclose(found.mean, features(1).mean(0), atol=1e-5)
    assert np.allclose(found.covariance, np.cov(features(1).T), atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 12), st.integers(2, 40))
def test_a_set_has_no_distance_from_itself(seed, width, count):
    one = gaussian(features(seed, count, width))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6 * float(one.covariance.trace() + 1))


def test_known_gaussians():
    zero, identity = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    unit = Gaussian(zero, identity)
    # Means differ by (1, 2, 2); then deviations by 1, 2 and 0.
    assert frechet_distance(
        unit, Gaussian(torch.tensor([1.0, 2.0, 2.0]).double(), identity)
    ) == pytest.approx(9)
    wide = Gaussian(zero, torch.diag(torch.tensor([4.0, 9.0, 1.0])).double())
    assert frechet_distance(unit, wide) == pytest.approx(1 + 4)
    assert frechet_distance(Gaussian(zero, 0 * identity), unit) == pytest.approx(3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 100), st.integers(101, 200))
def test_the_distance_is_that_of_the_formula_with_a_matrix_root(first, second):
    one, other = gaussian(features(first)), gaussian(features(second))
    root = sqrtm((one.covariance @ other.covariance).numpy()).real
    expected = (one.mean - other.mean).square().sum() + np.trace(
        one.covariance.numpy() + other.covariance.numpy() - 2 * root
    )
    assert frechet_distance(one, other) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(float(expected), rel=1e-6)


def test_one_image_has_no_covariance():
    with pytest.raises(InputError, match="at least two rows"):
        gaussian(features(1, 1))


def test_class_accuracy():
    logits = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    assert class_accuracy(logits, torch.tensor([1, 1, 1])) == pytest.approx(2 / 3)
    assert math.isnan(class_accuracy(logits[:0], torch.tensor([], dtype=torch.long)))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 9))
def test_nearest_images_are_those_of_a_search(seed, together):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (5, 3, 4, 1), generator=generator).byte()
    real = torch.randint(0, 256, (9, 3, 4, 1), generator=generator).byte()
    images[2] = real[7]
    index, distance = nearest_images(images, real, together)
    squared = (images[:, None].double() - real[None].double()).square().mean((2, 3, 4))
    assert torch.allclose(squared.gather(1, index[:, None])[:, 0], squared.min(1).values)
    assert torch.allclose(distance, squared.min(1).values.sqrt())
    assert (index[2], distance[2]) == (7, 0)


def test_nearest_images_of_another_size():
    with pytest.raises(InputError, match="at least one real image of their size"):
        nearest_images(torch.zeros(1, 2, 2, 1).byte(), torch.zeros(0, 2, 2, 1).byte())
