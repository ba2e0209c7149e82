"""The generated English-German corpus: real grammar to learn, without a download.

``python train.py fit`` needs data on a machine that has none. The sentences come from a grammar of our own
(``grammar``) and a small lexicon (``lexicon``); nearly every English sentence has exactly one German
translation, so a perfect model would reach a BLEU near 100.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lightning_bpd.datamodules.demo.sentences import sentence_pairs
from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import InputError

__all__ = ["sentence_pairs", "write_demo_corpus"]

MANIFEST = "demo.json"
_MOST_REPEATS = 100_000


def write_demo_corpus(
    folder: Path, seed: int = 1, train: int = 24000, validation: int = 500, test: int = 500
) -> None:
    """Write train, val and test (.en and .de, UTF-8, one sentence a line) into ``folder``.

    All English sentences are distinct, within a set and between sets. The same arguments give the same bytes
    on every platform. A folder that already holds them is left as it is; ``demo.json`` says what it holds.
    Every file appears whole or not at all, and an interrupted run is repaired by the next.

    Raises:
        InputError: if a size is below 1 or beyond what the grammar can say, or if the folder holds files that
            were not generated here (hidden ones aside).
    """
    # Training comes last, so that its size does not change what is validated and tested.
    sizes = {"test": test, "val": validation, "train": train}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"The generated corpus needs at least 1 pair in {name}, not {size}.")
    wanted: dict[str, Any] = {"seed": seed, **sizes, "grammar": _grammar_fingerprint()}
    names = [f"{part}.{language}" for part in sizes for language in ("en", "de")]
    if _is_complete(folder, wanted, names):
        return
    if folder.is_dir() and not (folder / MANIFEST).exists() and any(map(_is_foreign, folder.iterdir())):
        raise InputError(
            f"{folder} holds other files: for text of your own give --config configs/translation/own_text.yaml "
            "before --data; for the generated corpus name an empty or a new folder."
        )
    contents = _generate(seed, sizes)
    wanted["files"] = {name: hashlib.sha256(contents[name]).hexdigest() for name in names}
    # The manifest goes first: from then on the folder is known as ours, and complete only when the sums agree.
    write_atomically(folder / MANIFEST, json.dumps(wanted, indent=2) + "\n")
    for name in names:
        write_atomically(folder / name, contents[name])


def _generate(seed: int, sizes: dict[str, int]) -> dict[str, bytes]:
    pairs = sentence_pairs(seed)
    seen: set[str] = set()
    contents = {}
    for name, size in sizes.items():
        lines: list[tuple[str, str]] = []
        repeats = 0
        while len(lines) < size:
            english, german = next(pairs)
            if english in seen:
                repeats += 1
                if repeats > _MOST_REPEATS + size:
                    raise InputError(
                        f"The demo grammar has too few sentences for {size} pairs in {name}; ask for fewer."
                    )
                continue
            seen.add(english)
            lines.append((english, german))
        for column, language in enumerate(("en", "de")):
            contents[f"{name}.{language}"] = "".join(f"{pair[column]}\n" for pair in lines).encode()
    return contents


def _grammar_fingerprint() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _is_foreign(path: Path) -> bool:
    # Encoded text and the rest of an interrupted writing are hidden.
    return not path.name.startswith(".")


def _is_complete(folder: Path, wanted: dict[str, Any], names: list[str]) -> bool:
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
        sums = found.pop("files")
        return bool(found == wanted) and all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == sums[name] for name in names
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False
