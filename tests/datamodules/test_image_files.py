import io
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from lightning_bpd.datamodules.image_files import (
    fingerprint,
    list_images,
    read_images,
    split_names,
    summary,
)
from lightning_bpd.interfaces import InputError

NAMES = ["cat/b.png", "cat/a.png", "dog/deep/c.PNG", "dog/d.png"]


def pixels(seed, height=6, width=6):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


FILES = {name: png(pixels(seed)) for seed, name in enumerate(NAMES)}


def write_tree(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_tar(path, files):
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return path


def store(kind, tmp_path, files):
    if kind == "tree":
        return write_tree(tmp_path / "tree", files)
    path = tmp_path / f"images.{kind}"
    return write_zip(path, files) if kind == "zip" else write_tar(path, files)


def read(path, height=6, width=6, channels=3):
    skipped = []
    images = read_images(path, list_images(path), height, width, channels, lambda *each: skipped.append(each))
    return dict(images), skipped


@pytest.mark.parametrize("kind", ["tree", "tar", "tar.gz", "tgz", "zip"])
def test_folders_and_archives_give_the_same(tmp_path, kind):
    others = {"notes.txt": b"x", "cat/.hidden.png": b"x", "__MACOSX/cat/._a.png": b"x", ".cache/e.png": b"x"}
    files = {f"images/{name}": content for name, content in (FILES | others).items()}
    path = store(kind, tmp_path, files)
    assert list_images(path) == sorted(NAMES)
    images, skipped = read(path)
    assert not skipped
    assert set(images) == set(NAMES)
    for seed, name in enumerate(NAMES):
        assert images[name].dtype == np.uint8
        assert (images[name] == pixels(seed)).all()
    if kind not in ("tar.gz", "tgz"):
        assert list(images) == sorted(NAMES)


@pytest.mark.parametrize("kind", ["tree", "tar", "tar.gz", "zip"])
def test_damaged_and_small_images_are_left_out_and_named(tmp_path, kind):
    whole = png(pixels(9, 40, 40))
    bad = {
        "bad/cut.png": whole[: len(whole) // 2],
        "bad/text.jpg": b"no image",
        "bad/small.png": png(pixels(8, 6, 5)),
    }
    images, skipped = read(store(kind, tmp_path, FILES | bad))
    assert set(images) == set(NAMES)
    reasons = dict(skipped)
    assert set(reasons) == set(bad)
    assert "cannot be read" in reasons["bad/cut.png"]
    assert reasons["bad/text.jpg"] == "damaged, or of an unknown format"
    assert reasons["bad/small.png"] == "6 x 5 pixels, smaller than 6 x 6"
    assert summary(sorted(skipped)).startswith("3 left out (bad/cut.png: ")


def test_a_decompression_bomb_is_left_out(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    images, skipped = read(write_tree(tmp_path, FILES | {"bomb.png": bomb}))
    assert len(images) == 4
    assert skipped == [("bomb.png", f"more than {Image.MAX_IMAGE_PIXELS:,} pixels")]


def test_a_format_that_runs_programs_is_not_read(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    _, skipped = read(write_tree(tmp_path, FILES | {"image.png": eps}))
    assert skipped == [("image.png", "damaged, or of an unknown format")]


def test_larger_images_are_cropped_to_the_middle_and_averaged(tmp_path):
    large = pixels(1, 6, 10)
    images, _ = read(write_tree(tmp_path, {"a.png": png(large)}), 3, 3)
    middle = large[:, 2:8].reshape(3, 2, 3, 2, 3).mean((1, 3))
    assert np.abs(images["a.png"] - middle).max() <= 1
    images, _ = read(tmp_path, 3, 5)
    assert np.abs(images["a.png"] - large.reshape(3, 2, 5, 2, 3).mean((1, 3))).max() <= 1


def test_colours_and_grey(tmp_path):
    Image.fromarray(pixels(1)[:, :, 0]).save(tmp_path / "grey.png")
    Image.fromarray(pixels(2)).convert("P").save(tmp_path / "palette.gif")
    Image.fromarray(pixels(3).astype(np.uint16)[:, :, 0] * 256).save(tmp_path / "deep.png")
    images, skipped = read(tmp_path)
    assert (images["grey.png"] == pixels(1)[:, :, :1]).all()
    assert {image.shape for image in images.values()} == {(6, 6, 3)}
    assert skipped == [("deep.png", "more than 8 bits an intensity")]
    images, _ = read(tmp_path, channels=1)
    assert {image.shape for image in images.values()} == {(6, 6, 1)}


def test_photographs_are_turned_upright(tmp_path):
    photograph = Image.fromarray(pixels(1, 4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.save(tmp_path / "a.png", exif=exif)
    images, _ = read(tmp_path, 8, 4)
    assert (images["a.png"] == np.rot90(pixels(1, 4, 8), -1)).all()


def test_links_in_a_circle(tmp_path):
    write_tree(tmp_path, FILES)
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    assert list_images(tmp_path) == sorted(NAMES)


def test_a_later_member_of_the_same_name_replaces_an_earlier_one(tmp_path):
    path = tmp_path / "images.tar"
    write_tar(path, {"a.png": png(pixels(1))})
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("a.png")
        member.size = len(png(pixels(2)))
        tar.addfile(member, io.BytesIO(png(pixels(2))))
    assert (read(path)[0]["a.png"] == pixels(2)).all()


@pytest.mark.parametrize("grey", [False, True])
def test_arrays(tmp_path, grey):
    images = np.stack([pixels(seed, 7, 7) for seed in range(5)])
    images = images[..., 0] if grey else images
    np.save(tmp_path / "a.npy", images)
    np.savez_compressed(tmp_path / "b.npz", images=images, labels=np.arange(5))
    np.savez(tmp_path / "c.npz", train=images[:3], val=images[3:4], test=images[4:])
    channels = 1 if grey else 3
    for name in ("a.npy", "b.npz", "c.npz"):
        found, skipped = read(tmp_path / name, 7, 7, channels)
        assert not skipped
        assert (np.stack(list(found.values())) == images.reshape(5, 7, 7, channels)).all()
    assert list(found) == ["train/000000", "train/000001", "train/000002", "val/000000", "test/000000"]


def test_only_the_named_images_of_an_array(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([pixels(seed) for seed in range(5)]))
    found = dict(read_images(tmp_path / "a.npy", ["000003"], 6, 6, 3, print))
    assert list(found) == ["000003"]
    assert (found["000003"] == pixels(3)).all()


class _Dangerous:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_nothing_is_unpickled(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save(f"a.{'npy' if save is np.save else 'npz'}", np.array([_Dangerous()], dtype=object))
    (path,) = tmp_path.iterdir()
    with pytest.raises(InputError, match="never unpickled"):
        list_images(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_member_that_is_half_there(tmp_path):
    path = write_tar(tmp_path / "images.tar.gz", FILES)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"images\.tar\.gz is damaged"):
        list_images(path)


def test_a_zip_with_a_damaged_member_loses_only_that(tmp_path):
    path = write_zip(tmp_path / "images.zip", FILES)
    with zipfile.ZipFile(path) as zipped:
        start = zipped.getinfo("cat/a.png").header_offset
    content = bytearray(path.read_bytes())
    content[start + 60 : start + 80] = bytes(20)
    path.write_bytes(content)
    images, skipped = read(path)
    assert set(images) == set(NAMES) - {"cat/a.png"}
    assert [name for name, _ in skipped] == ["cat/a.png"]


def bad_array(tmp_path, name, array):
    np.save(tmp_path / name, array)
    return tmp_path / name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing", "nothing: there is no such file or folder"),
        (lambda folder: folder, "there is no image in it"),
        (lambda folder: write_tar(folder / "a.tar", {"b.txt": b"x"}), r"a\.tar: there is no image in it"),
        (lambda folder: write_tree(folder, {"a.rar": b"x"}) / "a.rar", "no images can be read from this"),
        (lambda folder: write_tree(folder, {"a.zip": b"x"}) / "a.zip", "is damaged"),
        (lambda folder: write_tree(folder, {"a.tar": b"x"}) / "a.tar", "is damaged"),
        (lambda folder: write_tree(folder, {"a.npy": b"x"}) / "a.npy", "no array that numpy wrote"),
        (
            lambda folder: bad_array(folder, "a.npy", np.zeros((2, 3, 8, 8), np.uint8)),
            "uint8 of shape 2 x 3 x 8 x 8",
        ),
        (
            lambda folder: bad_array(folder, "a.npy", np.zeros((2, 8, 8))),
            "float64 of shape 2 x 8 x 8; images are",
        ),
        (lambda folder: bad_array(folder, "a.npy", np.zeros((8, 8, 2), np.uint8).T), "Fortran order"),
        (lambda folder: bad_array(folder, "a.npy", np.zeros((0, 8, 8), np.uint8)), "holds no image"),
    ],
)
def test_what_holds_no_images(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        list_images(make(tmp_path))


def test_arrays_of_several_meanings(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.zeros((2, 8, 8), np.uint8), two=np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(InputError, match="one: images; two: images"):
        list_images(tmp_path / "a.npz")


def test_an_array_that_ends_too_early(tmp_path):
    path = bad_array(tmp_path, "a.npy", np.zeros((3, 8, 8), np.uint8))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="ends too early"):
        read(path, 8, 8, 1)


def test_parts_by_folder():
    names = ["test/cat/1.png", "train/1.png", "validation/1.png", "loose.png", "other/1.png"]
    assert split_names(names, 0.5, 0.4) == {
        "train": ["train/1.png"],
        "validation": ["validation/1.png"],
        "test": ["test/cat/1.png"],
    }


def test_a_part_is_found_below_a_common_folder(tmp_path):
    write_tree(tmp_path, {f"cifar/{part}/cat/1.png": FILES["cat/a.png"] for part in ("train", "val")})
    assert list_images(tmp_path) == ["train/cat/1.png", "val/cat/1.png"]


def test_shares_depend_on_the_name_alone():
    names = [f"cat/{number}.png" for number in range(2000)]
    parts = split_names(names, 0.1, 0.2)
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert 150 < len(parts["validation"]) < 250
    assert 330 < len(parts["test"]) < 470
    fewer = split_names(names[::2], 0.1, 0.2)
    for part in parts:
        assert set(fewer[part]) == set(parts[part]) & set(names[::2])
    assert split_names(names, 0, 0)["train"] == names


def test_a_missing_validation_part_is_a_share_of_training():
    names = [f"{part}/{number}.png" for part in ("test", "train") for number in range(500)]
    parts = split_names(names, 0.1, 0.3)
    assert parts["test"] == names[:500]
    assert 20 < len(parts["validation"]) < 90
    assert sorted(parts["train"] + parts["validation"]) == sorted(names[500:])


def test_a_class_called_train_is_no_part():
    names = ["boat/1.png", "train/1.png"]
    assert split_names(names, 0, 0)["train"] == names


@pytest.mark.parametrize("shares", [(-0.1, 0), (0, 1), (0.5, 0.5)])
def test_shares_that_are_none(shares):
    with pytest.raises(InputError, match="share"):
        split_names([], *shares)


def test_the_fingerprint_is_of_content_and_names(tmp_path):
    one, two = (write_tree(tmp_path / name, FILES) for name in ("one", "two"))
    assert fingerprint(one) == fingerprint(two)
    (two / "notes.txt").write_text("no image")
    assert fingerprint(one) == fingerprint(two)
    (two / "cat" / "a.png").rename(two / "cat" / "z.png")
    assert fingerprint(one) != fingerprint(two)
    (one / "cat" / "a.png").write_bytes(png(pixels(7)))
    assert fingerprint(one) != fingerprint(write_tree(tmp_path / "three", FILES))
    first = fingerprint(write_tar(tmp_path / "a.tar", FILES))
    assert first != fingerprint(write_tar(tmp_path / "a.tar", FILES | {"more.png": b""}))
