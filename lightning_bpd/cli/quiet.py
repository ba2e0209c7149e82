"""What a first run need not read."""

from __future__ import annotations

import logging
import warnings

# Each is right in general and beside the point here.
MESSAGES = (
    # Lightning calls something of torch that is on its way out.
    r".*isinstance\(treespec, LeafSpec\).*",
    # Lightning advises worker processes; batches of memory-mapped rows are ready sooner without.
    r".*does not have many workers.*",
    # Weight averaging copies the whole network: it is meant to be one that fits.
    r".*WeightAveraging callback with a model that overrides the configure_model.*",
    # Measuring needs the averaged weights alone, and these it gets.
    r".*loading a checkpoint outside the 'fit' stage.*",
    # A frozen base is meant to be in eval mode.
    r".*module\(s\) in eval mode at the start of training.*",
    # Ours returns every index.
    r".*custom batch sampler `TokenBatchSampler` for prediction.*",
    # The data modules go on in mid-epoch by Lightning's own progress, not by a state of the loader.
    r".*your dataloader is not resumable.*",
)


def keep_quiet() -> None:
    """Show only Lightning's warnings, and of these not the ones above."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message=message)
