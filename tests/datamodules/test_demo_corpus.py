import itertools
import json
import os
import re
from pathlib import Path

import pytest

from lightning_bpd.datamodules.demo import corpus
from lightning_bpd.datamodules.demo.corpus import sentence_pairs, write_demo_corpus
from lightning_bpd.interfaces import InputError

FILES = [f"{part}.{language}" for part in ("train", "val", "test") for language in ("en", "de")]


@pytest.fixture(scope="module")
def sample() -> list[tuple[str, str]]:
    return list(itertools.islice(sentence_pairs(7), 6000))


def test_sentences_are_well_formed(sample):
    lengths = []
    for pair in sample:
        for text in pair:
            assert re.fullmatch(r"[A-ZÄÖÜ0-9][A-Za-zÄÖÜäöüßé0-9 ,.'-]*[.?!]", text), text
            assert "  " not in text
            assert not re.search(r" [,.?!]|,[^ ]|,,|-[ ,.]", text), text
        lengths.append(len(pair[0].split()))
    assert max(lengths) <= 30
    assert sum(5 <= n <= 18 for n in lengths) > 0.9 * len(lengths)


def test_one_english_sentence_has_one_translation():
    found: dict[str, str] = {}
    for english, german in itertools.islice(sentence_pairs(3), 20000):
        assert found.setdefault(english, german) == german


@pytest.mark.parametrize(
    ("english", "german"),
    [
        (r"^Yesterday ", r"^Gestern (hat|haben|habe|hast|ist|sind|bin|bist|war|wa|konn|muss|woll|durf)"),
        (r" because ", r", weil .* (hat|haben|war|waren|musste|wollte|konnte)[.]"),
        (r" although ", r", obwohl "), (r"^If ", r"^Wenn .*, (wird|werden|kann|sollte|muss)"),
        (r"^After .* had ", r"^Nachdem .* (hatte|hatten|war|waren),"), (r"^Before ", r"^Bevor "),
        (r" that the ", r", dass "), (r" whether ", r", ob "), (r" who ", r", (der|die|das) .* (hat|haben|ist|sind)"),
        (r" whom ", r", (dem|der|denen) "), (r"coat that ", r"antel, den "), (r" to pick up ", r" abzuholen"),
        (r" opened ", r" aufgemacht"), (r"(is|are|am) opening ", r" auf[ .]"), (r"kitchen table", r"Küchentisch"),
        (r"-one ", r"einund"), (r" on \d+ \w+ \d{4}", r" am \d+[.] \w+ \d{4}"), (r" on \w+ \d+th", r" am \d+[.] \w+"),
        (r"half past", r"um halb "), (r" on Monday", r"am Montag"), (r" not .* a ", r" keine?n? "),
        (r" not ", r" nicht "), (r"^Why did .*[?]", r"^Warum "),
        (r"^Did ", r"^(Hat|Haben|Ist|Sind|Habe|Hast|Bin|Bist) .*[?]"),
        (r"^Please ", r" bitte .*!"), (r" is under ", r" ist unter (dem|der)"),
        (r" put .* under ", r" unter (den|die|das) .* gele"), (r" to \w+ by train", r"mit dem Zug nach "),
        (r" want(s|ed)? to ", r" (will|wollen|wollte)"), (r"'s ", r"(Annas|Pauls|Emmas|Marias|Karls)"),
        (r" with (his|her|their) ", r" mit (seine|ihre)[rmn] "), (r"older than", r"älter als"),
        (r" was born ", r" wurde am .* geboren"), (r" has lived ", r" wohnt seit "), (r"remember", r"erinner"),
    ],
)  # fmt: skip
def test_every_phenomenon_occurs(sample, english, german):
    assert any(re.search(english, pair[0]) and re.search(german, pair[1]) for pair in sample)


def test_default_corpus_is_large_distinct_and_disjoint(tmp_path: Path):
    write_demo_corpus(tmp_path)
    lines = {name: (tmp_path / name).read_text(encoding="utf-8").splitlines() for name in FILES}
    assert [len(lines[name]) for name in FILES] == [24000, 24000, 500, 500, 500, 500]
    sources = lines["train.en"] + lines["val.en"] + lines["test.en"]
    assert len(set(sources)) == 25000
    assert len(set(zip(lines["train.en"], lines["train.de"], strict=True))) >= 20000


def small(folder: Path, seed: int = 1, train: int = 40) -> dict[str, bytes]:
    write_demo_corpus(folder, seed, train=train, validation=5, test=5)
    return {name: (folder / name).read_bytes() for name in FILES}


def test_seed_decides_every_byte(tmp_path: Path):
    first = small(tmp_path / "a")
    assert small(tmp_path / "b") == first
    assert small(tmp_path / "c", seed=2) != first
    larger = small(tmp_path / "d", train=60)
    assert larger["test.en"] == first["test.en"]
    assert b"\r" not in first["train.en"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted([*FILES, "demo.json"])


def test_complete_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small(tmp_path)
    monkeypatch.setattr(corpus, "_generate", lambda seed, sizes: pytest.fail("generated again"))
    small(tmp_path)


@pytest.mark.parametrize("name", [*FILES, "demo.json"])
def test_damaged_folder_is_made_anew(tmp_path: Path, name: str):
    before = small(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-7])
    assert small(tmp_path) == before
    if name != "demo.json":
        (tmp_path / name).unlink()
        assert small(tmp_path) == before


def test_other_arguments_or_grammar_replace_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert small(tmp_path) != small(tmp_path, seed=2)
    monkeypatch.setattr(corpus, "_grammar_fingerprint", lambda: "newer")
    small(tmp_path)
    assert json.loads((tmp_path / "demo.json").read_text())["grammar"] == "newer"


@pytest.mark.parametrize("after", range(7))
def test_interruption_leaves_whole_files_and_is_repaired(tmp_path: Path, monkeypatch, after: int):
    wanted = small(tmp_path / "whole")
    folder, rename, calls = tmp_path / "cut", os.replace, itertools.count()

    def interrupted(source: str, target: Path) -> None:
        if next(calls) == after:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(folder)
    for path in folder.iterdir():
        assert path.name == "demo.json" or path.read_bytes() == wanted[path.name]
    monkeypatch.setattr(os, "replace", rename)
    assert small(folder) == wanted


@pytest.mark.parametrize("name", ["train.en", "letters.tsv"])
def test_a_folder_of_other_files_is_left_alone(tmp_path: Path, name: str):
    (tmp_path / name).write_text("mine\n")
    with pytest.raises(InputError, match=r"holds other files: .* give --config configs/.*own_text"):
        small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine\n"


def test_hidden_files_do_not_matter(tmp_path: Path):
    (tmp_path / ".encoded").mkdir()
    assert small(tmp_path).keys() == set(FILES)


def test_sizes_must_be_positive(tmp_path: Path):
    with pytest.raises(InputError, match="at least 1 pair in val"):
        write_demo_corpus(tmp_path, validation=0)
