import gzip
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from idx_content import IMAGES, LABELS, idx

from lightning_bpd.datamodules.idx_files import idx_labels, idx_names, is_idx, read_idx, read_idx_images
from lightning_bpd.datamodules.image_files import content_hashes, fingerprint, list_images, read_images
from lightning_bpd.interfaces import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[:2]))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:2])))
    return tmp_path


def test_a_folder_of_idx_files_holds_named_images_and_labels(folder):
    assert is_idx(folder)
    names = list_images(folder)
    assert names == [f"test/{n:06d}" for n in range(2)] + [f"train/{n:06d}" for n in range(7)]
    labels = idx_labels(folder)
    assert [labels[f"train/{n:06d}"] for n in range(7)] == LABELS.tolist()
    read = dict(read_images(folder, names, 6, 5, 1, lambda *_: pytest.fail("left out")))
    assert (np.stack([read[f"train/{n:06d}"] for n in range(7)])[..., 0] == IMAGES).all()
    assert content_hashes(folder)["test/000000"] == content_hashes(folder)["train/000000"]


def test_one_file_is_no_part(folder):
    file = folder / "train-images-idx3-ubyte.gz"
    assert list(idx_names(file)) == [f"{n:06d}" for n in range(7)]
    assert [name for name, _ in read_idx_images(file, {"000003"})] == ["000003"]
    assert idx_labels(file)["000002"] == 1


def test_the_fingerprint_is_that_of_the_files(folder):
    before = fingerprint(folder)
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[1:3]))
    assert fingerprint(folder) != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (b"\x89PNG1234567890", "not an idx file"),
        (idx(IMAGES, 0x0D), "holds float32; images and labels must be unsigned bytes"),
        (idx(IMAGES, 0x77), "numbers of the unknown type 119"),
        (idx(LABELS), "its array has 1 dimensions, but images have 3"),
        (idx(IMAGES)[:9], "ends in its header"),
        (idx(IMAGES)[:-1], r"announces 210 bytes \(7 x 6 x 5\), but 209 follow; fetch it again"),
        (idx(IMAGES) + b"x", "announces 210 bytes .*but more follow"),
    ],
)
def test_damaged_files_and_other_types(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list_images(tmp_path)


def test_a_damaged_gzip_file(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        list_images(folder)


def test_missing_and_too_few_labels(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        InputError, match=r"its labels are missing; put t10k-labels-idx1-ubyte or .*\.gz beside"
    ):
        idx_labels(folder)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:1]))
    with pytest.raises(InputError, match="holds 1 labels, but t10k-images-idx3-ubyte holds 2 images"):
        idx_labels(folder)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(IMAGES))
    with pytest.raises(InputError, match="has 3 dimensions, but labels have 1"):
        idx_labels(folder)


def test_two_files_of_one_part(folder):
    (folder / "fashion-train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    with pytest.raises(InputError, match="hold the same part"):
        list_images(folder)


def test_a_plain_file_comes_before_its_compressed_copy(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(idx(IMAGES[:3]))
    assert len(list_images(folder)) == 5


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=20), st.integers(0, 15), st.booleans())
def test_any_bytes_are_an_array_or_a_clear_error(junk, kept, compressed):
    content = idx(IMAGES)[:kept] + junk
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"train-images-idx3-ubyte{'.gz' if compressed else ''}"
        path.write_bytes(gzip.compress(content)[: kept + 12] if compressed else content)
        with pytest.raises(InputError, match=re.escape(str(path))):
            read_idx(path, 3)


def test_read_idx_gives_the_array(folder):
    assert (read_idx(folder / "train-labels-idx1-ubyte", 1) == LABELS).all()
