"""Every name that becomes a path, from whoever chose it: nothing is read or written outside of its folder."""

import io
import json
import os
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from strange_names import NO_TEXT, STRANGE

from lightning_bpd import load
from lightning_bpd.cli.arguments import take_tokenizers_of_base
from lightning_bpd.cli.compare import compare
from lightning_bpd.cli.distill import distill
from lightning_bpd.cli.upscale import output_paths
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.datamodules.image_files import image_members, list_images, read_images
from lightning_bpd.datamodules.text_files import find_pair_files
from lightning_bpd.files import path_inside
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.finished_model import read_base, read_codec, read_folder
from lightning_bpd.saved.translation import Translator

TOKENIZER = train_tokenizer(["ein Haus", "a house"] * 20, 280, True, "identity")
LANGUAGES = ["a/b", "/x", "../x", "a\\b", ""]


def png() -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


def archive(path: Path, names: list[str]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name in names:
                zipped.writestr(name, png())
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(png())
            tar.addfile(member, io.BytesIO(png()))
    return path


@pytest.fixture
def model(tmp_path):
    """A finished model of text in a folder."""
    shape = Architecture(d_model=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=16)
    size = TOKENIZER.vocab_size
    network = EncoderDecoder(shape, size, size, TOKENIZER.bos_id, TOKENIZER.eos_id)
    Translator(network, TextCodec(TOKENIZER, TOKENIZER)).save(tmp_path / "model", {})
    return tmp_path / "model"


@pytest.mark.parametrize("name", [*STRANGE, *NO_TEXT])
def test_a_strange_name_is_no_path(tmp_path, name):
    with pytest.raises(InputError, match="does not lead to a file inside it"):
        path_inside(tmp_path, name)


@pytest.mark.parametrize(
    "name",
    ["a.png", "a/b.png", "a\\b.png", "./a.png", "..a", "a..b/c", "~/x", "ä/日.png", "a\udcff"],
)
def test_an_ordinary_name_stays_inside(tmp_path, name):
    assert path_inside(tmp_path, name) == tmp_path / name.replace("\\", "/").removeprefix("./")


def test_a_folder_that_is_a_link_leads_nowhere(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "circle").symlink_to("circle")
    (tmp_path / "out" / "own").symlink_to(".")
    (tmp_path / "also").symlink_to("out")
    with pytest.raises(InputError, match="does not lead"):
        path_inside(tmp_path / "out", "link/x.png")
    assert path_inside(tmp_path / "also", "own/x.png").name == "x.png"
    # A file may be a link, as in a cache of models; writing replaces it.
    assert path_inside(tmp_path / "out", "link").name == "link"


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", [name for name in STRANGE if name.endswith(".png")])
def test_archives(tmp_path, ending, name):
    path = archive(tmp_path / f"images.{ending}", ["good.png", name])
    if "\0" in name:
        # The libraries cut the name there.
        assert list_images(path) == ["good.png"]
        return
    with pytest.raises(InputError, match=r"images\..*does not lead to a file inside it"):
        list_images(path)


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_windows_separators_are_separators(tmp_path, ending):
    path = archive(tmp_path / f"images.{ending}", ["train\\a.png", "test\\b.png"])
    names = list_images(path)
    assert names == ["test/b.png", "train/a.png"]
    assert sorted(name for name, _ in read_images(path, names, 4, 4, 3, lambda *_: None)) == names


def test_links_in_archives_are_not_followed(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for name, kind in (("soft.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(secret)
            tar.addfile(member)
        member = tarfile.TarInfo("good.png")
        member.size = len(png())
        tar.addfile(member, io.BytesIO(png()))
    assert list_images(tmp_path / "images.tar") == ["good.png"]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as zipped:
        link = zipfile.ZipInfo("soft.png")
        link.external_attr = 0o120777 << 16
        zipped.writestr(link, str(secret))
    assert not list(read_images(tmp_path / "images.zip", ["soft.png"], 4, 4, 3, lambda *_: None))


@pytest.mark.parametrize("name", [*STRANGE, *NO_TEXT])
@pytest.mark.parametrize("side", ["source", "target"])
def test_tokenizers_of_a_finished_model(model, tmp_path, name, side):
    TOKENIZER.save(tmp_path / "x.png")
    config = json.loads((model / "config.json").read_text())
    config["tokenizers"][side] = name
    (model / "config.json").write_text(json.dumps(config))
    for read in (read_folder, read_codec, read_base, load):
        with pytest.raises(InputError, match="does not lead to a file inside it"):
            read(model)
    data = {"tokenizer": None, "target_tokenizer": None, "joint_vocabulary": True}
    take_tokenizers_of_base({"base": str(model)}, data)
    assert data["tokenizer"] is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_end_file_names(model, tmp_path, language):
    (tmp_path / "text").write_text("a house\n")
    (tmp_path / "train.en").write_text("a house\n")
    for data in (tmp_path / "text", tmp_path):
        with pytest.raises(InputError, match="cannot be the ending of a file"):
            distill(str(model), str(data), str(tmp_path / "out"), target_language=language)
    with pytest.raises(InputError, match="cannot be the ending of a file"):
        find_pair_files(tmp_path, ["train"], language, "de")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("corpus", ["/", ""])
def test_a_corpus_has_a_name(tmp_path, corpus):
    folder = tmp_path if corpus else Path("/")
    with pytest.raises(InputError, match="names no files: give a name such as train"):
        find_pair_files(folder, [corpus], "en", "de")


def test_a_name_that_is_no_text_is_printed_as_the_file_system_has_it(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff"
    code = "import sys; from lightning_bpd.cli import main; main(['--help']); print(sys.argv[1])"
    ran = subprocess.run(
        [sys.executable, "-c", code, name],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert ran.stdout.endswith(name + b"\n")


@pytest.mark.parametrize("corpus", ["../x", "a/b", "/x/y"])
def test_a_corpus_by_its_path_needs_an_output(model, tmp_path, corpus):
    with pytest.raises(InputError, match="give --output FILE"):
        compare(str(model), str(tmp_path), corpus)


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "a.bmp"),
        ("a.png", "A.png"),
        ("deep/a.png", "Deep/a.jpg"),
        (unicodedata.normalize("NFC", "ä.png"), unicodedata.normalize("NFD", "ä.png")),
        ("straße.png", "STRASSE.png"),
        ("a.bmp", "a.png/b.png"),
    ],
)
@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_images_that_would_become_one_file(tmp_path, names, ending):
    path = archive(tmp_path / f"images.{ending}", ["other.png", *names])
    with pytest.raises(InputError, match=r"would both be written as .*: rename one of them"):
        output_paths(path, image_members(path), tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("in", "in"),
        ("in", "in/"),
        ("in", "in/deep"),
        ("in", "in/new/deep"),
        ("in/deep", "in"),
        ("in", "link"),
        ("link", "in"),
        ("in", "link/deep"),
        ("in", "in/../in"),
        # Whose images are the output's, through a link.
        ("linked", "in"),
        ("one", "in"),
    ],
)
def test_images_are_not_written_over(tmp_path, source, output):
    deep = tmp_path / "in" / "deep"
    deep.mkdir(parents=True)
    (deep / "a.png").write_bytes(png())
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "folder").symlink_to(tmp_path / "in")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "b.png").symlink_to(deep / "a.png")
    path = tmp_path / source
    with pytest.raises(InputError, match="hold one another, which would overwrite images"):
        output_paths(path, image_members(path), Path(f"{tmp_path}/{output}"))


def test_output_beside_the_input(tmp_path):
    path = archive(tmp_path / "images.zip", ["a.png", "deep/b.JPG"])
    for folder in (tmp_path, tmp_path / "images"):
        paths = output_paths(path, image_members(path), folder)
        assert paths == {"a.png": folder / "a.png", "deep/b.JPG": folder / "deep" / "b.png"}
    (tmp_path / "deep").symlink_to(os.sep)
    with pytest.raises(InputError, match="does not lead to a file inside it"):
        output_paths(path, image_members(path), tmp_path)
