"""Targets that a base writes itself: ``fit`` makes them if they are missing."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lightning_bpd.datamodules.caches import content_key, default_cache
from lightning_bpd.datamodules.distilled import MANIFEST, read_manifest
from lightning_bpd.datamodules.text_files import find_pair_files, fingerprint
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved import finished_model

logger = logging.getLogger(__name__)

# Seconds between two looks of the other ranks.
LOOK = 5.0


def use_own_text(model: Mapping[str, Any], data: MutableMapping[str, Any], decode: Mapping[str, Any]) -> None:
    """Let a drafter learn the base's own greedy output of the training sources, if ``targets`` is self.

    ``distill`` writes the output into the data's cache, once for each base and corpus. What it wrote before an
    interruption is kept. In a run of several processes the first one writes and the others wait.

    Args:
        model: The model's arguments.
        data: The data's arguments, which are changed: ``distilled``, ``mix`` and ``self_distillation``.
        decode: The decoding options, of which the limits of length are used.

    Raises:
        InputError: There is no base, or the data has no text that could be replaced.
    """
    if model.get("targets") != "self":
        return
    base = model.get("base")
    if not isinstance(base, str) or Path(base).is_file():
        raise InputError(
            "targets self is for a base that can write: give --model.base the folder of a finished model, or "
            "hf:NAME_OR_FOLDER"
        )
    if "distilled" not in data:
        raise InputError(
            "targets self is for text in a folder (ParallelText or Prompts): leave it out for this data"
        )
    folder = _folder(base, data, decode)
    if data["distilled"] not in (None, str(folder)):
        raise InputError(
            f"targets self would not use {data['distilled']}: leave data.distilled or model.targets out"
        )
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    if first and not _complete(folder):
        _write(base, data, decode, folder)
    while not first and not _complete(folder):
        time.sleep(LOOK)
    logger.info("Targets: the base's own output, in %s", folder)
    data["distilled"], data["self_distillation"] = str(folder), True
    if data["mix"] == "gold":
        data["mix"] = "distilled"


def _folder(base: str, data: Mapping[str, Any], decode: Mapping[str, Any]) -> Path:
    place = Path(data["folder"])
    files = find_pair_files(
        place, data["train"], data["source_language"], data["target_language"], source_alone=True
    )
    network = finished_model.read_base(base).network
    limits = decode["extra_length"], decode["max_new_tokens"], data["max_length"]
    key = content_key(finished_model.fingerprint(network), fingerprint(files), data.get("template"), limits)
    cache = data["cache"]
    return (default_cache(place) if cache is None else Path(cache)) / f"own-{key}"


def _complete(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and bool(read_manifest(folder).get("complete"))


def _write(base: str, data: Mapping[str, Any], decode: Mapping[str, Any], folder: Path) -> None:
    # Not above: a run that needs no text does not wait for these imports.
    from lightning_bpd.cli.distill import EXTRA_LENGTH, distill

    of_prompts = "template" in data
    distill(
        base,
        data["folder"],
        str(folder),
        corpus=list(data["train"]),
        source_language=data["source_language"],
        target_language=data["target_language"],
        template=data.get("template"),
        decoder="greedy",
        extra_length=EXTRA_LENGTH if of_prompts else decode["extra_length"],
        max_new_tokens=decode["max_new_tokens"],
        max_length=data["max_length"],
        keep_unfinished=of_prompts,
        # All parts, also where other ranks wait.
        shard="1/1",
    )
