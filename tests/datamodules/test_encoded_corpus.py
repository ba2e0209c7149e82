import copy
import logging
import os
import pickle
import re
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd import progress
from lightning_bpd.codecs.tokenizers import Tokenizer, train_tokenizer
from lightning_bpd.datamodules import encoded_corpus
from lightning_bpd.datamodules.encoded_corpus import EncodedCorpus, RaggedRows, encode_corpus
from lightning_bpd.datamodules.text_files import PairFiles
from lightning_bpd.interfaces import InputError

PAIRS = [
    (f"the {noun} sees {number} houses", f"der {noun} sieht {number} Häuser " + "sehr " * (number % 4))
    for noun in ("man", "dog", "cat")
    for number in range(40)
]


@pytest.fixture(scope="module")
def english() -> Tokenizer:
    return train_tokenizer([source for source, _ in PAIRS], 320)


@pytest.fixture(scope="module")
def german() -> Tokenizer:
    return train_tokenizer([target for _, target in PAIRS], 320)


@pytest.fixture
def encode(tmp_path, english, german) -> Callable[..., EncodedCorpus]:
    def encode(*files: PairFiles, max_length: int = 100, drop: bool = True) -> EncodedCorpus:
        return encode_corpus(files, english, german, tmp_path / "cache", max_length, drop, "train")

    return encode


def stored(folder: Path, pairs: list[tuple[str, str]]) -> PairFiles:
    folder.mkdir(exist_ok=True)
    for side, language in enumerate(("en", "de")):
        text = "".join(pair[side] + "\n" for pair in pairs)
        (folder / f"train.{language}").write_text(text, encoding="utf-8", newline="")
    return PairFiles(folder / "train.en", folder / "train.de", "lines")


def no_encoding(*_: object) -> None:
    raise AssertionError("the corpus was encoded again")


def cached_names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").iterdir())


# What is stored


def test_every_row_is_the_encoded_text_and_the_end_token(
    tmp_path, encode, english, german, monkeypatch
) -> None:
    monkeypatch.setattr(encoded_corpus, "_CHUNK_PAIRS", 7)
    corpus = encode(stored(tmp_path, PAIRS))
    assert len(corpus) == len(corpus.source) == len(corpus.target) == len(PAIRS)
    assert corpus.row_numbers.tolist() == list(range(len(PAIRS)))
    for row, (source, target) in enumerate(PAIRS):
        assert corpus.source[row].tolist() == [*english.encode([source])[0], english.eos_id]
        assert corpus.target[row].tolist() == [*german.encode([target])[0], german.eos_id]
    assert corpus.target.lengths.tolist() == [len(corpus.target[row]) for row in range(len(corpus))]
    assert isinstance(corpus.source.tokens, np.memmap)
    assert corpus.source.tokens.dtype == np.uint16
    assert corpus.source.offsets.dtype == corpus.row_numbers.dtype == corpus.source.lengths.dtype == np.int64


TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="▁"))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1), st.integers(1, 5))
def test_kept_rows_decode_to_their_text(english, german, tmp_path_factory, pairs, chunk) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    pairs = [("the man", "der man"), *pairs]  # something is always left
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded_corpus, "_CHUNK_PAIRS", chunk)
        corpus = encode_corpus([stored(folder, pairs)], english, german, folder / "cache", 40, True, "train")
    rows = corpus.row_numbers.tolist()
    assert english.decode(list(corpus.source)) == [pairs[row][0] for row in rows]
    assert german.decode(list(corpus.target)) == [pairs[row][1] for row in rows]
    assert len(corpus) + corpus.dropped_empty + corpus.dropped_long == len(pairs)
    for row in set(range(len(pairs))) - set(rows):
        texts = pairs[row]
        lengths = len(english.encode([texts[0]])[0]), len(german.encode([texts[1]])[0])
        assert max(lengths) + 1 > 40 or not all(text.strip() for text in texts)


def test_several_files_are_one_corpus(tmp_path, encode) -> None:
    first, second = stored(tmp_path / "1", PAIRS[:30]), stored(tmp_path / "2", PAIRS[30:])
    parts, whole = encode(first, second), encode(stored(tmp_path / "3", PAIRS))
    assert parts.source.tokens.tolist() == whole.source.tokens.tolist()
    assert parts.target.offsets.tolist() == whole.target.offsets.tolist()
    assert encode(second, first).source.tokens.tolist() != whole.source.tokens.tolist()


def test_training_drops_and_counts(tmp_path, encode, caplog) -> None:
    long = "the man " * 50
    pairs = [
        *PAIRS[:2],
        ("", "der man"),
        ("the man", " \u3000"),
        (long, "a"),
        ("a", long),
        (long, ""),
        PAIRS[2],
    ]
    with caplog.at_level(logging.INFO):
        corpus = encode(stored(tmp_path, pairs), max_length=50)
    assert corpus.row_numbers.tolist() == [0, 1, 7]
    assert (corpus.dropped_empty, corpus.dropped_long, corpus.shortened) == (3, 2, 0)
    assert caplog.messages == ["train: 3 pairs, 3 empty and 2 longer than 50 tokens dropped"]


