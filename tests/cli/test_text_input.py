"""Every command reads text by the same rules, from every kind of source."""

import bz2
import gzip
import io
import lzma
import os
import sys
import threading
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

from lightning_bpd.cli import certify, compare, distill, translate
from lightning_bpd.codecs import text_lines
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.text_lines import read_lines
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.datamodules import ParallelText
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.finished_model import GenerativeModel

TEXT = ["a b", "", "c\u2028d\x85e\x0bf\x0cg\x1ch", "i\rj", "k\0l", "für 你好 \U0001f600", "last"]
PLAIN = "".join(f"{line}\n" for line in TEXT).encode()
TOKENIZER = train_tokenizer([*TEXT, "a b c d e f g h i j k l"], 290)
FORMS = {
    "line feeds": PLAIN,
    "carriage returns and line feeds": PLAIN.replace(b"\n", b"\r\n"),
    "both": PLAIN.replace(b"\n", b"\r\n", 2),
    "no line feed at the end": PLAIN[:-1],
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "gzip": gzip.compress(PLAIN),
    "two gzip members": gzip.compress(PLAIN[:9]) + gzip.compress(PLAIN[9:]),
    "xz": lzma.compress(PLAIN),
    "bzip2": bz2.compress(PLAIN),
    "bzip2 with a byte order mark": bz2.compress(b"\xef\xbb\xbf" + PLAIN.replace(b"\n", b"\r\n")),
}
DAMAGED = {
    "latin": ("ab\nfür\n".encode("latin-1"), "{}, line 2: invalid UTF-8 at byte 2"),
    "utf-16": ("ab\n".encode("utf-16"), "{}, line 1: this is UTF-16; convert it"),
    "utf-16-be": (b"\xfe\xff" + "ab\n".encode("utf-16-be"), "{}, line 1: this is UTF-16; convert it"),
    "utf-32": ("ab\n".encode("utf-32"), "{}, line 1: this is UTF-32; convert it"),
    "gzip": (gzip.compress(PLAIN)[:-9], "{}: damaged gzip after line"),
    "xz": (lzma.compress(PLAIN)[:-9], "{}: damaged xz after line"),
    "bzip2": (bz2.compress(PLAIN)[:-9], "{}: damaged bzip2 after line"),
}


class StoppedError(Exception):
    """The text has been read."""


@contextmanager
def feeding(descriptor, content):
    """Another thread writes, a few bytes at a time, so that no read gets all that it asks for."""

    def feed():
        with suppress(BrokenPipeError), open(descriptor, "wb", buffering=0) as pipe:
            for first in range(0, len(content), 3):
                pipe.write(content[first : first + 3])

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    yield
    thread.join(timeout=60)
    assert not thread.is_alive()


@contextmanager
def source(kind, content, tmp_path, monkeypatch):
    """The path of a source of some kind that gives ``content``."""
    if kind == "file":
        (tmp_path / "text").write_bytes(content)
        yield str(tmp_path / "text")
    elif kind == "named pipe":
        os.mkfifo(tmp_path / "pipe")
        with feeding(tmp_path / "pipe", content):
            yield str(tmp_path / "pipe")
    else:
        reading, writing = os.pipe()
        with open(reading, "rb") as stream, feeding(writing, content):
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
            yield "-" if kind == "standard input" else f"/dev/fd/{reading}"


def read_by_translate(path, tmp_path, monkeypatch):
    read = []
    model = SimpleNamespace(
        compiling=lambda options, *_: options,
        translate=lambda chunk, *_, **__: read.extend(chunk) or chunk,
    )
    monkeypatch.setattr(translate, "load", lambda *_: model)
    translate.translate("model", path, str(tmp_path / "out"), device="cpu")
    assert (tmp_path / "out").read_bytes() == "".join(f"{line}\n" for line in read).encode()
    return read


def read_by_certify(path, tmp_path, monkeypatch):
    read = []
    model = SimpleNamespace(
        drafter=SimpleNamespace(block_size=2), batches=lambda chunk, _: read.extend(chunk) or ()
    )
    monkeypatch.setattr(certify, "load", lambda *_: model)
    certify.certify("model", path, device="cpu")
    return read


def read_by_distill(path, tmp_path, monkeypatch):
    """All that it does with the corpus before it decodes: it is hashed, counted, looked at, encoded."""
    read = []
    model = GenerativeModel(SimpleNamespace(longest_source=None), TextCodec(TOKENIZER, TOKENIZER))
    monkeypatch.setattr(distill.finished_model, "read_folder", lambda _: model)
    monkeypatch.setattr(distill.finished_model, "fingerprint", lambda _: "0")
    monkeypatch.setattr(distill, "make_parts", lambda *_: None)
    missing = iter([[0], []])
    monkeypatch.setattr(distill, "missing_parts", lambda *_: next(missing))

    def assembled(_folder, _job, sources, *_):
        read.extend(sources)
        raise StoppedError

    monkeypatch.setattr(distill, "assemble", assembled)
    with pytest.raises(StoppedError):
        distill.distill("teacher", path, str(tmp_path / "out"), device="cpu", processes=1)
    return read


def read_by_compare(path, tmp_path, monkeypatch):
    pairs = []

    def measured(_, sources, references, *others, **settings):
        pairs.extend(zip(sources, references, strict=True))
        raise StoppedError

    codec = TextCodec(TOKENIZER, TOKENIZER)
    network = EncoderDecoder(Architecture(8, 2, 1, 1, 8), TOKENIZER.vocab_size, TOKENIZER.vocab_size, 2, 3)
    monkeypatch.setattr(compare, "read_base", lambda _: GenerativeModel(network, codec))
    monkeypatch.setattr(compare, "compare_decoders", measured)
    with pytest.raises(StoppedError):
        compare.compare("model", path, output=str(tmp_path / "out"), device="cpu")
    return [f"{first}\t{second}" for first, second in pairs]


