import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

pytest.importorskip("transformers")
import small_models


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    return small_models.write_text(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def marian(tmp_path_factory) -> Path:
    return small_models.marian(tmp_path_factory.mktemp("models") / "marian")


@pytest.fixture(scope="session")
def t5(tmp_path_factory) -> Path:
    return small_models.t5(tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    return small_models.causal(tmp_path_factory.mktemp("models") / "llama")
