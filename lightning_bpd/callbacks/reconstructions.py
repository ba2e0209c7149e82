"""A picture of reconstructions at each validation of a tokenizer of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightning_bpd.callbacks.ranks import shows
from lightning_bpd.codecs.images import to_png
from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring.arms import spread
from lightning_bpd.measuring.image_grids import pairs_grid
from lightning_bpd.tracking.weights_and_biases import wandb_loggers


class Reconstructions(Callback):
    """At each validation of a tokenizer, draws images above their reconstructions, to ``reconstructions.png`` and W&B.

    Other modules are left alone.

    Args:
        count: Images to show, spread evenly over the validation set; 0 for no picture.

    Raises:
        InputError: ``count`` is negative.
    """

    def __init__(self, count: int = 24) -> None:
        if count < 0:
            raise InputError(f"reconstructions need a count of at least 0, not {count}")
        self.count = count

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw after the first batch: averaged weights are loaded by then, and removed after the last batch."""
        if batch_idx or not self.count or not shows(trainer) or not hasattr(pl_module, "reconstruct"):
            return
        # Reconstruct in the precision of the module's steps.
        with trainer.precision_plugin.forward_context():
            content = reconstructions(pl_module, trainer.datamodule, self.count)  # type: ignore[attr-defined]
        picture = Path(trainer.default_root_dir) / "reconstructions.png"
        write_atomically(picture, content, durable=False)
        for logger in wandb_loggers(trainer):
            logger.log_image("val/reconstructions", [str(picture)], step=trainer.global_step)


@torch.no_grad()
def reconstructions(module: Any, data: Any, count: int) -> bytes:
    """Some validation images above what ``module.reconstruct`` makes of them, as the bytes of a PNG file."""
    images = data.references("validation")
    chosen = np.stack([images[index] for index in spread(list(range(len(images))), count)])
    output = module.reconstruct(torch.from_numpy(chosen).to(module.device)).cpu().numpy()
    return to_png(pairs_grid(list(chosen), list(output)))
