import gzip
import json
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd.codecs.text_lines import read_lines
from lightning_bpd.datamodules.text_files import (
    PairFiles,
    find_pair_files,
    fingerprint,
    read_pairs,
)
from lightning_bpd.interfaces import InputError


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def aligned(folder: Path, source: str | bytes, target: str | bytes, suffix: str = "") -> PairFiles:
    return PairFiles(
        write(folder / f"train.en{suffix}", source), write(folder / f"train.de{suffix}", target), "lines"
    )


def jsonl(folder: Path, *records: object) -> PairFiles:
    text = "".join(json.dumps(record) + "\n" for record in records)
    return PairFiles(write(folder / "train.jsonl", text), None, "jsonl", "en", "de")


# Finding


@pytest.mark.parametrize(
    ("stored", "name", "format_"),
    [
        (["train.en", "train.de"], "train", "lines"),
        (["train.en.gz", "train.de.gz"], "train", "lines"),
        (["train.en", "train.de.gz"], "train", "lines"),
        (["train.v1.en", "train.v1.de"], "train.v1", "lines"),
        (["train.tsv"], "train", "tsv"),
        (["train.tsv.gz"], "train", "tsv"),
        (["train.jsonl"], "train", "jsonl"),
        (["train.jsonl.gz"], "train", "jsonl"),
        (["train.tsv", "train.en", "train.de"], "train.tsv", "tsv"),
        (["train.jsonl.gz", "train.jsonl"], "train.jsonl.gz", "jsonl"),
    ],
)
def test_find_every_way_of_storing(tmp_path, stored: list[str], name: str, format_: str) -> None:
    for file in stored:
        write(tmp_path / file, "a\tb\n")
    [files] = find_pair_files(tmp_path, [name], "en", "de")
    assert files.format == format_
    assert files.source.name == (name if name in stored else stored[0])
    assert files.target == (tmp_path / stored[1] if format_ == "lines" else None)
    if format_ == "jsonl":
        assert (files.source_key, files.target_key) == ("en", "de")


