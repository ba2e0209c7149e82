import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_bpd.codecs.images import (
    ImageCodec,
    area_downsample,
    centre_crop,
    dequantise,
    images_to_tokens,
    quantise,
    tokens_to_images,
)
from lightning_bpd.interfaces import InputError


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@given(st.integers(2, 256))
def test_levels_come_back_exactly_and_intensities_nearly(levels):
    every = np.arange(levels)
    values = dequantise(every, levels)
    assert (quantise(values, levels) == every).all()
    assert values[0] == 0
    assert values[-1] == 255
    bytes_ = np.arange(256, dtype=np.uint8)
    back = dequantise(quantise(bytes_, levels), levels)
    assert np.abs(back.astype(int) - bytes_).max() <= 255 / (levels - 1) / 2 + 0.5
    assert (np.diff(back.astype(int)) >= 0).all()


def test_all_256_levels_change_nothing():
    bytes_ = np.arange(256, dtype=np.uint8)
    assert (quantise(bytes_, 256) == bytes_).all()


def test_tokens_are_in_raster_order_with_channels_together():
    images = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    images[0, 0, 1] = (10, 20, 30)
    images[0, 1, 0] = (40, 50, 60)
    tokens = images_to_tokens(images, 256)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [[0, 0, 0, 10, 20, 30, 40, 50, 60, 0, 0, 0]]


@given(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(2, 256))
def test_tokens_and_images_are_inverse(count, height, width, channels, levels):
    tokens = np.random.default_rng(0).integers(0, levels, (count, height * width * channels))
    images = tokens_to_images(tokens, (height, width, channels), levels)
    assert images.shape == (count, height, width, channels)
    assert images.dtype == np.uint8
    assert (images_to_tokens(images, levels) == tokens).all()


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(0, 9))
def test_a_small_pixel_is_the_rounded_mean_of_its_square(height, width, factor, channels, seed):
    images = random_images(2, height * factor, width * factor, channels, seed=seed)
    small = area_downsample(images, factor)
    for row in range(height):
        for column in range(width):
            square = images[
                :, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor
            ].astype(int)
            total = square.sum((1, 2))
            assert (small[:, row, column] == np.floor(total / factor**2 + 0.5)).all()


def test_crops_are_central():
    images = np.arange(5 * 4, dtype=np.uint8).reshape(1, 5, 4, 1)
    assert centre_crop(images, 3, 2)[0, :, :, 0].tolist() == [[5, 6], [9, 10], [13, 14]]
    assert centre_crop(images, 2, 3)[0, :, :, 0].tolist() == [[4, 5, 6], [8, 9, 10]]


def test_codec():
    codec = ImageCodec(8, 4, 3, 16, 2)
    images = random_images(3, 8, 4, 3)
    assert codec.start_id == 16
    assert codec.source_tokens(images).shape == (3, codec.source_length) == (3, 4 * 2 * 3)
    assert codec.target_tokens(images).shape == (3, codec.target_length) == (3, 8 * 4 * 3)
    assert codec.target_tokens(images).max() == 15
    assert (codec.small(images) == area_downsample(images, 2)).all()
    decoded = codec.decode(codec.target_tokens(images).tolist())
    assert len(decoded) == 3
    assert np.abs(np.stack(decoded).astype(int) - images).max() <= 9
    assert set(codec.quality()) == {"psnr"}
    assert set(ImageCodec(8, 8, 1).quality()) == {"psnr", "ssim"}
    assert "range:255" in codec.signature()


def test_tokens_in_figures():
    assert ImageCodec(2, 2, 3, 256, 1).pieces([1, 2, 3, 4], [200, 13, 0]) == ["g200", "b13", "r0"]
    assert ImageCodec(2, 2, 1, 16, 1).pieces([1], [15, 0]) == ["15", "0"]
    assert ImageCodec(4, 4).decode([]) == []


def test_the_loss_in_bits():
    (metric,) = ImageCodec(4, 4).likelihood().values()
    metric.update(torch.tensor(3 * math.log(2)), 2)
    assert float(metric.compute()) == pytest.approx(1.5, abs=1e-5)


def test_a_codec_is_rebuilt_from_its_description(tmp_path):
    codec = ImageCodec(8, 4, 3, 16, 2)
    assert ImageCodec.from_description(codec.describe()) == codec
    assert ImageCodec.read(tmp_path, codec.write(tmp_path)) == codec
    assert codec.describe()["fingerprints"] == codec.parts()
    assert codec.parts() != ImageCodec(8, 4, 3, 17, 2).parts()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageCodec(0, 4), "0 x 4 pixels"),
        (lambda: ImageCodec(8, 8, channels=2), "channels is 2"),
        (lambda: ImageCodec(8, 8, levels=257), "levels is 257"),
        (lambda: ImageCodec(8, 6, factor=4), "8 x 6 pixels cannot be made 4 times smaller"),
        (lambda: ImageCodec(8, 8).target_tokens(random_images(1, 8, 8, 1)), "8 x 8 x 1 do not fit"),
        (lambda: ImageCodec(2, 2, 1, 4, 1).decode([[0, 1, 2]]), "a row of 3 tokens is not an image"),
        (lambda: ImageCodec(1, 1, 1, 4, 1).decode([[4]]), "are not intensities"),
        (lambda: tokens_to_images(np.array([[-1]]), (1, 1, 1), 4), "tokens from -1 to -1"),
        (lambda: tokens_to_images(np.zeros((2, 5)), (1, 1, 1), 4), "2 x 5 are not images"),
        (lambda: area_downsample(random_images(1, 6, 6, 1), 4), "factor must be a whole number"),
        (lambda: centre_crop(random_images(1, 6, 6, 1), 7, 6), "6 x 6 pixels cannot be cropped to 7 x 6"),
        (lambda: quantise(np.zeros(3), 4), "float64: they must be uint8"),
        (lambda: images_to_tokens(random_images(4, 4, 3), 4), "4 x 4 x 3 holds no images"),
    ],
)
def test_what_does_not_fit_is_told(make, message):
    with pytest.raises(InputError, match=message):
        make()
