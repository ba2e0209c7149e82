"""A module and data that train in milliseconds, behind the real command line: `python tiny_training.py fit ...`."""

import sys
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_bpd.cli import app, main
from lightning_bpd.datamodules.resume import next_position
from lightning_bpd.interfaces import ParallelBatch, TokenRows


class TinyModule(pl.LightningModule):
    """Fits a line; each batch's numbers depend only on how many batches came before it."""

    bleu_signature = "none"

    def __init__(self, learning_rate: float = 0.05, pause: float = 0.0, inputs: int = 4) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.pause = pause
        self.layer = nn.Linear(inputs, 1)
        self.dropout = nn.Dropout(0.1)
        self.validation_outputs: dict[int, str] = {}

    def training_step(self, batch: ParallelBatch, batch_index: int) -> torch.Tensor:
        time.sleep(self.pause)
        generator = torch.Generator().manual_seed(self.trainer.fit_loop.total_batch_idx)
        inputs = torch.rand(8, 4, generator=generator)
        loss = (self.layer(inputs).squeeze(1) - inputs.sum(1)).square().mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: ParallelBatch, batch_index: int) -> None:
        time.sleep(self.pause)
        loss = (self.layer.weight - 1).square().sum()
        self.log("val/loss", loss)
        self.log("val/perplexity", loss.exp())
        self.log("val/bleu", 100 - loss)
        self.validation_outputs.update({int(i): f"output {i}" for i in batch.index})

    def test_step(self, batch: ParallelBatch, batch_index: int) -> None:
        self.log("test/bleu", 100 - (self.layer.weight - 1).square().sum())

    def predict_step(self, batch: ParallelBatch, batch_index: int) -> dict[int, str]:
        return {int(i): f"output {i}" for i in batch.index}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.learning_rate)


class TinyData(pl.LightningDataModule):
    """Rows of two tokens; the text behind them is made up."""

    def __init__(self, folder: str = "none", batches: int = 10) -> None:
        super().__init__()
        self.folder = folder
        self.batches = batches

    def loader(self, batches: int) -> DataLoader:
        rows = TokenRows(torch.zeros(3, 2, dtype=torch.long), torch.full((3,), 2))
        data = [ParallelBatch(rows, rows, torch.arange(3) + 3 * i) for i in range(batches)]
        # Largest index first, as a loader that sorts by length would do.
        return DataLoader(data[::-1], batch_size=None)

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        next_position(self.trainer, self.batches)
        return self.loader(self.batches)

    def val_dataloader(self) -> DataLoader:
        return self.loader(2)

    def test_dataloader(self) -> DataLoader:
        return self.loader(2)

    def predict_dataloader(self) -> DataLoader:
        return self.loader(2)

    def sources(self, stage: str) -> list[str]:
        return [f"{stage} source {i}" for i in range(6)]

    def references(self, stage: str) -> list[str]:
        return [f"{stage} reference {i}" for i in range(6)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    app.DEFAULT_CONFIG = Path(__file__).with_name("tiny.yaml")
    main(sys.argv[1:])