def read_by_fit(path, tmp_path, monkeypatch):
    """The training and the validation corpus, which is read again for references."""
    TOKENIZER.save(tmp_path / "tokenizer.model")
    data = ParallelText(
        str(tmp_path),
        train=[path],
        validation=path,
        tokenizer=str(tmp_path / "tokenizer.model"),
        cache=str(tmp_path / "cache"),
    )
    data.prepare_data()
    data.setup("fit")
    assert data.references("validation") == [pair[1] for pair in data._pairs("train")]
    return [f"{first}\t{second}" for first, second in data._pairs("train")]


COMMANDS = {
    "translate": read_by_translate,
    "certify": read_by_certify,
    "distill": read_by_distill,
    "compare": read_by_compare,
    "fit": read_by_fit,
}
OF_PAIRS = ("compare", "fit")
KINDS = ("file", "standard input", "named pipe", "process substitution")


@pytest.fixture(autouse=True)
def no_copies_of_other_tests():
    text_lines._copied.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reads_every_form_from_every_source(command, form, kind, tmp_path, monkeypatch):
    content, expected = FORMS[form], TEXT
    if command in OF_PAIRS:
        expected = [f"{line}\t{line}" for line in TEXT]
        content = paired(content)
    if kind == "file" and command in OF_PAIRS:
        (tmp_path / "text.tsv").write_bytes(content)
        path = str(tmp_path / "text.tsv")
        assert COMMANDS[command](path, tmp_path, monkeypatch) == expected
        return
    with source(kind, content, tmp_path, monkeypatch) as path:
        assert COMMANDS[command](path, tmp_path, monkeypatch) == expected


def paired(content):
    """Each line as a pair with itself, packed and marked as before."""
    for module in (gzip, lzma, bz2):
        with suppress(OSError, lzma.LZMAError):
            return module.compress(paired(module.decompress(content)))
    mark, ending = (b"\xef\xbb\xbf", b"\n")
    text = content.removeprefix(mark)
    twice = ending.join(
        line.removesuffix(b"\r") + b"\t" + line if line or number < text.count(ending) else b""
        for number, line in enumerate(text.split(ending))
    )
    return mark * content.startswith(mark) + twice


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_text_that_it_cannot_read(command, damage, kind, tmp_path, monkeypatch):
    content, message = DAMAGED[damage]
    if command in OF_PAIRS and damage == "latin":
        content = "a\tb\nf\tü\n".encode("latin-1")
        message = message.replace("byte 2", "byte 3")
    if command in OF_PAIRS and damage in ("gzip", "xz", "bzip2"):
        content = {"gzip": gzip, "xz": lzma, "bzip2": bz2}[damage].compress(b"a\tb\n" * 50)[:-9]
    with source(kind, content, tmp_path, monkeypatch) as path:
        if kind == "file" and command in OF_PAIRS:
            os.rename(path, path := f"{path}.tsv")
        with pytest.raises(InputError) as caught:
            COMMANDS[command](path, tmp_path, monkeypatch)
    assert message.format("standard input" if path == "-" else path) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["a\tb\nc\td\n", '{"en": "a", "de": "b"}\n{"en": "c", "de": "d"}\n'])
@pytest.mark.parametrize("command", OF_PAIRS)
def test_a_pipe_of_pairs_is_tsv_or_json(command, content, tmp_path, monkeypatch):
    with source("named pipe", content.encode(), tmp_path, monkeypatch) as path:
        assert COMMANDS[command](path, tmp_path, monkeypatch) == ["a\tb", "c\td"]


def test_two_pipes_are_a_corpus_of_aligned_lines(tmp_path, monkeypatch):
    for language in ("en", "de"):
        os.mkfifo(tmp_path / f"train.{language}")
    (tmp_path / "val.tsv").write_text("a\tb\n")
    TOKENIZER.save(tmp_path / "tokenizer.model")
    data = ParallelText(str(tmp_path), tokenizer=str(tmp_path / "tokenizer.model"))
    with feeding(tmp_path / "train.en", b"a\nc\n"), feeding(tmp_path / "train.de", b"b\nd\n"):
        data.prepare_data()
        data.setup("fit")
    assert list(data._pairs("train")) == [("a", "b"), ("c", "d")]


def test_streams_are_refused_where_several_processes_would_read_them(tmp_path):
    data = ParallelText(str(tmp_path), train=["-"], validation="-")
    data.trainer = SimpleNamespace(world_size=2)
    with pytest.raises(
        InputError, match="standard input can be read by one process only: write it to a file"
    ):
        data.setup("fit")


def test_closed_standard_input_and_endless_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "__stdin__", None)
    with pytest.raises(InputError, match="standard input is closed"):
        next(read_lines("-"))
    monkeypatch.setattr(text_lines, "_LONGEST_LINE", 1 << 20)
    (tmp_path / "bomb").write_bytes(gzip.compress(b"line\n" + b"a" * (1 << 22)))
    with pytest.raises(InputError, match="bomb, line 2: longer than 1 MiB, so this is not text"):
        list(read_lines(tmp_path / "bomb"))


def test_nothing_at_all_is_no_line(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO()))
    assert list(read_lines("-")) == []
