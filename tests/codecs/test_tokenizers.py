import copy
import io
import pickle

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd.codecs import tokenizers as text
from lightning_bpd.codecs.tokenizers import Tokenizer, train_tokenizer
from lightning_bpd.interfaces import InputError

LINES = [
    f"The {adjective} {noun} sees {number} small houses – übermäßig schön, nicht wahr?"
    for adjective in ("old", "young", "quiet", "loud")
    for noun in ("man", "woman", "dog", "Hund", "Straßenbahn")
    for number in range(10)
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(LINES, 400)


def foreign_model(**settings: object) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        vocab_size=100,
        model_type="bpe",
        minloglevel=2,
        **settings,
    )
    return model.getvalue()


# Without control characters and line separators (those are spelled as bytes but come back as spaces), lone
# surrogates, and the character that SentencePiece itself uses for the space.
ORDINARY = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="▁"))


@settings(deadline=None)
@given(st.lists(ORDINARY))
def test_any_ordinary_text_comes_back_unchanged(tokenizer: Tokenizer, lines: list[str]) -> None:
    assert tokenizer.decode(tokenizer.encode(lines)) == lines


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_decoded_text_is_always_one_line(tokenizer: Tokenizer, line: str) -> None:
    [decoded] = tokenizer.decode(tokenizer.encode([line]))
    assert len(decoded.splitlines()) <= 1


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 399))))
def test_any_ids_decode_to_one_line_a_row(tokenizer: Tokenizer, rows: list[list[int]]) -> None:
    decoded = tokenizer.decode(rows)
    assert len(decoded) == len(rows)
    assert all(len(line.splitlines()) <= 1 and not line.endswith(("\n", "\r")) for line in decoded)


def test_line_breaks_become_one_space_each(tokenizer: Tokenizer) -> None:
    broken = "a\nb\rc\r\nd\u2028e\x85f"
    assert tokenizer.decode(tokenizer.encode([broken])) == ["a b c d e f"]


def test_special_ids_and_pieces(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (2, 3, 400)
    [row] = tokenizer.encode(["The old man"])
    assert not {0, 1, 2, 3} & set(row)
    assert tokenizer.decode([[2, *row, 3, 0, 0], [3], []]) == ["The old man", "", ""]


def test_names_of_special_pieces_in_text_are_ordinary_text(tokenizer: Tokenizer) -> None:
    [row] = tokenizer.encode(["<s> </s> <pad> <0x0A>"])
    assert not {0, 1, 2, 3} & set(row)
    assert tokenizer.decode([row]) == ["<s> </s> <pad> <0x0A>"]


def test_empty_batches_and_lines(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([]) == []
    assert tokenizer.encode(["", "a"])[0] == []
    assert tokenizer.decode([]) == []


def test_half_a_surrogate_pair_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(TypeError):
        tokenizer.encode(["a", "b\ud800"])


def test_an_id_outside_the_vocabulary_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(IndexError):
        tokenizer.decode([[400]])


def test_without_byte_fallback_unseen_characters_are_unknown() -> None:
    tokenizer = train_tokenizer(LINES, 150, byte_fallback=False)
    assert tokenizer.encode(["日"])[0][-1] == 1
    assert "日" not in tokenizer.decode(tokenizer.encode(["日"]))[0]


def test_copies_and_files_are_the_same_tokenizer(tokenizer: Tokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path / "tokenizer.model")
    copies = [
        pickle.loads(pickle.dumps(tokenizer)),
        copy.deepcopy(tokenizer),
        Tokenizer.load(tmp_path / "tokenizer.model"),
        Tokenizer.load(str(tmp_path / "tokenizer.model")),
    ]
    for other in copies:
        assert other.fingerprint == tokenizer.fingerprint
        assert other.encode(LINES) == tokenizer.encode(LINES)


def test_same_lines_give_the_same_bytes(tokenizer: Tokenizer) -> None:
    again = train_tokenizer(iter(LINES), 400)
    assert again.content == tokenizer.content
    assert len(again.fingerprint) == 16
    assert train_tokenizer(LINES[:-1], 400).fingerprint != tokenizer.fingerprint


def test_threads_do_not_change_the_tokens(tokenizer: Tokenizer) -> None:
    assert train_tokenizer(LINES, 400, threads=1).encode(LINES) == tokenizer.encode(LINES)


def test_long_text_is_sampled_and_reproducible(monkeypatch) -> None:
    monkeypatch.setattr(text, "_SAMPLED_LINES", 50)
    first, second = train_tokenizer(LINES, 330), train_tokenizer(LINES, 330)
    assert first.content == second.content
    monkeypatch.setattr(text, "_SAMPLED_LINES", 2_000_000)
    assert first.content != train_tokenizer(LINES, 330).content


def test_sample_is_even() -> None:
    counts = [0] * 100
    sample = text._sample((str(number) for number in range(100)), 10)
    assert len(set(sample)) == 10
    assert text._sample(iter("abc"), 10) == ["a", "b", "c"]
    large = [int(line) for line in text._sample(map(str, range(100_000)), 2_000)]
    for number in large:
        counts[number // 1_000] += 1
    assert max(counts) < 50  # 20 expected in each of the 100 stretches
    assert min(counts) > 3


def test_too_large_a_vocabulary_names_the_largest_that_works() -> None:
    with pytest.raises(InputError, match=r"of 9000 is more .* largest that works is (\d+)") as caught:
        train_tokenizer(LINES, 9000)
    largest = int(str(caught.value).split()[-1])
    assert train_tokenizer(LINES, largest).vocab_size == largest


@pytest.mark.parametrize("vocab_size", [-1, 0, 4, 100])
def test_too_small_a_vocabulary_names_the_smallest_that_works(vocab_size: int) -> None:
    with pytest.raises(InputError, match=rf"of {vocab_size} is too small .* at least (\d+)") as caught:
        train_tokenizer(LINES, vocab_size)
    smallest = int(str(caught.value).split()[-1])
    assert train_tokenizer(LINES, smallest).vocab_size == smallest


def test_no_text_to_train_on() -> None:
    with pytest.raises(InputError, match="no text to train a tokenizer on"):
        train_tokenizer([], 400)


def test_an_error_in_reading_the_lines_stays_itself() -> None:
    def lines():
        yield "one line"
        raise InputError("corpus.en, line 2: invalid UTF-8")

    with pytest.raises(InputError, match=r"corpus\.en, line 2"):
        train_tokenizer(lines(), 400)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"Ein Text.\n"])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, content: bytes) -> None:
    path = tmp_path / "some.model"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"some\.model: not a SentencePiece model"):
        Tokenizer.load(path)


def test_a_cut_model_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="not a SentencePiece model"):
        Tokenizer(tokenizer.content[:1000])


def test_missing_and_unreadable_files_are_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"none\.model: there is no such tokenizer file"):
        Tokenizer.load(tmp_path / "none.model")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        Tokenizer.load(tmp_path)


def test_a_model_without_an_end_token_is_refused_by_name(tmp_path) -> None:
    path = tmp_path / "endless.model"
    path.write_bytes(foreign_model(eos_id=-1))
    with pytest.raises(InputError, match=r"endless\.model: .* no end token; train it with"):
        Tokenizer.load(path)


def test_a_model_without_a_start_token_starts_with_its_end_token() -> None:
    tokenizer = Tokenizer(foreign_model(bos_id=-1))
    assert tokenizer.bos_id == tokenizer.eos_id == 2
    [row] = tokenizer.encode(["the old dog"])
    assert tokenizer.decode([[tokenizer.bos_id, *row, tokenizer.eos_id]]) == ["the old dog"]