def test_the_largest_length_counts_the_end_token(tmp_path, encode, english) -> None:
    pairs = [("the man", "a"), ("the man sees", "a")]
    limit = len(english.encode(["the man"])[0]) + 1
    corpus = encode(stored(tmp_path, pairs), max_length=limit)
    assert corpus.row_numbers.tolist() == [0]
    assert corpus.source.lengths.tolist() == [limit]


def test_validation_keeps_every_pair(tmp_path, encode, english, german, caplog) -> None:
    long = "the man " * 50
    pairs = [(" \t", "der man"), (long, "a"), ("a", ""), (long, long)]
    with caplog.at_level(logging.INFO):
        corpus = encode(stored(tmp_path, pairs), max_length=20, drop=False)
    assert corpus.row_numbers.tolist() == [0, 1, 2, 3]
    assert (corpus.dropped_empty, corpus.dropped_long, corpus.shortened) == (0, 0, 2)
    assert corpus.source[0].tolist() == [english.eos_id]
    assert corpus.target[2].tolist() == [german.eos_id]
    assert corpus.source[1].tolist() == [*english.encode([long])[0][:19], english.eos_id]
    assert corpus.target.lengths.max() == 20
    assert caplog.messages == ["train: 4 pairs, 2 longer than 20 tokens cut"]


def test_large_vocabularies_are_stored_wider(tmp_path, english) -> None:
    def fake(vocab_size: int) -> SimpleNamespace:
        return SimpleNamespace(
            vocab_size=vocab_size,
            prefix=(),
            suffix=(vocab_size - 1,),
            keeps_end=False,
            fingerprint=str(vocab_size),
            encode=lambda lines: [[vocab_size - 2] for _ in lines],
        )

    files = [stored(tmp_path, PAIRS[:3])]
    corpus = encode_corpus(files, fake(65536), fake(65537), tmp_path / "cache", 9, True, "train")
    assert (corpus.source.tokens.dtype, corpus.target.tokens.dtype) == (np.uint16, np.int32)
    assert corpus.source[1].tolist() == [65534, 65535]
    assert corpus.target[2].tolist() == [65535, 65536]


def test_rows_outside_are_an_index_error(tmp_path, encode) -> None:
    corpus = encode(stored(tmp_path, PAIRS[:5]))
    assert [row.tolist() for row in corpus.source] == [corpus.source[row].tolist() for row in range(5)]
    for row in (-1, 5):
        with pytest.raises(IndexError):
            corpus.source[row]


def test_copies_map_the_same_files(tmp_path, encode) -> None:
    corpus = encode(stored(tmp_path, PAIRS))
    packed = pickle.dumps(corpus.source)
    assert len(packed) < 1000
    for other in (pickle.loads(packed), copy.deepcopy(corpus).source):
        assert isinstance(other.tokens, np.memmap)
        assert other.tokens.tolist() == corpus.source.tokens.tolist()
        assert other[3].tolist() == corpus.source[3].tolist()
    in_memory = RaggedRows(np.array([5, 6, 7]), np.array([0, 1, 3]))
    assert [row.tolist() for row in pickle.loads(pickle.dumps(in_memory))] == [[5], [6, 7]]


# The cache


def test_a_second_call_only_maps(tmp_path, encode, monkeypatch, caplog) -> None:
    files = stored(tmp_path, [*PAIRS, ("", "")])
    first = encode(files)
    monkeypatch.setattr(encoded_corpus, "_encode", no_encoding)
    os.utime(files.source, (0, 0))
    with caplog.at_level(logging.INFO):
        second = encode(files)
    assert second.source.tokens.tolist() == first.source.tokens.tolist()
    assert second.dropped_empty == 1
    assert caplog.messages == ["train: 120 pairs, 1 empty and 0 longer than 100 tokens dropped"]
    moved = stored(tmp_path / "moved", [*PAIRS, ("", "")])
    assert len(encode(moved)) == len(first)


def test_a_changed_byte_is_encoded_again(tmp_path, encode) -> None:
    files = stored(tmp_path, PAIRS)
    before = encode(files)
    content = files.source.read_bytes()
    files.source.write_bytes(content.replace(b"man", b"men", 1))
    after = encode(files)
    assert len(cached_names(tmp_path)) == 2
    assert after.source[0].tolist() != before.source[0].tolist()
    assert after.target.tokens.tolist() == before.target.tokens.tolist()


