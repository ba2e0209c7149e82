"""The demo corpus: 25,000 English-German sentence pairs, shipped with the project as data for a first run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from lightning_bpd.datamodules.parallel_text import ParallelText
from lightning_bpd.datamodules.text_files import PairFiles, read_pairs
from lightning_bpd.files import shipped, write_atomically
from lightning_bpd.interfaces import InputError

PAIRS = 24_000
"""training pairs in the shipped file"""
_HELD_OUT = 500
_LANGUAGES = ("en", "de")
# Marks the files beside it as the demo corpus; earlier versions wrote their settings into it.
_MANIFEST = "demo.json"
CORPUS = "data/demo/corpus.tsv.gz"
"""the shipped file: 500 test pairs, 500 validation pairs, then the training pairs; ``tools/demo_corpus`` made it"""


def write_demo_corpus(folder: Path, pairs: int = PAIRS) -> None:
    """Write train (the first ``pairs``), val and test into ``folder``, as ``.en`` and ``.de``, one sentence a line.

    Complete files stay as they are. Each file appears complete or not at all. Raises InputError if ``pairs`` is out of
    range, or if the folder holds files of other text.
    """
    if not 1 <= pairs <= PAIRS:
        raise InputError(
            f"pairs is {pairs}, and the demo corpus has 1 to {PAIRS}: `python -m tools.demo_corpus FOLDER --train "
            f"{max(pairs, 1)}` in a checkout generates another corpus, for configs/translation/own_text.yaml"
        )
    corpus = shipped(CORPUS)
    if folder.is_dir() and not (folder / _MANIFEST).exists():
        others = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {corpus.name}
        if others:
            raise InputError(
                f"{folder} holds other files: for text of your own give --config configs/translation/own_text.yaml "
                "before --data; for the demo corpus name an empty or a new folder."
            )
    lines = read_pairs(PairFiles(corpus, None, "tsv"))
    parts = {
        name: list(islice(lines, count))
        for name, count in (("test", _HELD_OUT), ("val", _HELD_OUT), ("train", pairs))
    }
    # Written first, so that the files of an interrupted start are known as ours.
    _write(folder / _MANIFEST, b'{"corpus": "demo"}\n')
    for name, part in parts.items():
        for column, language in enumerate(_LANGUAGES):
            content = "".join(f"{pair[column]}\n" for pair in part).encode()
            _write(folder / f"{name}.{language}", content)


def _write(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)


class DemoText(ParallelText):
    """The demo corpus: English-German sentences that need no download.

    Args:
        folder: The folder of its text files.
        pairs: The number of training pairs, taken from the start of the corpus.
        corpus_seed: The seed of the shipped corpus, always 1. Configurations of earlier versions name it.
        vocab_size: The number of tokens of the tokenizer, which both languages share.
        tokenizer: A SentencePiece model file to use instead of training one.
        batch_tokens: The most tokens in a batch, padding included, on its longer side.
        workers: Processes that prepare batches; 0 prepares them in the training process.
        seed: Decides the order of the training pairs.
    """

    def __init__(
        self,
        folder: str = "data/demo",
        pairs: int = PAIRS,
        corpus_seed: int = 1,
        vocab_size: int = 2000,
        tokenizer: str | None = None,
        batch_tokens: int = 2048,
        workers: int = 0,
        seed: int = 1,
    ) -> None:
        super().__init__(
            folder,
            vocab_size=vocab_size,
            tokenizer=tokenizer,
            batch_tokens=batch_tokens,
            workers=workers,
            seed=seed,
        )
        if corpus_seed != 1:
            raise InputError(
                f"corpus_seed is {corpus_seed}, and the shipped demo corpus was generated with seed 1: `python -m "
                f"tools.demo_corpus FOLDER --seed {corpus_seed}` in a checkout generates another corpus, for "
                "configs/translation/own_text.yaml"
            )
        self.pairs = pairs

    def prepare_data(self) -> None:
        """Write missing text files, then prepare them like any parallel text."""
        write_demo_corpus(self.folder, self.pairs)
        super().prepare_data()
