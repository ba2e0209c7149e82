import gzip
import itertools
import os
from pathlib import Path

import pytest

from lightning_bpd.datamodules import DemoText
from lightning_bpd.datamodules.demo import CORPUS, write_demo_corpus
from lightning_bpd.files import shipped
from lightning_bpd.interfaces import InputError

FILES = [f"{part}.{language}" for part in ("train", "val", "test") for language in ("en", "de")]


def small(folder: Path, pairs: int = 40) -> dict[str, bytes]:
    write_demo_corpus(folder, pairs)
    return {name: (folder / name).read_bytes() for name in FILES}


def test_demo_text_needs_nothing_and_takes_the_first_pairs(tmp_path):
    data = DemoText(str(tmp_path / "demo"), pairs=300, vocab_size=600)
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_corpus) == 300
    lines = gzip.decompress(shipped(CORPUS).read_bytes()).decode().splitlines()
    assert data.references("validation") == [line.split("\t")[1] for line in lines[500:1000]]
    for column, language in enumerate(("en", "de")):
        written = (tmp_path / "demo" / f"train.{language}").read_text(encoding="utf-8").splitlines()
        assert written == [line.split("\t")[column] for line in lines[1000:1300]]


def test_no_source_stands_in_two_parts():
    sources = [line.split(b"\t")[0] for line in gzip.decompress(shipped(CORPUS).read_bytes()).splitlines()]
    assert len(set(sources)) == len(sources) == 25_000


def test_complete_files_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small(tmp_path)
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("written again"))
    small(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_damaged_or_other_files_are_replaced(tmp_path: Path, name: str):
    before = small(tmp_path)
    (tmp_path / name).write_bytes(before[name][:-7])
    assert small(tmp_path) == before
    (tmp_path / name).unlink()
    assert small(tmp_path) == before
    assert small(tmp_path, 50)["train.en"].startswith(before["train.en"])


@pytest.mark.parametrize("after", range(7))
def test_interruption_leaves_whole_files_and_is_repaired(tmp_path: Path, monkeypatch, after: int):
    expected = small(tmp_path / "whole")
    folder, rename, calls = tmp_path / "cut", os.replace, itertools.count()

    def interrupted(source: str, target: Path) -> None:
        if next(calls) == after:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(folder)
    for path in folder.iterdir():
        assert path.name == "demo.json" or path.read_bytes() == expected[path.name]
    monkeypatch.setattr(os, "replace", rename)
    assert small(folder) == expected


@pytest.mark.parametrize("name", ["train.en", "letters.tsv"])
def test_a_folder_of_other_files_is_left_alone(tmp_path: Path, name: str):
    (tmp_path / name).write_text("mine\n")
    with pytest.raises(InputError, match=r"holds other files: .* give --config configs/.*own_text"):
        small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine\n"


def test_the_shipped_file_and_hidden_files_are_no_other_text(tmp_path: Path):
    (tmp_path / ".encoded").mkdir()
    (tmp_path / "corpus.tsv.gz").write_bytes(shipped(CORPUS).read_bytes())
    assert small(tmp_path).keys() == set(FILES)


def test_a_folder_of_the_previous_version_is_taken_over(tmp_path: Path):
    before = small(tmp_path)
    (tmp_path / "demo.json").write_text(
        '{"seed": 1, "test": 500, "val": 500, "train": 40, "grammar": "12ab"}'
    )
    assert small(tmp_path) == before


def test_arguments_of_the_previous_version_still_load():
    data = DemoText(
        folder="data/demo", pairs=24000, corpus_seed=1, vocab_size=2000, tokenizer=None, batch_tokens=2048,
        workers=0, seed=1,
    )  # fmt: skip
    assert data.pairs == 24000


@pytest.mark.parametrize("pairs", [0, 24_001])
def test_numbers_of_pairs_out_of_range_name_the_generator(tmp_path: Path, pairs: int):
    with pytest.raises(
        InputError, match=r"the demo corpus has 1 to 24000: `python -m tools.demo_corpus FOLDER"
    ):
        write_demo_corpus(tmp_path, pairs)


def test_another_seed_names_the_generator():
    with pytest.raises(
        InputError, match=r"generated with seed 1: `python -m tools.demo_corpus FOLDER --seed 2`"
    ):
        DemoText(corpus_seed=2)