def test_settings_and_tokenizers_have_entries_of_their_own(tmp_path, encode, english, german) -> None:
    files = stored(tmp_path, PAIRS)
    encode(files)
    encode(files, max_length=99)
    encode(files, drop=False)
    encode_corpus([files], german, english, tmp_path / "cache", 100, True, "train")
    assert len(cached_names(tmp_path)) == 4


def fail_in_second_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = encoded_corpus._encode_texts, []

    def failing(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
        calls.append(texts)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return original(texts, tokenizer)

    monkeypatch.setattr(encoded_corpus, "_CHUNK_PAIRS", 50)
    monkeypatch.setattr(encoded_corpus, "_encode_texts", failing)


def test_an_interruption_leaves_nothing(tmp_path, encode) -> None:
    files = stored(tmp_path, PAIRS)
    with pytest.MonkeyPatch.context() as patch:
        fail_in_second_chunk(patch)
        with pytest.raises(KeyboardInterrupt):
            encode(files)
    assert cached_names(tmp_path) == []
    assert len(encode(files)) == len(PAIRS)


def test_what_a_killed_process_leaves_is_not_taken_for_a_corpus(tmp_path, encode) -> None:
    files = stored(tmp_path, PAIRS)
    with pytest.MonkeyPatch.context() as patch:
        fail_in_second_chunk(patch)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process does not clean up
        with pytest.raises(KeyboardInterrupt):
            encode(files)
    [left] = cached_names(tmp_path)
    assert left.endswith(".partial")
    assert len(encode(files)) == len(PAIRS)


def test_two_processes_at_once(tmp_path, encode, monkeypatch) -> None:
    files = stored(tmp_path, PAIRS)
    original = encoded_corpus._encode

    def overtaken(*arguments: object) -> None:
        original(*arguments)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoded_corpus, "_encode", original)
            encode(files)

    monkeypatch.setattr(encoded_corpus, "_encode", overtaken)
    assert len(encode(files)) == len(PAIRS)
    assert len(cached_names(tmp_path)) == 1


@pytest.mark.parametrize("file", ["source.tokens", "target.offsets", "row_numbers", "about.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_cache_is_named(tmp_path, encode, file: str, damage: str) -> None:
    files = stored(tmp_path, PAIRS)
    encode(files)
    [name] = cached_names(tmp_path)
    path = tmp_path / "cache" / name / file
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-16])
    else:
        path.unlink()
    with pytest.raises(InputError, match=rf"{name}.* delete"):
        encode(files)


# Errors, progress, memory


def test_nothing_left_is_an_error(tmp_path, encode) -> None:
    files = stored(tmp_path, [("", "a"), ("the man " * 50, "b")])
    with pytest.raises(
        InputError,
        match=r"train: no pair is left of train\.en, train\.de: 1 empty and 1 longer than 20 tokens were dropped",
    ):
        encode(files, max_length=20)
    assert cached_names(tmp_path) == []


def test_errors_of_the_files_pass_through(tmp_path, encode) -> None:
    files = stored(tmp_path, PAIRS)
    files.source.write_bytes(files.source.read_bytes() + b"one more\n")
    with pytest.raises(InputError, match=r"train\.en has 121 lines and train\.de 120"):
        encode(files)
    assert cached_names(tmp_path) == []


def test_bad_settings(tmp_path, encode) -> None:
    files = stored(tmp_path, PAIRS)
    with pytest.raises(InputError, match="max_length is 1"):
        encode(files, max_length=1)
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(InputError, match="the cache folder cannot be written"):
        encode(files)


def test_progress_is_logged_away_from_a_terminal(tmp_path, encode, monkeypatch, caplog) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOGS", 0.0)
    with caplog.at_level(logging.INFO):
        encode(stored(tmp_path, PAIRS))
    *_, last, _ = caplog.messages
    assert re.fullmatch(r"Encoding train: ([\d,]+) of \1 bytes, [\d.]+ bytes/s, 0 min left", last)


def test_progress_bar_on_a_terminal(tmp_path, encode, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    encode(stored(tmp_path, PAIRS))
    shown = capsys.readouterr().err
    assert "Encoding train" in shown
    assert "bytes/s" in shown


def test_memory_does_not_grow_with_the_corpus(tmp_path, encode, monkeypatch) -> None:
    monkeypatch.setattr(encoded_corpus, "_CHUNK_PAIRS", 500)
    encode(stored(tmp_path / "first", PAIRS))  # imports and caches

    def peak(pairs: int) -> int:
        files = stored(tmp_path / str(pairs), [PAIRS[number % len(PAIRS)] for number in range(pairs)])
        tracemalloc.start()
        try:
            assert len(encode(files)) == pairs
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(3_000), peak(30_000)
    # Nothing but the buffers of the files may differ; the encoded corpus itself takes 2 MB more.
    assert large < small + 500_000
