"""A picture of generated images at each validation of a model that generates them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_bpd.callbacks.ranks import shows
from lightning_bpd.decoding import Sampled
from lightning_bpd.interfaces import check_range
from lightning_bpd.measuring.generation import OWN, draw_plans, generate
from lightning_bpd.tracking.weights_and_biases import wandb_loggers


class GeneratedImages(Callback):
    """At each validation of ``ImageGeneration``, draws images by each plan, to ``generated.png`` and W&B.

    Other modules are left alone. The same seed is used each time, so pictures of later validations can be compared.

    Args:
        plans: The plans: ``own`` for the order that the network was trained for, or, with position queries, raster,
            regions-N, consecutive-N, random-P, halton-P and locality-P.
        rows: Images of each class; 0 for no picture.
        classes: At most so many classes are shown.
        guidance: Scale of classifier-free guidance; 1 is none.
        seed: Decides the noise.
    """

    def __init__(
        self,
        plans: Sequence[str] = (OWN,),
        rows: int = 1,
        classes: int = 10,
        guidance: float = 1.0,
        seed: int = 0,
    ) -> None:
        check_range(0, 100, rows=rows, guidance=guidance)
        check_range(1, classes=classes)
        self.plans, self.rows, self.classes = list(plans), rows, classes
        self.guidance, self.seed = guidance, seed

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
        if (
            batch_idx
            or not self.rows
            or not shows(trainer)
            or getattr(pl_module, "regime", "") != "generation"
        ):
            return
        network: Any = pl_module.network
        codec = trainer.datamodule.codec  # type: ignore[attr-defined]
        columns = min(self.classes, len(codec.classes))
        labels = list(range(columns)) * self.rows
        with trainer.precision_plugin.forward_context():
            made = [
                generate(network, codec, labels, plan, Sampled(seed=self.seed), self.guidance)
                for plan in self.plans
            ]
        picture = Path(trainer.default_root_dir) / "generated.png"
        draw_plans(made, picture, columns, f"After {trainer.global_step} steps")
        for logger in wandb_loggers(trainer):
            logger.log_image("val/generated", [str(picture)], step=trainer.global_step)
