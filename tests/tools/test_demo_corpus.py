import gzip
import itertools
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tools.demo_corpus.__main__ import SHIPPED
from tools.demo_corpus.corpus import as_tsv, compress, generate
from tools.demo_corpus.sentences import sentence_pairs

REPOSITORY = Path(__file__).parents[2]


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


@pytest.fixture(scope="module")
def parts():
    return generate()


def test_generator_gives_the_shipped_file_to_the_byte(parts):
    content = as_tsv(list(itertools.chain(*parts.values())))
    assert list(parts) == ["test", "val", "train"]
    assert gzip.decompress(SHIPPED.read_bytes()) == content
    assert SHIPPED.stat().st_size < 1_000_000
    # zlib-ng compresses the same text to other bytes.
    if "ng" not in zlib.ZLIB_RUNTIME_VERSION:
        assert compress(content) == SHIPPED.read_bytes()


def test_shipped_corpus_is_large_distinct_and_disjoint(parts):
    assert {name: len(part) for name, part in parts.items()} == {"test": 500, "val": 500, "train": 24_000}
    assert len({english for part in parts.values() for english, _ in part}) == 25_000
    germans = {name: {german for _, german in part} for name, part in parts.items()}
    assert len(germans["train"]) >= 20_000
    for name in ("val", "test"):
        assert not germans[name] & germans["train"]


def test_seed_decides_every_pair_and_train_comes_last():
    first = generate(seed=5, train=40, val=5, test=5)
    assert generate(seed=5, train=40, val=5, test=5) == first
    assert generate(seed=6, train=40, val=5, test=5) != first
    larger = generate(seed=5, train=60, val=5, test=5)
    assert (larger["test"], larger["val"], larger["train"][:40]) == tuple(first.values())


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="val needs at least 1 pair"):
        generate(val=0)


def test_another_corpus_is_written_for_parallel_text(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tools.demo_corpus",
        str(tmp_path),
        "--seed",
        "2",
        "--train",
        "30",
        "--val",
        "5",
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    lines = {path.name: path.read_text(encoding="utf-8").splitlines() for path in tmp_path.iterdir()}
    assert {name: len(part) for name, part in lines.items()} == {
        "train.tsv": 30,
        "val.tsv": 5,
        "test.tsv": 500,
    }
    assert all(line.count("\t") == 1 for part in lines.values() for line in part)


def test_a_part_of_another_corpus_needs_a_folder():
    command = [sys.executable, "-m", "tools.demo_corpus", "--seed", "2"]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "another corpus needs a FOLDER" in done.stderr
