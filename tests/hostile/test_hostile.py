"""Hostile inputs, a few of those that `run.py` tries by the thousand."""

import pytest
from artefacts import write_artefacts, write_results
from inputs import KINDS
from trial import tried

# 210 is the first run that is resumed, the rarest kind.
NUMBERS = [*range(119), 210]


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artefacts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        write_results(write_artefacts(folder))
    return folder


@pytest.mark.parametrize("number", NUMBERS)
def test_an_input_is_used_or_refused_in_one_line(artefacts, tmp_path, number):
    command, wrong = tried(number, 1, artefacts, tmp_path / "input")
    assert wrong is None, f"{command}\n{wrong}"


def test_every_kind_is_among_the_first_inputs(artefacts, tmp_path):
    from inputs import make_input

    found = {make_input(number, 1, artefacts, tmp_path / str(number))[0] for number in NUMBERS}
    assert found == {kind.__name__ for kind in KINDS}
