"""Warnings of libraries that do not apply here and are hidden."""

from __future__ import annotations

import logging
import warnings

# Each warning is right in general and does not apply here.
MESSAGES = (
    # Lightning calls a deprecated function of torch.
    r".*isinstance\(treespec, LeafSpec\).*",
    # Lightning advises worker processes, but batches of memory-mapped rows are ready sooner without them.
    r".*does not have many workers.*",
    # Weight averaging copies the whole network, which is meant to fit into memory.
    r".*WeightAveraging callback with a model that overrides the configure_model.*",
    # Measuring needs only the averaged weights, and they are loaded.
    r".*loading a checkpoint outside the 'fit' stage.*",
    # A frozen base is meant to be in eval mode.
    r".*module\(s\) in eval mode at the start of training.*",
    # Our sampler returns every index.
    r".*custom batch sampler `TokenBatchSampler` for prediction.*",
    # The data modules resume within an epoch from Lightning's own progress, not from a state of the loader.
    r".*your dataloader is not resumable.*",
)


def keep_quiet() -> None:
    """Hide Lightning's information messages and the warnings above."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message=message)
