"""Held-out data is held out: equal rows lie on one side of every split."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightning_bpd.datamodules import Images
from lightning_bpd.datamodules.demo import write_demo_corpus
from lightning_bpd.datamodules.held_out import first_alike, held_out_rows

SIZE = 8


@given(st.lists(st.sampled_from(["a b", "a  b", " a b", "b", "c", "", " ", "d e", "f"])))
def test_rows_that_differ_in_white_space_alone_are_alike(texts):
    def same(one, other):
        return one.split() == other.split() if one.strip() else one == other

    first = first_alike(texts)
    assert first.tolist() == [next(i for i, each in enumerate(texts) if same(each, text)) for text in texts]


@given(st.lists(st.integers(0, 12), min_size=13), st.data())
def test_as_many_sources_as_asked_for_are_held_out_with_all_their_rows(sources, data):
    texts = [str(source) for source in sources]
    count = data.draw(st.integers(0, len(set(texts))))
    held = held_out_rows(first_alike(texts), count)
    inside = {text for text, is_held in zip(texts, held, strict=True) if is_held}
    assert len(inside) == count
    assert not inside & {text for text, is_held in zip(texts, held, strict=True) if not is_held}


def test_the_demo_corpus_repeats_no_source(tmp_path):
    write_demo_corpus(tmp_path, 24_000)
    parts = [(tmp_path / f"{part}.en").read_text().split("\n")[:-1] for part in ("train", "val", "test")]
    lines = [line for part in parts for line in part]
    assert len(set(first_alike(lines).tolist())) == len(lines)


def pictures() -> dict[str, np.ndarray]:
    """40 different images, each under three names."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)
    return {f"{folder}/{number}{folder}.png": images[number] for number in range(40) for folder in "abc"}


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def stored(kind: str, folder: Path, images: dict[str, np.ndarray]) -> Path:
    if kind == "npy":
        np.save(folder / "images.npy", np.stack(list(images.values())))
        return folder / "images.npy"
    path = folder / {"zip": "images.zip", "tar": "images.tar", "tar.gz": "images.tar.gz"}.get(kind, "images")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name, image in images.items():
                zipped.writestr(name, png(image))
    elif kind.startswith("tar"):
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
            for name, image in images.items():
                member = tarfile.TarInfo(name)
                member.size = len(png(image))
                tar.addfile(member, io.BytesIO(png(image)))
    else:
        for name, image in images.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(png(image))
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "npy"])
@pytest.mark.parametrize("inside", ["", "train/"])
def test_no_image_is_in_two_parts(kind, inside, tmp_path):
    images = {f"{inside}{name}": image for name, image in pictures().items()}
    path = stored(kind, tmp_path, images)
    shares = {"validation_share": 0.2, "test_share": 0.2}
    data = Images(str(path), SIZE, SIZE, cache=str(tmp_path / "cache"), **shares)
    data.prepare_data()
    data.setup("fit")
    parts = ["train", "validation"] if inside and kind != "npy" else ["train", "validation", "test"]
    seen = [{image.tobytes() for image in data.references(part)} for part in parts]
    assert all(seen)
    assert sum(map(len, seen)) == len(set.union(*seen)) == 40
    assert sum(len(data.references(part)) for part in parts) == 120


def test_images_without_copies_are_split_by_their_names_alone(tmp_path):
    images = {name: image for name, image in pictures().items() if name.startswith("a")}
    path = stored("folder", tmp_path, images)
    data = Images(str(path), SIZE, SIZE, cache=str(tmp_path / "cache"), validation_share=0.3)
    before = data.source.parts
    (path / "a" / "11a.png").unlink()
    after = Images(str(path), SIZE, SIZE, validation_share=0.3).source.parts
    for part, names in before.items():
        assert after[part] == [name for name in names if name != "11a.png"]
