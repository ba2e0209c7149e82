from pathlib import Path

import pytest
from small_training import write_text


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))
