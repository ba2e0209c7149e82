"""distill --compile: the same bytes, and a decision that does not depend on what is left to do."""

import pytest
from small_distillation import contents, run

from lightning_bpd.cli import distill as command
from lightning_bpd.decoding import compiled as loop
from lightning_bpd.decoding import options
from lightning_bpd.distillation import decode_parts


@pytest.fixture
def traced(monkeypatch):
    """Calls iterations as they are, without compiling them; counts them."""
    calls = []

    def iteration(setting, example):
        def call(*arguments):
            calls.append(setting.block_size)
            return setting.iterate(*arguments)

        return call

    monkeypatch.setattr(loop, "_iteration", iteration)
    monkeypatch.setattr(loop, "_encode", lambda model, source: model.encoded(source))
    monkeypatch.setattr(options, "obstacle", lambda *parts: None)
    return calls


@pytest.mark.parametrize("decoder", [{"decoder": "greedy"}, {"decoder": "sample", "temperature": 0.7}])
def test_the_same_bytes(corpus, teachers, tmp_path, traced, decoder):
    plain = contents(run(teachers[0], corpus, tmp_path / "plain", processes=1, compile="never", **decoder))
    assert not traced
    made = contents(run(teachers[0], corpus, tmp_path / "made", processes=1, compile="always", **decoder))
    assert set(traced) == {1}
    assert made == plain


def test_auto_counts_the_batches_of_the_whole_corpus(corpus, teachers, tmp_path, monkeypatch):
    """One machine's share of the parts, or parts left by an interruption, are decoded as all parts are."""
    monkeypatch.setattr(options, "obstacle", lambda *parts: None)
    decisions, batches = [], []
    count = command.count_batches

    def counting(*arguments):
        batches.append(count(*arguments))
        return batches[-1]

    def make_parts(work, parts, devices, progress):
        decisions.append(work.compile)

    monkeypatch.setattr(command, "count_batches", counting)
    monkeypatch.setattr(command, "make_parts", make_parts)

    def decide(name, decoder="greedy", **given):
        run(teachers[0], corpus, tmp_path / name, decoder=decoder, shard="2/9", processes=1, **given)
        return decisions[-1]

    assert not decide("few")
    assert batches[-1] > 9
    monkeypatch.setattr(options, "BATCHES_THAT_PAY", batches[-1])
    assert decide("enough")
    assert not decide("never", compile="never")
    monkeypatch.setattr(options, "BATCHES_THAT_PAY", batches[-1] + 1)
    assert not decide("too_few")
    assert decide("always", compile="always")
    # Beam search is not written so: said, and decoded as it is.
    assert not decide("beam", "beam", compile="always")


@pytest.mark.slow
def test_truly_compiled_in_two_processes(corpus, teachers, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if options.obstacle(decode_parts.load(teachers[0]).model, None) is not None:
        pytest.skip("there is no compiler")
    plain = contents(run(teachers[0], corpus, tmp_path / "plain", processes=1, decoder="greedy"))
    made = run(teachers[0], corpus, tmp_path / "made", processes=2, decoder="greedy", compile="always")
    assert list((tmp_path / "cache").rglob("*.pt2"))
    assert contents(made) == plain
