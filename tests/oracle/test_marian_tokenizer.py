"""Marian's tokenizer of our own = transformers' MarianTokenizer."""

import io
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")
import sentencepiece
from marian_folders import ENGLISH, GERMAN, LANGUAGE, vocabulary, write_tokenizer

from lightning_bpd.codecs.marian_tokenizer import MarianPieces, MarianTokenizer
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.marian import read_codec

LINES = [
    *ENGLISH[:40],
    *GERMAN[:40],
    "",
    "   ",
    "\t",
    "▁",
    "two  spaces , and a tail  ",
    "unknown: 漢字 µ\U0001f600 x",
    f"{LANGUAGE} The dog",
    f"{LANGUAGE}The dog",
    LANGUAGE,
    f"{LANGUAGE}{LANGUAGE} twice",
    ">>xyz<< a language that is not known",
    ">><< none at all",
    ">>no end",
    f" {LANGUAGE} after a space",
    f"The dog {LANGUAGE} inside",
    "ﬁrst ½ Ｆｕｌｌ width",
    "a\nb\rc\u2028d",
    "<s> <0x0A>",
    "word " * 300,
]


@pytest.fixture(scope="module", params=["shared", "separate"])
def both(request, tmp_path_factory):
    """transformers' tokenizer and ours."""
    folder = tmp_path_factory.mktemp("tokenizer")
    theirs = write_tokenizer(folder, separate=request.param == "separate")
    return theirs, read_codec(folder)


def their_rows(tokenizer, lines, side):
    rows = tokenizer(**{"text" if side == "source" else "text_target": lines})["input_ids"]
    assert all(row[-1] == tokenizer.eos_token_id for row in rows)
    return [row[:-1] for row in rows]


@pytest.mark.parametrize("side", ["source", "target"])
def test_encoding(both, side):
    theirs, codec = both
    ours = codec.sides[side]
    rows = ours.encode(LINES)
    assert rows == their_rows(theirs, LINES, side)
    assert (ours.eos_id, ours.suffix, ours.prefix) == (theirs.eos_token_id, (theirs.eos_token_id,), ())
    unknown = theirs.unk_token_id
    assert sum(unknown in row for row in rows) > 5
    assert rows[LINES.index("")] == rows[LINES.index("   ")] == []
    assert ours.encode([]) == []
    assert ours.vocab_size == len(vocabulary(*([side] if theirs.separate_vocabs else ["source", "target"])))
    assert ours.bos_id == ours.vocab_size - 1


@pytest.mark.parametrize("side", ["source", "target"])
@settings(deadline=None, max_examples=150)
@given(line=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")))
def test_any_text(both, side, line):
    theirs, codec = both
    # The names of special tokens are no text to transformers.
    if not any(name in line for name in ("</s>", "<unk>", "<pad>")):
        assert codec.sides[side].encode([line]) == their_rows(theirs, [line], side)


def test_decoding(both):
    theirs, codec = both
    rows = codec.target.encode([line for line in LINES if len(line.splitlines()) < 2])
    padded = [[codec.target.bos_id, *row, codec.target.eos_id, codec.target.bos_id] for row in rows]
    wanted = theirs.batch_decode(rows, skip_special_tokens=True)
    assert codec.decode(rows) == codec.decode(padded) == wanted
    assert codec.decode([[], [codec.target.eos_id]]) == ["", ""]
    # Some pieces are not in the vocabulary, most are.
    assert 5 < sum(text == line for text, line in zip(wanted[40:80], GERMAN[:40], strict=True)) < 40


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_tokens(both, data):
    theirs, codec = both
    row = data.draw(st.lists(st.integers(0, codec.target.vocab_size - 1)))
    assert codec.decode([row]) == theirs.batch_decode([row], skip_special_tokens=True)


def test_cleaning_up(tmp_path):
    theirs = write_tokenizer(tmp_path, clean_up_tokenization_spaces=True)
    codec = read_codec(tmp_path)
    rows = codec.target.encode(["Der Hund , sagt er , is n't there . Ja ! Wo ? I 'm a 's b ' c 've 're"])
    found = codec.decode(rows)
    assert found == theirs.batch_decode(rows, skip_special_tokens=True)
    assert " ," not in found[0]


def test_names_of_special_pieces_in_text_are_ordinary_text(both):
    _, codec = both
    [row] = codec.target.encode(["a </s> b <pad> c"])
    assert not {codec.target.eos_id, codec.target.bos_id} & set(row)


def test_bytes_and_files(both, tmp_path):
    _, codec = both
    rows = codec.source.encode(LINES)
    config = codec.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.marian.json", "target.marian.json"]
    others = [
        TextCodec.read(tmp_path, config),
        TextCodec.from_description(codec.describe()),
        pickle.loads(pickle.dumps(codec)),
    ]
    for other in others:
        assert other.parts() == codec.parts()
        assert other.source.encode(LINES) == rows
        assert other.decode(rows[:3]) == codec.decode(rows[:3])
    assert codec.source.fingerprint != codec.target.fingerprint


def byte_spelling_model():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH), model_writer=model, vocab_size=400, byte_fallback=True, model_type="bpe",
        minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def test_rows_are_one_line_and_ids_are_known():
    model = byte_spelling_model()
    made_of = MarianPieces(model, ("</s>", "<unk>", "▁a", "<0x0A>", "<pad>"))
    tokenizer = MarianTokenizer(made_of)
    assert tokenizer.decode([[2, 3, 2]]) == ["a  a"]
    with pytest.raises(IndexError):
        tokenizer.decode([[5]])


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (("<unk>", "<pad>"), "no end piece '</s>'"),
        (("</s>", "<pad>"), "no unknown piece '<unk>'"),
        (("</s>", "<unk>"), "no padding piece '<pad>'"),
    ],
)
def test_special_pieces_must_be_there(pieces, message):
    with pytest.raises(InputError, match=message):
        MarianTokenizer(MarianPieces(byte_spelling_model(), pieces))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"pieces": []}', b'{"sentencepiece": "?", "pieces": []}']
)
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "source.marian.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"source\.marian\.json: not a Marian tokenizer"):
        MarianTokenizer.load(path)
    with pytest.raises(InputError, match=r"none\.marian\.json: there is no such tokenizer file"):
        MarianTokenizer.load(tmp_path / "none.marian.json")
