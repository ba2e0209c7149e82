"""Targets that the base writes itself: made once, by ``fit``, and the same as ``distill`` makes."""

import subprocess
import sys
from pathlib import Path

import pytest
from small_distillation import contents

from lightning_bpd.cli import distill as command
from lightning_bpd.cli import own_text
from lightning_bpd.cli.distill import distill
from lightning_bpd.cli.own_text import use_own_text
from lightning_bpd.interfaces import InputError

DECODE = {"extra_length": 20, "max_new_tokens": None}


def data_of(corpus, cache, **others):
    return {
        "folder": str(corpus), "train": ("train",), "source_language": "en", "target_language": "de",
        "cache": str(cache), "max_length": 60, "distilled": None, "mix": "gold", "self_distillation": False,
        **others,
    }  # fmt: skip


@pytest.fixture
def no_distill(monkeypatch):
    monkeypatch.setattr(command, "distill", lambda *_, **__: pytest.fail("the text was made again"))


@pytest.fixture(scope="module")
def written(corpus, teachers, tmp_path_factory):
    """The base, the data's arguments after the text was made, and the cache."""
    cache = tmp_path_factory.mktemp("cache")
    data = data_of(corpus, cache)
    use_own_text({"targets": "self", "base": teachers[0]}, data, DECODE)
    return teachers[0], data, cache


def test_the_text_is_what_distill_makes(written, corpus, tmp_path):
    base, data, _ = written
    assert (data["mix"], data["self_distillation"]) == ("distilled", True)
    distill(base, str(corpus), str(tmp_path / "out"), decoder="greedy", extra_length=20, max_length=60)
    own, plain = contents(Path(data["distilled"])), contents(tmp_path / "out")
    assert own == plain


def test_the_text_is_made_once(written, corpus, no_distill):
    base, data, cache = written
    again = data_of(corpus, cache, mix="both")
    use_own_text({"targets": "self", "base": base}, again, DECODE)
    assert (again["distilled"], again["mix"]) == (data["distilled"], "both")
    # A run that is resumed starts from the configuration that names the text already.
    use_own_text({"targets": "self", "base": base}, dict(data), DECODE)


def test_another_base_or_limit_has_other_text(written, corpus, teachers, monkeypatch):
    base, data, cache = written
    made = []
    monkeypatch.setattr(command, "distill", lambda base, data, output, **_: made.append(output))
    use_own_text({"targets": "self", "base": teachers[1]}, data_of(corpus, cache), DECODE)
    use_own_text({"targets": "self", "base": base}, data_of(corpus, cache), {**DECODE, "extra_length": 21})
    assert len({*made, data["distilled"]}) == 3


def test_other_ranks_wait_for_the_first(corpus, teachers, tmp_path, monkeypatch):
    seen = []

    def look(_):
        """The first rank ends while another one waits."""
        seen.append(1)
        monkeypatch.setattr(own_text.rank_zero_only, "rank", 0)
        use_own_text({"targets": "self", "base": teachers[0]}, data_of(corpus, tmp_path), DECODE)

    monkeypatch.setattr(own_text.rank_zero_only, "rank", 1)
    monkeypatch.setattr(own_text.time, "sleep", look)
    data = data_of(corpus, tmp_path)
    use_own_text({"targets": "self", "base": teachers[0]}, data, DECODE)
    assert seen == [1]
    assert Path(data["distilled"], "train.de").is_file()


def test_other_targets_change_nothing(corpus, tmp_path, no_distill):
    data = data_of(corpus, tmp_path)
    use_own_text({"targets": "data", "base": "nowhere"}, data, DECODE)
    use_own_text({}, data, DECODE)
    assert data == data_of(corpus, tmp_path)


def test_what_cannot_be_is_one_error(corpus, teachers, tmp_path):
    def refused(message, base=teachers[0], **data):
        given = data_of(corpus, tmp_path, **data)
        if data.get("distilled") == "missing":
            del given["distilled"]
        with pytest.raises(InputError, match=message):
            use_own_text({"targets": "self", "base": base}, given, DECODE)

    checkpoint = tmp_path / "best.ckpt"
    checkpoint.touch()
    refused("give --model.base the folder of a finished model", base=None)
    refused("give --model.base the folder of a finished model", base=str(checkpoint))
    refused("targets self is for text in a folder", distilled="missing")
    refused("targets self would not use elsewhere", distilled="elsewhere")


def test_one_command_trains_on_it(corpus, teachers, tmp_path):
    project = Path(__file__).parents[2]
    done = subprocess.run(
        [
            sys.executable, str(project / "train.py"), "fit",
            "--config", str(project / "configs/translation/own_text.yaml"),
            "--config", str(project / "configs/translation/frozen.yaml"),
            "--config", str(project / "configs/translation/parallel.yaml"),
            "--model.base", teachers[0], "--model.targets", "self", "--model.drafter.attention_heads", "2",
            "--data", str(corpus), "--data.cache", "cache", "--data.validation", "train", "--data.max_length", "60",
            "--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu", "--trainer.callbacks", "null",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Targets: the base's own output, in cache/own-" in done.stderr
