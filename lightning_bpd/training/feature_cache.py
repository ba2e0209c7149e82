"""What a frozen base computed of the training text, kept on disk for later epochs and runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_bpd.interfaces import InputError, Memory, ParallelBatch, Reading

logger = logging.getLogger(__name__)

# Raise it when equal bases and corpora would give other features.
_FORMAT = 1
# Stands for a token that does not exist.
_NONE = -1


class FeatureCache:
    """The readings of training pairs in memory-mapped files.

    Each pair is computed and written when it is first needed. Later epochs read it, and so do later runs with the same
    base and corpus. A pair is marked as known after it was written, so an interruption loses nothing.

    Args:
        folder: The folder of all caches.
        corpus: The training corpus, an EncodedCorpus.
        base: Names the base, the precision that it computes in, and the layers that it returns.
        like: A reading with the widths of hidden states and memory.
        dtype: Of the files.
        most: The most GiB that the files may take.

    Raises:
        InputError: The files would be larger than ``most``, or cannot be written.
    """

    def __init__(
        self, folder: Path, corpus: Any, base: str, like: Reading, dtype: torch.dtype, most: float
    ) -> None:
        width, of_states = like.hidden.size(-1), like.memory.states.size(-1)
        of_target, of_source = corpus.target.lengths, corpus.source.lengths
        values = int(of_target.sum()) * width + int(of_source.sum()) * of_states
        needed = (values * dtype.itemsize + int(of_source.sum()) * 8) / 2**30
        if needed > most:
            raise InputError(
                f"the features of {len(corpus)} pairs take {needed:.1f} GiB, and cache_features allows {most:g}: "
                "allow more, or leave it out"
            )
        content = hashlib.sha256(json.dumps([_FORMAT, base, str(dtype), width]).encode())
        for side in (corpus.source, corpus.target):
            content.update(np.ascontiguousarray(side.offsets).tobytes())
            content.update(np.ascontiguousarray(side.tokens).tobytes())
        place = folder / f"features-{content.hexdigest()[:24]}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            self._hidden = _Rows(place / "hidden", of_target, width, dtype)
            self._states = _Rows(place / "states", of_source, of_states, dtype)
            self._tokens = _Rows(place / "tokens", of_source, 1, torch.long)
            # 0 for a pair that is not known, else the number of its memory's states plus 1.
            self._known = _Rows(place / "known", np.ones(len(corpus), dtype=np.int64), 1, torch.int32)
        except OSError as error:
            raise InputError(
                f"{place}: the features cannot be written ({error.strerror}): give another folder as data.cache, or "
                "leave cache_features out"
            ) from error
        known = int((self._known.values != 0).sum())
        logger.info(
            "Features of the base: %.1f GiB in %s, %d of %d pairs known", needed, place, known, len(corpus)
        )

    def read(self, batch: ParallelBatch, compute: Callable[[ParallelBatch], Reading]) -> Reading:
        """Return the reading of a batch of the corpus; call ``compute`` if one of its pairs is not known."""
        index = batch.index.tolist()
        counts = (self._known.values[index, 0] - 1).tolist()
        if min(counts) < 0:
            reading = compute(batch)
            self._write(index, counts, batch, reading)
            return reading
        device = batch.target.lengths.device
        hidden = self._hidden.read(index, batch.target.lengths.tolist()).to(device)
        states = self._states.read(index, counts).to(device)
        tokens = self._tokens.read(index, counts)[..., 0].to(device)
        inside = torch.arange(states.size(1), device=device) < torch.tensor(counts, device=device)[:, None]
        return Reading(hidden, Memory(states, inside, None if (tokens == _NONE).any() else tokens))

    def _write(self, index: list[int], counts: list[int], batch: ParallelBatch, reading: Reading) -> None:
        states, inside, tokens = reading.memory
        held = [states.size(1)] * len(index) if inside is None else inside.sum(1).tolist()
        if tokens is None:
            tokens = torch.full(states.shape[:2], _NONE, device=states.device)
        for place, (row, count, known) in enumerate(zip(index, held, counts, strict=True)):
            # A pair that is known keeps its values, which a batch of another width would round otherwise.
            if known < 0:
                self._hidden.write(row, reading.hidden[place, : int(batch.target.lengths[place])])
                self._states.write(row, states[place, :count])
                self._tokens.write(row, tokens[place, :count, None])
                self._known.values[row] = count + 1


class _Rows:
    """Rows of vectors in one file, one after the other; zeros at first."""

    def __init__(self, path: Path, lengths: np.ndarray, width: int, dtype: torch.dtype) -> None:
        self._starts = np.concatenate(([0], np.cumsum(lengths))).tolist()
        count = self._starts[-1] * width
        with path.open("ab") as file:
            if file.tell() < count * dtype.itemsize:
                # Writing into a hole of a file on a full disk would kill the process.
                os.posix_fallocate(file.fileno(), 0, count * dtype.itemsize)
        self.values = torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(-1, width)

    def read(self, rows: Sequence[int], counts: Sequence[int]) -> Tensor:
        """Return the first ``counts[b]`` vectors of each row, padded with zeros, [B, T, width]."""
        padded = self.values.new_zeros(len(rows), max(counts), self.values.size(1))
        for place, (row, count) in enumerate(zip(rows, counts, strict=True)):
            padded[place, :count] = self.values[self._starts[row] : self._starts[row] + count]
        return padded

    def write(self, row: int, vectors: Tensor) -> None:
        """Set the first vectors of a row."""
        self.values[self._starts[row] : self._starts[row] + len(vectors)] = vectors.to(self.values.device)
