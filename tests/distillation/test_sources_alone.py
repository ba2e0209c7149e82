"""Distilling sentences that have no translations, and holding rows out: a corpus by itself."""

import gzip
import itertools
import json
from pathlib import Path

import pytest
from small_distillation import ROWS, contents, run

from lightning_bpd.datamodules import ParallelText
from lightning_bpd.datamodules.held_out import is_held_out
from lightning_bpd.datamodules.text_files import PairFiles, find_pair_files, fingerprint, read_pairs
from lightning_bpd.distillation import decode_parts
from lightning_bpd.interfaces import InputError


@pytest.fixture(scope="module")
def sentences(corpus, tmp_path_factory) -> Path:
    (files,) = find_pair_files(corpus, ["train"], "en", "de")
    path = tmp_path_factory.mktemp("sentences") / "sentences.txt"
    path.write_text("".join(f"{source}\n" for source, _ in read_pairs(files)))
    return path


@pytest.fixture(scope="module")
def alone(sentences, teachers, tmp_path_factory) -> dict[str, bytes]:
    return contents(run(teachers[0], sentences, tmp_path_factory.mktemp("alone") / "out", processes=1))


def lines(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().splitlines()


def pairs(folder: Path, corpus: str) -> list[tuple[str, str]]:
    return list(zip(lines(folder, f"{corpus}.en"), lines(folder, f"{corpus}.de"), strict=True))


def test_targets_do_not_matter(whole, alone):
    assert alone.keys() == whole.keys()
    for name in ("train.en", "train.de"):
        assert alone[name] == whole[name]


def test_a_file_and_a_folder_are_the_same_corpus(sentences, teachers, alone, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "train.en").write_bytes(sentences.read_bytes())
    made = contents(run(teachers[0], folder, tmp_path / "out", processes=1))
    assert {name: content for name, content in made.items() if name != "distillation.json"} == {
        name: content for name, content in alone.items() if name != "distillation.json"
    }
    # Begun from the folder, and asked for once more from the file.
    assert contents(run(teachers[0], sentences, tmp_path / "out")) == made


def test_a_compressed_file(sentences, teachers, alone, tmp_path):
    packed = tmp_path / "sentences.txt.gz"
    packed.write_bytes(gzip.compress(sentences.read_bytes()))
    out = run(teachers[0], packed, tmp_path / "out", processes=1)
    assert (out / "train.de").read_bytes() == alone["train.de"]


def test_interrupted_and_shared_out(sentences, teachers, alone, tmp_path, monkeypatch):
    out = tmp_path / "out"
    decode, left = decode_parts.decode_batch, 5

    def interrupting(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise InterruptedError
        return decode(*arguments)

    monkeypatch.setattr(decode_parts, "decode_batch", interrupting)
    with pytest.raises(InterruptedError):
        run(teachers[0], sentences, out, processes=1)
    monkeypatch.undo()
    run(teachers[0], sentences, out, processes=1, shard="2/2")
    assert not (out / "train.de").exists()
    run(teachers[0], sentences, out, processes=1, shard="1/2")
    assert contents(out) == alone


def test_what_is_no_corpus_is_named(sentences, teachers, tmp_path):
    def refused(data: Path, words: str) -> None:
        with pytest.raises(InputError, match=words):
            run(teachers[0], data, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused(tmp_path / "missing.txt", r"missing\.txt: there is no such folder or file")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    refused(empty, r"empty\.txt: the file is empty")
    (tmp_path / "latin.txt").write_bytes("für\n".encode("latin-1"))
    refused(tmp_path / "latin.txt", r"latin\.txt, line 1: invalid UTF-8")
    name = "pairs.tsv"
    (tmp_path / name).write_text("a\tb\n")
    refused(tmp_path / name, rf"one sentence a line; for {name} give --data {tmp_path} --corpus '\[{name}\]'")
    (tmp_path / "pairs.jsonl").write_text('{"de": "b"}\n')
    refused(tmp_path / "pairs.jsonl", r"pairs\.jsonl, line 1: the key 'en' is missing")


def test_json_lines_need_no_targets(sentences, teachers, alone, tmp_path):
    path = tmp_path / "sentences.jsonl"
    records = [json.dumps({"en": line}) + "\n" for line in sentences.read_text().splitlines()]
    path.write_text("".join(records))
    out = run(teachers[0], path, tmp_path / "out", processes=1)
    assert (out / "train.de").read_bytes() == alone["train.de"]


def test_only_a_source_may_stand_alone(tmp_path):
    def found() -> list[PairFiles]:
        return find_pair_files(tmp_path, ["train"], "en", "de", source_alone=True)

    (tmp_path / "train.de").write_text("y\n")
    with pytest.raises(InputError, match=r"found only one side, train\.de"):
        found()
    (tmp_path / "train.en").write_text("x\n")
    assert found() == find_pair_files(tmp_path, ["train"], "en", "de")
    (tmp_path / "train.de").unlink()
    assert found() == [PairFiles(tmp_path / "train.en", None, "source")]
    assert list(read_pairs(found()[0])) == [("x", "")]
    assert fingerprint(found()) != fingerprint([PairFiles(tmp_path / "train.en", None, "tsv")])
    with pytest.raises(InputError, match="found only one side"):
        find_pair_files(tmp_path, ["train"], "en", "de")
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(b"x\n"))
    with pytest.raises(InputError, match=r"'train' is ambiguous.* train\.en; train\.en\.gz"):
        found()


@pytest.mark.parametrize(("rows", "held_out"), [(10, 0), (10, 1), (10, 3), (10, 9), (61, 8), (1000, 100)])
def test_held_out_rows_are_as_many_as_asked_for_and_evenly_spread(rows, held_out):
    places = [row for row in range(rows) if is_held_out(row, rows, held_out)]
    assert len(places) == held_out
    between = {later - earlier for earlier, later in itertools.pairwise(places)}
    assert between <= {rows // held_out, -(-rows // held_out)} if held_out else not between


def test_held_out_rows_are_the_validation_corpus(sentences, teachers, alone, tmp_path):
    out = run(teachers[0], sentences, tmp_path / "out", processes=1, held_out=20)
    result = json.loads((out / "distillation.json").read_text())["result"]
    every = list(
        zip(alone["train.en"].decode().splitlines(), alone["train.de"].decode().splitlines(), strict=True)
    )
    sources = sentences.read_text().splitlines()
    held = {sources[row] for row in range(ROWS) if is_held_out(row, ROWS, 20)}
    assert pairs(out, "val") == [pair for pair in every if pair[0] in held]
    assert pairs(out, "train") == [pair for pair in every if pair[0] not in held]
    assert result["kept"] == len(every)
    assert 5 < result["held out"] == len(pairs(out, "val")) < 20
    # What `fit --data OUT` reads.
    data = ParallelText(str(out), tokenizer=str(Path(teachers[0]) / "tokenizer.model"))
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_corpus) + len(data.validation_corpus) == len(every)


def test_another_number_decodes_nothing_again(sentences, teachers, alone, tmp_path, monkeypatch):
    out = run(teachers[0], sentences, tmp_path / "out", processes=1, held_out=20)
    monkeypatch.setattr(decode_parts, "decode_batch", None)
    run(teachers[0], sentences, out, held_out=10)
    assert 0 < len(pairs(out, "val")) <= 10
    # Without, train holds them again, and nothing is left that would be validated on.
    assert contents(run(teachers[0], sentences, out)) == alone
    own = out / "val.en"
    own.write_text("put here by somebody\n")
    run(teachers[0], sentences, out)
    assert own.exists()


def test_of_several_hypotheses_all_are_held_out(sentences, teachers, tmp_path):
    out = run(teachers[0], sentences, tmp_path / "out", processes=1, best=3, held_out=20)
    assert len(set(lines(out, "val.en"))) < len(lines(out, "val.en"))
    assert not set(lines(out, "val.en")) & set(lines(out, "train.en"))


def test_too_many_or_none_that_are_of_use(sentences, teachers, tmp_path):
    for wrong in (ROWS, -1):
        with pytest.raises(InputError, match=rf"--held_out {wrong}: of {ROWS} rows 0 to {ROWS - 1} can be"):
            run(teachers[0], sentences, tmp_path / "out", processes=1, held_out=wrong)
        assert not (tmp_path / "out").exists()
    # The last row is the one held out, and it has no text.
    blank = tmp_path / "blank.txt"
    blank.write_text(sentences.read_text() + "\n")
    with pytest.raises(InputError, match=r"0 of .* both train and val need some: give another --held_out"):
        run(teachers[0], blank, tmp_path / "blank", processes=1, held_out=1)


def test_rows_with_one_source_lie_on_one_side(sentences, teachers, tmp_path):
    """Each sentence three times, far apart and with other white space."""
    once = [line for line in sentences.read_text().splitlines() if line.strip()][:20]
    repeated = tmp_path / "repeated.txt"
    repeated.write_text("".join(f"{line}\n" for line in [*once, *(f"{line} " for line in once), *once]))
    out = run(teachers[0], repeated, tmp_path / "out", processes=1, held_out=8)
    sides = [{line.strip() for line in lines(out, f"{corpus}.en")} for corpus in ("train", "val")]
    assert all(sides)
    assert not sides[0] & sides[1]
    with pytest.raises(InputError, match="of 60 rows with 20 different sources 0 to 19 can be held out"):
        run(teachers[0], repeated, tmp_path / "too-many", processes=1, held_out=20)


def test_sources_of_several_lines_stay_whole(teachers, sentences, tmp_path):
    once = sentences.read_text().splitlines()[:20]
    wanted = [f"{one}\n{other}\r" for one, other in itertools.pairwise(once)]
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({"en": text, "de": ""}) + "\n" for text in wanted)
    )
    out = run(teachers[0], tmp_path, tmp_path / "out", processes=1, held_out=5)
    (train,), (val,) = (find_pair_files(out, [corpus], "en", "de") for corpus in ("train", "val"))
    found = {source for files in (train, val) for source, _ in read_pairs(files)}
    assert found
    assert found <= set(wanted)
    (out / "val.jsonl").touch()
    run(teachers[0], tmp_path, out, processes=1)
    assert not (out / "val.jsonl").exists()


def test_a_carriage_return_at_the_end_of_a_source_is_kept(teachers, sentences, tmp_path):
    path = tmp_path / "returns.txt"
    path.write_bytes(b"".join(f"{line}\r\r\n".encode() for line in sentences.read_text().splitlines()[:20]))
    out = run(teachers[0], path, tmp_path / "out", processes=1)
    (files,) = find_pair_files(out, ["train"], "en", "de")
    assert {source[-1] for source, _ in read_pairs(files)} == {"\r"}
