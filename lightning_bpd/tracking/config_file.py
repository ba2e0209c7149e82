"""The complete configuration of a run, stored beside its results."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import SaveConfigCallback

from lightning_bpd.files import write_atomically
from lightning_bpd.tracking.weights_and_biases import wandb_loggers


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration to ``config.yaml`` in the run's folder and to W&B, when training starts.

    The file stays unchanged when a run is measured, or when the checkpoint of a resumption does not fit.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Do nothing: the checkpoint is not restored yet."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the configuration on rank 0."""
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file without ``ckpt_path``, which belongs to one command and not to the run."""
        config = self.config.clone()
        config.pop("config", None)
        config["ckpt_path"] = None
        text = self.parser.dump(config, skip_none=False)
        write_atomically(Path(trainer.default_root_dir) / self.config_filename, text)
        for logger in wandb_loggers(trainer):
            logger.log_hyperparams(yaml.safe_load(text))
