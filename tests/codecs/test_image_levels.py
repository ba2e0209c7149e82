import json

import numpy as np
import pytest

from lightning_bpd.codecs.labelled_images import ImageLevels
from lightning_bpd.interfaces import InputError

CODEC = ImageLevels(2, 3, 1, 17, ("zero", "one"))


def test_a_codec_is_rebuilt_from_its_description(tmp_path):
    assert ImageLevels.from_description(CODEC.describe()) == CODEC
    assert ImageLevels.read(tmp_path, json.loads(json.dumps(CODEC.write(tmp_path)))) == CODEC


def test_tokens_and_images():
    images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1) * 20
    tokens = CODEC.encode(images)
    assert (tokens.shape, tokens.dtype) == ((2, 6), np.int64)
    again = np.stack(CODEC.decode(tokens.tolist()))
    assert np.abs(again.astype(int) - images).max() <= 8
    assert (CODEC.encode(again) == tokens).all()
    assert CODEC.decode([]) == []
    assert (CODEC.grid, CODEC.length) == ((2, 3), 6)
    assert ImageLevels(2, 3, 3, 17, ("any",)).grid == (2, 3, 3)
    assert CODEC.vocabularies == (2, 17, 17, None, None, (2, 3))


@pytest.mark.parametrize(
    ("row", "message"),
    [([0] * 5, "a grid of 2 x 3 takes 6"), ([0] * 5 + [17], "whose 17 tokens go from 0 to 16")],
)
def test_rows_that_are_no_images(row, message):
    with pytest.raises(InputError, match=message):
        CODEC.decode([row])


def test_labels_out_of_range():
    CODEC.check_labels([0, 1])
    for label in (2, -1):
        with pytest.raises(
            InputError, match=f"the label {label} is out of range: the 2 classes have labels from 0 to 1"
        ):
            CODEC.check_labels([0, label])


def test_images_of_another_size_or_type():
    with pytest.raises(InputError, match="images of 3 x 2 x 1, uint8, do not fit: they must be 2 x 3 x 1"):
        CODEC.encode(np.zeros((1, 3, 2, 1), np.uint8))
    with pytest.raises(InputError, match="float32"):
        CODEC.encode(np.zeros((1, 2, 3, 1), np.float32))


def test_other_classes_are_another_codec():
    assert CODEC.parts() != ImageLevels(2, 3, 1, 17, ("one", "zero")).parts()
    many = tuple(map(str, range(1000)))
    assert len(ImageLevels(2, 3, 1, 17, many).parts()["classes"]) < 60
