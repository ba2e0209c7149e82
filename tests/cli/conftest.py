import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("tiny_training.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "WANDB_API_KEY": ""}


@pytest.fixture
def start(tmp_path):
    """Starts the command line in a process of its own, in the test's folder."""
    processes = []

    def start(*args, program=(), env=None):
        process = subprocess.Popen(
            [*program, sys.executable, str(SCRIPT), *args],
            cwd=tmp_path,
            env={**ENVIRONMENT, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Tests that run under nohup would pass on that SIGHUP is ignored.
            preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start):
    """Runs the command line and returns its exit code and what it wrote on standard error."""

    def run(*args, **options):
        process = start(*args, **options)
        _, errors = process.communicate(timeout=600)
        return process.returncode, errors

    return run