def test_find_several_names_in_order_and_absolute_paths(tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(tmp_path / "a.tsv", "x\ty\n")
    aligned(elsewhere, "x\n", "y\n")
    found = find_pair_files(tmp_path, [str(elsewhere / "train"), "a", "elsewhere/train"], "en", "de")
    assert [files.source for files in found] == [
        elsewhere / "train.en",
        tmp_path / "a.tsv",
        elsewhere / "train.en",
    ]


def test_missing_name_tells_what_was_looked_for_and_what_is_there(tmp_path) -> None:
    aligned(tmp_path, "x\n", "y\n")
    write(tmp_path / "extra.jsonl.gz", "{}\n")
    write(tmp_path / "lonely.en", "x\n")
    with pytest.raises(InputError) as caught:
        find_pair_files(tmp_path, ["tarin"], "en", "de")
    message = str(caught.value)
    assert "no files for 'tarin'" in message
    for looked_for in ("tarin.en, tarin.en.gz", "tarin.de, tarin.de.gz", "tarin.tsv", "tarin.jsonl.gz"):
        assert looked_for in message
    assert message.endswith("the folder holds extra, train")


def test_missing_side_and_empty_folder_and_no_folder(tmp_path) -> None:
    with pytest.raises(InputError, match="the folder holds no pair files for en and de"):
        find_pair_files(tmp_path, ["train"], "en", "de")
    write(tmp_path / "train.en", "x\n")
    with pytest.raises(InputError, match=r"found only one side, train\.en$"):
        find_pair_files(tmp_path, ["train"], "en", "de")
    with pytest.raises(InputError, match="no-folder: there is no such folder"):
        find_pair_files(tmp_path / "no-folder", ["train"], "en", "de")


def test_two_candidates_are_ambiguous(tmp_path) -> None:
    aligned(tmp_path, "x\n", "y\n")
    write(tmp_path / "train.tsv", "x\ty\n")
    with pytest.raises(InputError, match=r"'train' is ambiguous.* train\.en, train\.de; train\.tsv"):
        find_pair_files(tmp_path, ["train"], "en", "de")
    write(tmp_path / "valid.en", "x\n")
    write(tmp_path / "valid.en.gz", "x\n")
    write(tmp_path / "valid.de", "y\n")
    with pytest.raises(InputError, match="'valid' is ambiguous"):
        find_pair_files(tmp_path, ["valid"], "en", "de")


# Reading


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_aligned_lines(tmp_path, suffix: str) -> None:
    files = aligned(tmp_path, "a b\n\n c \nlast", "d\ne\nf\r\ng\n", suffix)
    assert list(read_pairs(files)) == [("a b", "d"), ("", "e"), (" c ", "f"), ("last", "g")]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",))), min_size=1))
def test_only_line_feeds_end_a_line(tmp_path_factory, lines: list[str]) -> None:
    folder = tmp_path_factory.mktemp("lines")
    content = "".join(line + "\n" for line in lines)
    expected = [line.removesuffix("\r") for line in lines]
    expected[0] = lines[0].removeprefix("\ufeff").removesuffix("\r")
    assert list(read_lines(write(folder / "plain", content))) == expected
    assert list(read_lines(write(folder / "packed.gz", content))) == expected


def test_byte_order_mark_is_dropped_only_at_the_start(tmp_path) -> None:
    path = write(tmp_path / "text", "\ufeffone\n\ufefftwo\n")
    assert list(read_lines(path)) == ["one", "\ufefftwo"]


def test_several_gzip_members_are_one_text(tmp_path) -> None:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(b"one\ntw") + gzip.compress(b"o\nthree\n"))
    assert list(read_lines(path)) == ["one", "two", "three"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_different_lengths_are_counted(tmp_path, suffix: str) -> None:
    files = aligned(tmp_path, "x\n" * 290, "y\n" * 289, suffix)
    with pytest.raises(
        InputError, match=rf"train\.en{suffix} has 290 lines and train\.de{suffix} 289; line i"
    ):
        list(read_pairs(files))
    files = aligned(tmp_path, "x\n" * 2, "y\n" * 7, suffix)
    stream = read_pairs(files)
    assert [next(stream), next(stream)] == [("x", "y")] * 2
    with pytest.raises(InputError, match=rf"train\.en{suffix} has 2 lines and train\.de{suffix} 7"):
        next(stream)


def test_empty_files(tmp_path) -> None:
    with pytest.raises(InputError, match=r"train\.de: the file is empty"):
        list(read_pairs(aligned(tmp_path, "x\n", "")))
    with pytest.raises(InputError, match=r"train\.en: the file is empty"):
        list(read_pairs(aligned(tmp_path, "", "x\n")))
    with pytest.raises(InputError, match=r"train\.en\.gz: the file is empty"):
        list(read_pairs(aligned(tmp_path, "", "", ".gz")))
    assert list(read_lines(write(tmp_path / "one-line", "\n"))) == [""]


def test_invalid_utf8_names_line_and_byte(tmp_path) -> None:
    files = aligned(tmp_path, "x\ny\n", b"caf\xc3\xa9\nab\xe9 c\n")
    with pytest.raises(InputError, match=r"train\.de, line 2: invalid UTF-8 at byte 3 .* \(0xe9\)"):
        list(read_pairs(files))


def test_missing_file_and_folder(tmp_path) -> None:
    with pytest.raises(InputError, match="none: there is no such file"):
        list(read_lines(tmp_path / "none"))
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        list(read_lines(tmp_path))


def test_damaged_gzip(tmp_path) -> None:
    path = tmp_path / "text.gz"
    packed = gzip.compress(Random(0).randbytes(3000).hex().encode() + b"\nsecond\n")
    for content in (b"no gzip", packed[:-4], packed[:1000], packed[:100] + bytes(50) + packed[150:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"text\.gz: damaged gzip after line \d+ \(.+\); fetch"):
            list(read_lines(path))


def test_tsv(tmp_path) -> None:
    path = write(tmp_path / "train.tsv.gz", "a b\tc d\r\n\t\nx\ty\n")
    assert list(read_pairs(PairFiles(path, None, "tsv"))) == [("a b", "c d"), ("", ""), ("x", "y")]


@pytest.mark.parametrize(
    ("line", "columns"), [("a", "1 column "), ("a\tb\tc", "3 columns "), ("", "1 column ")]
)
def test_tsv_with_other_columns(tmp_path, line: str, columns: str) -> None:
    path = write(tmp_path / "train.tsv", f"a\tb\n{line}\n")
    with pytest.raises(InputError, match=rf"train\.tsv, line 2: {columns}instead of 2"):
        list(read_pairs(PairFiles(path, None, "tsv")))


def test_jsonl(tmp_path) -> None:
    files = jsonl(tmp_path, {"en": "a", "de": "ä", "id": 5}, {"id": 1, "translation": {"de": "b", "en": "c"}})
    assert list(read_pairs(files)) == [("a", "ä"), ("c", "b")]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"en": "a", "fr": "b"}, r"the key 'de' is missing; the keys are \['en', 'fr'\]"),
        ({"translation": {"de": "a"}}, "the key 'en' is missing"),
        ({"en": "a", "de": 5}, "the value of 'de' is not a string"),
        ({"en": None, "de": "a"}, "the value of 'en' is not a string"),
        ({"en": "a", "de": "\ud800"}, "the value of 'de' holds half of a surrogate pair"),
        (["a", "b"], "not a JSON object; it needs the keys 'en' and 'de'"),
    ],
)
def test_jsonl_with_bad_records(tmp_path, record: object, message: str) -> None:
    files = jsonl(tmp_path, {"en": "a", "de": "b"}, record)
    with pytest.raises(InputError, match=rf"train\.jsonl, line 2: {message}"):
        list(read_pairs(files))


