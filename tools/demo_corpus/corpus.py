"""Generate the sentence pairs of a corpus: test, val and train, without a source that occurs twice."""

from __future__ import annotations

import gzip
import io

from tools.demo_corpus.sentences import sentence_pairs

Pair = tuple[str, str]
SEED, TEST, VAL, TRAIN = 1, 500, 500, 24_000
"""the corpus that the repository ships"""
_MOST_REPEATS = 100_000


def generate(seed: int = SEED, train: int = TRAIN, val: int = VAL, test: int = TEST) -> dict[str, list[Pair]]:
    """Generate the pairs of each part; English sentences are distinct within a part and between parts.

    The same arguments give the same pairs on every platform. Training pairs come last, so their number changes
    neither val nor test.

    Raises:
        ValueError: A number is below 1, or the grammar has too few sentences.
    """
    pairs, seen = sentence_pairs(seed), set()
    parts: dict[str, list[Pair]] = {}
    for name, size in {"test": test, "val": val, "train": train}.items():
        if size < 1:
            raise ValueError(f"{name} needs at least 1 pair, not {size}")
        part = parts[name] = []
        repeats = 0
        while len(part) < size:
            english, german = next(pairs)
            if english not in seen:
                seen.add(english)
                part.append((english, german))
            elif (repeats := repeats + 1) > _MOST_REPEATS + size:
                raise ValueError(
                    f"the grammar has too few sentences for {size} pairs in {name}: ask for fewer"
                )
    return parts


def as_tsv(pairs: list[Pair]) -> bytes:
    """Render pairs as lines: English, a tab, German."""
    return "".join(f"{english}\t{german}\n" for english, german in pairs).encode()


def compress(content: bytes) -> bytes:
    """Compress with gzip, without the time and the file name that its header may hold."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as stream:
        stream.write(content)
    return buffer.getvalue()
