"""W&B that never gets in the way of a run."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path
from typing import Literal

from pytorch_lightning.loggers import WandbLogger

logger = logging.getLogger(__name__)

PROJECT = "lightning_bpd"


def wandb_logger(folder: Path, mode: Literal["offline", "online"]) -> WandbLogger | None:
    """A logger that writes to ``<folder>/wandb``, or None, after a warning, when W&B cannot start.

    A resumed run goes on under its old id, so that W&B shows one run.

    Args:
        folder: The run's folder; its name is the name of the run.
        mode: ``online`` also sends to the server, which needs a key and a network.
    """
    try:
        import wandb
        from wandb.errors import Error
    except ImportError as error:
        logger.warning("Going on without W&B: %s", error)
        return None
    # Once a run is started with a prompt for a key, nothing else of it can be relied on: ask for the key beforehand.
    if mode == "online" and not wandb.login(anonymous="never", timeout=1):
        logger.warning("W&B has no key for --wandb online (see wandb login): writing offline")
        mode = "offline"
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(
            project=PROJECT,
            name=folder.name,
            dir=folder,
            id=_run_id(folder / "wandb" / "run_id"),
            resume="allow",
            mode=mode,
            settings=wandb.Settings(silent=True, console="off", init_timeout=30),
        )
    except (Error, OSError) as error:
        logger.warning("Going on without W&B: %s", error)
        return None
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run, save_dir=folder, project=PROJECT)


def _run_id(path: Path) -> str:
    if not path.is_file():
        path.write_text(secrets.token_hex(4), encoding="utf-8")
    return path.read_text(encoding="utf-8")