def test_jsonl_with_bad_json(tmp_path) -> None:
    path = write(tmp_path / "train.jsonl", '{"en": "a", "de": "b"}\n{"en": \n')
    with pytest.raises(InputError, match=r"train\.jsonl, line 2: not JSON: Expecting value at character 8"):
        list(read_pairs(PairFiles(path, None, "jsonl", "en", "de")))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_stored_byte_is_reported(tmp_path, suffix: str) -> None:
    files = aligned(tmp_path, "x y\n" * 1000, "z\n" * 1000, suffix)
    counts: list[int] = []
    assert len(list(read_pairs(files, counts.append))) == 1000
    assert sum(counts) == sum(path.stat().st_size for path in files.paths)


# Fingerprint


def test_fingerprint_is_of_content_only(tmp_path) -> None:
    files = aligned(tmp_path, "a\n", "b\n")
    first = fingerprint([files])
    os.utime(files.source, (0, 0))
    other = tmp_path / "other"
    other.mkdir()
    assert fingerprint([files]) == fingerprint([aligned(other, "a\n", "b\n")]) == first
    assert fingerprint([aligned(other, "b\n", "a\n")]) != first
    assert fingerprint([aligned(other, "a\nb\n", "")]) != first
    assert fingerprint([files, files]) != first


def test_fingerprint_depends_on_how_the_file_is_read(tmp_path) -> None:
    path = write(tmp_path / "text", "same\n")
    ways = [
        PairFiles(path, None, "tsv"),
        PairFiles(path, None, "jsonl", "en", "de"),
        PairFiles(path, None, "jsonl", "de", "en"),
        PairFiles(path, path, "lines"),
    ]
    assert len({fingerprint([way]) for way in ways}) == len(ways)


def test_fingerprint_of_a_missing_file(tmp_path) -> None:
    with pytest.raises(InputError, match="none: the file cannot be read"):
        fingerprint([PairFiles(tmp_path / "none", None, "tsv")])
