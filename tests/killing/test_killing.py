"""A few kills of each kind; ``python tests/killing/kill.py`` makes a hundred."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("kind", ["distill", "grid", "model", pytest.param("fit", marks=pytest.mark.slow)])
def test_what_is_killed_and_resumed_is_what_was_never_killed(kind):
    # In a process of its own, since it forks.
    command = [sys.executable, str(Path(__file__).with_name("kill.py")), "--kinds", kind, "--kills", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{kind} {{'kills': 3" in done.stdout
