import logging
import os

# Two cores shared with the library's own threads run many times slower than one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def package_logger():
    """The command line, run inside a test or a fixture of a whole file, shows what the package logs: not elsewhere."""
    logger = logging.getLogger("lightning_bpd")

    def reset():
        # The handler writes to the standard error of the test or fixture that ran the command.
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)

    reset()
    yield
    reset()


class Deprecations(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        if "deprecated" in record.getMessage():
            self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def no_deprecated_calls():
    """transformers logs some of its deprecations, so pytest's filter of warnings does not see them."""
    logger, handler = logging.getLogger("transformers"), Deprecations()
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert not handler.messages
