"""The data module of both text and images: three parts, in batches of tokens (floor 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_bpd.datamodules.held_out import PARTS, Part
from lightning_bpd.datamodules.resume import next_position
from lightning_bpd.datamodules.token_batches import TokenBatchSampler
from lightning_bpd.interfaces import InputError

_PARTS_OF_STAGE: dict[str, tuple[Part, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("test",),
}
_Rows = TypeVar("_Rows", bound=Any)
_Batch = TypeVar("_Batch", bound=tuple[Any, ...])


class PartsOfData(pl.LightningDataModule, ABC, Generic[_Rows, _Batch]):
    """Training, validation and test data, each loaded once, in batches of tokens.

    Args:
        kind: The end of the names of the attributes that hold the loaded parts: ``corpus`` for ``train_corpus``.
        batch_size: The largest batch of training, in tokens for text and in images for images.
        validation_batch_size: The largest batch of validation, test and prediction; ``batch_size`` if None.
        workers: Processes that prepare batches.
        seed: Decides the order of the training data.

    Raises:
        InputError: ``workers`` is negative.
    """

    def __init__(
        self, kind: str, batch_size: int, validation_batch_size: int | None, workers: int, seed: int
    ) -> None:
        super().__init__()
        if workers < 0:
            raise InputError(f"workers is {workers}; it must be 0 or more.")
        self.workers, self.seed = workers, seed
        self._kind = kind
        self._batch_sizes = batch_size, batch_size if validation_batch_size is None else validation_batch_size
        self._loaded: dict[Part, _Rows] = {}

    def prepare_data(self) -> None:
        """Read and encode the parts that exist. Raises InputError if a part cannot be used."""
        for part in filter(self._exists, PARTS):
            self._part(part)

    def setup(self, stage: str | None = None) -> None:
        """Load the parts of a stage: "fit", "validate", "test", "predict", or None for all parts that exist.

        Raises InputError if a part of the stage is missing.
        """
        for part in _PARTS_OF_STAGE[stage] if stage else filter(self._exists, PARTS):
            setattr(self, f"{part}_{self._kind}", self._part(part))

    def train_dataloader(self) -> DataLoader[_Batch]:
        """This rank's share of the shuffled batches; in a resumed run the first epoch begins at its next batch."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[_Batch]:
        """The validation data, longest batches first; each row once over all ranks."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[_Batch]:
        """The test data, longest batches first; each row once over all ranks."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[_Batch]:
        """The same as ``test_dataloader``."""
        return self.test_dataloader()

    @abstractmethod
    def _exists(self, part: Part) -> bool:
        """Whether there is data of a part."""

    @abstractmethod
    def _load(self, part: Part) -> _Rows:
        """Read and encode a part. Raises InputError if it is missing."""

    @abstractmethod
    def _lengths(self, rows: _Rows) -> tuple[np.ndarray, np.ndarray]:
        """The cost of each row's source and target in a batch, int64 [N] each."""

    @abstractmethod
    def _collate(self, rows: _Rows) -> Callable[[Sequence[int]], _Batch]:
        """A function that makes a batch of the rows with the given indices. Worker processes get it pickled."""

    def _part(self, part: Part) -> _Rows:
        if part not in self._loaded:
            self._loaded[part] = self._load(part)
        return self._loaded[part]

    def _loader(self, part: Part) -> DataLoader[_Batch]:
        rows, training = getattr(self, f"{part}_{self._kind}"), part == "train"
        sampler = self._sampler(rows, self._batch_sizes[not training], training)
        if training:
            _place_in_epoch(sampler, self.trainer)
        return DataLoader(
            cast(Any, range(len(rows))),
            batch_sampler=sampler,
            num_workers=self.workers,
            collate_fn=self._collate(rows),
            pin_memory=torch.cuda.is_available(),
        )

    def _sampler(self, rows: _Rows, batch_size: int, shuffle: bool) -> TokenBatchSampler:
        return TokenBatchSampler(*self._lengths(rows), batch_size, shuffle, self.seed, *self._rank())

    def _rank(self) -> tuple[int, int]:
        """This process's rank and the number of processes that share the batches; 0 and 1 without a trainer."""
        if self.trainer is None:
            return 0, 1
        # Lightning has no public attribute for this.
        if self.trainer.world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            raise InputError(
                "The batches are already divided among the processes; set trainer.use_distributed_sampler to false."
            )
        return self.trainer.global_rank, self.trainer.world_size


class PartsOfImages(PartsOfData[_Rows, _Batch], ABC):
    """Images of one size, in batches of a fixed number.

    Args:
        batch_size: Images in a training batch.
        validation_batch_size: Images in a batch of validation, test and prediction; ``batch_size`` if None.
        workers: Processes that prepare batches.
        seed: Decides the order of the training images.

    Raises:
        InputError: A number is out of range.
    """

    def __init__(self, batch_size: int, validation_batch_size: int | None, workers: int, seed: int) -> None:
        super().__init__("images", batch_size, validation_batch_size, workers, seed)
        self.batch_size, self.validation_batch_size = self._batch_sizes
        for name in ("batch_size", "validation_batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if seed < 0:
            raise InputError(f"seed is {seed}; it must be 0 or more.")

    def _lengths(self, rows: _Rows) -> tuple[np.ndarray, np.ndarray]:
        # All rows are equally long, so each image counts as one token.
        ones = np.ones(len(rows), dtype=np.int64)
        return ones, ones

    def _sampler(self, rows: _Rows, batch_size: int, shuffle: bool) -> TokenBatchSampler:
        _, world_size = self._rank()
        batches = -(-len(rows) // batch_size) if shuffle else 1
        if len(rows) < -(-batches // world_size) * world_size:
            raise InputError(
                f"{len(rows)} images make {batches} batches of at most {batch_size}, which {world_size} processes"
                " cannot share; raise batch_size or use fewer processes."
            )
        return super()._sampler(rows, batch_size, shuffle)


def _place_in_epoch(sampler: TokenBatchSampler, trainer: pl.Trainer | None) -> None:
    """Set a sampler of training batches to the run's position: in a resumed run, the batch after its checkpoint."""
    if trainer is None:
        return
    resumes_later = trainer.ckpt_path is not None and not trainer.fit_loop.is_resuming
    if resumes_later and not trainer.optimizers:
        raise InputError(
            "configure_optimizers asked for the number of training batches before the checkpoint was "
            "restored, so this run could not go on where it stopped: ask for "
            "trainer.estimated_stepping_batches when the schedule first needs it"
        )
    epoch, batch = next_position(trainer, len(sampler))
    # Lightning makes the first iterator, and workers read from it, before it calls set_epoch.
    sampler.set_epoch(epoch)
    sampler.start_at(batch)
