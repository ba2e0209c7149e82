from pathlib import Path

import pytest
from small_distillation import ROWS, contents, run, write_teacher

from lightning_bpd.datamodules.text_files import find_pair_files, read_pairs
from tools.demo_corpus.sentences import sentence_pairs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    pairs = [pair for pair, _ in zip(sentence_pairs(seed=4), range(ROWS), strict=False)]
    pairs[10] = ("  ", "nichts")
    pairs[20] = ("word " * 90, "zu lang")
    (folder / "train.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    return folder


@pytest.fixture(scope="module")
def teachers(corpus, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("teachers")
    (files,) = find_pair_files(corpus, ["train"], "en", "de")
    lines = [line for pair in read_pairs(files) for line in pair]
    return [write_teacher(folder / str(sureness), sureness, lines) for sureness in (1.0, 1.1)]


@pytest.fixture(scope="module")
def whole(corpus, teachers, tmp_path_factory) -> dict[str, bytes]:
    return contents(run(teachers[0], corpus, tmp_path_factory.mktemp("whole") / "out", processes=1))
