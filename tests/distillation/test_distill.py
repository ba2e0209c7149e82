"""Distilled data: the same bytes however it is made (design, equality 10); what is kept, and what is refused."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_distillation import QUICK, ROWS, contents, run

from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.datamodules import ParallelText
from lightning_bpd.datamodules.text_files import find_pair_files, read_pairs
from lightning_bpd.distillation import decode_parts, part_files
from lightning_bpd.distillation.assemble import kept_texts
from lightning_bpd.distillation.part_files import Hypothesis, Row
from lightning_bpd.distillation.plan import Settings
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.translation import Translator, load


def test_a_corpus_in_its_own_order(corpus, teachers, whole):
    assert set(whole) == {
        "distillation.json",
        "train.de",
        "train.en",
        *(f"parts/{n:06}.jsonl" for n in range(9)),
    }
    (files,) = find_pair_files(corpus, ["train"], "en", "de")
    lines = [source for source, _ in read_pairs(files)]
    made = whole["train.en"].decode().splitlines()
    manifest = json.loads(whole["distillation.json"])
    assert manifest["complete"]
    assert manifest["result"]["source too long"] == manifest["result"]["source without text"] == 1
    assert len(made) == manifest["result"]["kept"] > ROWS // 3
    assert manifest["result"]["length limit"] > 0
    assert sum(count for name, count in manifest["result"].items() if name != "max_length_ratio") == ROWS
    places = [lines.index(line) for line in made]
    assert places == sorted(places)
    # Each is what the teacher gives for the line by itself.
    teacher = load(teachers[0])
    alone = [teacher.translate([line], "beam", extra_length=6)[0] for line in made]
    assert whole["train.de"].decode().splitlines() == alone


def test_interrupted_anywhere_the_result_is_the_same(corpus, teachers, whole, tmp_path, monkeypatch):
    """Twenty times, each at a random batch of all, and then to the end."""
    decode = decode_parts.decode_batch
    left = 0

    def interrupting(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise InterruptedError
        return decode(*arguments)

    monkeypatch.setattr(decode_parts, "decode_batch", interrupting)
    left = 1_000
    run(teachers[0], corpus, tmp_path / "counted", processes=1)
    batches = 1_000 - left
    kept = set()
    for number, point in enumerate(random.Random(1).choices(range(batches), k=20)):
        left = point
        out = tmp_path / str(number)
        with pytest.raises(InterruptedError):
            run(teachers[0], corpus, out, processes=1)
        kept.add(len(list(out.glob("parts/*.jsonl"))))
        left = batches
        run(teachers[0], corpus, out, processes=1)
        assert contents(out) == whole
    assert len(kept) > 4


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_gives_the_same_bytes(corpus, teachers, whole, tmp_path, processes):
    assert contents(run(teachers[0], corpus, tmp_path / "out", processes=processes)) == whole


def test_machines_with_a_share_each(corpus, teachers, whole, tmp_path):
    out = tmp_path / "out"
    for shard in ("2/3", "3/3"):
        run(teachers[0], corpus, out, processes=1, shard=shard)
        assert not (out / "train.de").exists()
        with pytest.raises(InputError, match="is not finished"):
            ParallelText(str(corpus), distilled=str(out), mix="distilled")
    run(teachers[0], corpus, out, processes=1, shard="1/3")
    assert contents(out) == whole
    for wrong in ("0/3", "4/3", "2"):
        with pytest.raises(InputError, match="--shard"):
            run(teachers[0], corpus, out, shard=wrong)


def test_ranks_of_torchrun_are_shards(corpus, teachers, whole, tmp_path, monkeypatch):
    for rank in (1, 0):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
            monkeypatch.setenv(name, str(value))
        run(teachers[0], corpus, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def command(teacher: str, corpus: Path, out: Path, processes: int) -> list[str]:
    options = [text for name, value in QUICK.items() for text in (f"--{name}", str(value))]
    train = str(Path(__file__).parents[2] / "train.py")
    flags = ["--teacher", teacher, "--data", str(corpus), "--output", str(out), "--processes", str(processes)]
    return [sys.executable, train, "distill", *flags, "--device", "cpu", *options]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_killed_and_started_again(corpus, teachers, whole, tmp_path, processes):
    """SIGKILL, which nothing can prepare for, as soon as a part more is there."""
    out = tmp_path / "out"
    arguments = command(teachers[0], corpus, out, processes)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for wanted in (1, 3, 5):
        process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while process.poll() is None and len(list(out.glob("parts/*.jsonl"))) < wanted:
            assert time.monotonic() < end
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert contents(out) == whole


def test_several_hypotheses_are_several_pairs(corpus, teachers, tmp_path):
    out = run(teachers[0], corpus, tmp_path / "out", processes=1, best=3)
    sources, targets = ((out / f"train.{language}").read_text().splitlines() for language in ("en", "de"))
    assert len(sources) == len(targets) > 2 * len(set(sources))
    teacher = load(teachers[0])
    assert teacher.translate([sources[0]], "beam", extra_length=6)[0] in targets[:3]
    with pytest.raises(InputError, match="greedy decoding gives 1"):
        run(teachers[0], corpus, tmp_path / "greedy", decoder="greedy", best=2)


def test_greedy_and_bfloat16(corpus, teachers, whole, tmp_path):
    greedy = run(teachers[0], corpus, tmp_path / "greedy", processes=1, decoder="greedy")
    teacher = load(teachers[0])
    sources, targets = ((greedy / f"train.{language}").read_text().splitlines() for language in ("en", "de"))
    assert targets == [teacher.translate([line], extra_length=6)[0] for line in sources]
    narrow = run(teachers[0], corpus, tmp_path / "narrow", processes=1, precision="bfloat16")
    assert json.loads((narrow / "distillation.json").read_text())["settings"]["precision"] == "bfloat16"
    assert contents(narrow) != whole


SETTINGS = Settings("beam", 4, 0.6, 1, 50, 20, "float32", 64, 7, "cpu")


@pytest.mark.parametrize(
    ("tokens", "ended", "text", "expected"),
    [
        (9, True, "gut", "kept"),
        (9, False, "gut", "length limit"),
        (13, True, "gut", "kept"),  # 12 tokens for 4
        (14, True, "gut", "length ratio"),
        (2, True, "gut", "length ratio"),  # 1 token for 4
        (1, True, "", "no text"),
    ],
)
def test_what_is_worth_learning_from(tokens, ended, text, expected):
    counts = dict.fromkeys(("kept", "length limit", "length ratio", "no text"), 0)
    texts = kept_texts(Row(0, 5, [Hypothesis(text, tokens, ended, -1.0)]), SETTINGS, 3.0, counts)
    assert counts.pop(expected) == 1
    assert not any(counts.values())
    assert texts == ([text] if expected == "kept" else [])


def test_nothing_is_mixed(corpus, teachers, tmp_path):
    out = run(teachers[0], corpus, tmp_path / "out", processes=1)
    before = contents(out)
    with pytest.raises(InputError, match="another teacher"):
        run(teachers[1], corpus, out)
    with pytest.raises(InputError, match="beam 4, not 2"):
        run(teachers[0], corpus, out, beam=2)
    changed = tmp_path / "changed"
    shutil.copytree(corpus, changed)
    with (changed / "train.tsv").open("a") as file:
        file.write("one more\teine mehr\n")
    with pytest.raises(InputError, match="another corpus"):
        run(teachers[0], changed, out)
    assert contents(out) == before
    with pytest.raises(InputError, match="not empty and holds no distilled data"):
        run(teachers[0], corpus, changed)
    # A part of another distillation, copied here.
    other = run(teachers[1], corpus, tmp_path / "other", processes=1)
    shutil.copy(other / "parts/000003.jsonl", out / "parts/000003.jsonl")
    with pytest.raises(InputError, match="part 3 of another distillation"):
        run(teachers[0], corpus, out)


def test_a_half_written_part_is_named_and_made_again(corpus, teachers, whole, tmp_path):
    out = run(teachers[0], corpus, tmp_path / "out", processes=1)
    part = out / "parts/000004.jsonl"
    for damage in (part.read_bytes()[:-20], b"", b"{}\n"):
        part.write_bytes(damage)
        with pytest.raises(InputError, match=r"000004\.jsonl is damaged or incomplete: remove that file"):
            run(teachers[0], corpus, out, processes=1)
        part.unlink()
        assert contents(run(teachers[0], corpus, out, processes=1)) == whole


def test_a_full_disk_loses_nothing(corpus, teachers, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write = part_files.write_atomically
    room = 3

    def full_after_three(path, content):
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(part_files, "write_atomically", full_after_three)
    with pytest.raises(InputError, match="No space left on device; the parts before it are kept"):
        run(teachers[0], corpus, out, processes=1)
    assert len(list((out / "parts").iterdir())) == 3
    monkeypatch.undo()
    assert contents(run(teachers[0], corpus, out, processes=1)) == whole


def test_a_teacher_of_other_languages_is_refused(corpus, tmp_path):
    tokenizer = train_tokenizer(["абв где жз", "ик лм но"] * 20, 40, False, "identity")
    shape = Architecture(d_model=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=32)
    size = tokenizer.vocab_size
    network = EncoderDecoder(shape, size, size, tokenizer.bos_id, tokenizer.eos_id)
    Translator(network, TextCodec(tokenizer, tokenizer)).save(tmp_path / "teacher", {})
    with pytest.raises(InputError, match="the tokenizer does not match the text"):
        run(str(tmp_path / "teacher"), corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_data_is_gold_distilled_or_both(corpus, teachers, whole, tmp_path):
    out = run(teachers[0], corpus, tmp_path / "out", processes=1)
    manifest = json.loads(whole["distillation.json"])
    kept, network = manifest["result"]["kept"], manifest["teacher"]["network"]
    tokenizer = str(Path(teachers[0]) / "tokenizer.model")
    shutil.copy(corpus / "train.tsv", corpus / "val.tsv")
    sizes = {}
    for mix in ("gold", "distilled", "both"):
        data = ParallelText(
            str(corpus), tokenizer=tokenizer, distilled=str(out), mix=mix, cache=str(tmp_path / "cache")
        )
        data.setup("fit")
        sizes[mix] = len(data.train_corpus)
        assert data.distilled_by == (None if mix == "gold" else network)
    # Of the original the row without text is left out.
    assert sizes == {"gold": ROWS - 1, "distilled": kept, "both": ROWS - 1 + kept}
    with pytest.raises(InputError, match="no distilled data is named"):
        ParallelText(str(corpus), mix="both")
    with pytest.raises(InputError, match="holds no distilled data"):
        ParallelText(str(corpus), mix="both", distilled=str(corpus))
