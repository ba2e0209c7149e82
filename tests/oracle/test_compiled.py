"""Compiled decoding gives the tokens and blocks of the loop that it was written after."""

import shutil
from itertools import product

import pytest
import torch
from drafters import network, row_of, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from test_parallel_drafter import SAMPLED, case, drafter_of
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_bpd.decoding import (
    GREEDY,
    DecodingOptions,
    Speculative,
    blockwise,
    decode,
    parse_acceptance,
    sequential,
)
from lightning_bpd.decoding import compiled as module
from lightning_bpd.decoding.compiled import compiled, obstacle
from lightning_bpd.drafters import HeadShape
from lightning_bpd.interfaces import TokenRows
from lightning_bpd.kernels import ahead_of_time
from lightning_bpd.models import Architecture, EncoderDecoder

VOCABULARY = 8
WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
}


class NoWaits(TorchDispatchMode):
    """Refuses what makes a host wait for its device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in WAITS, f"{function} waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.fixture
def traced(monkeypatch):
    """Calls iterations as they are, without compiling them; counts them."""
    calls = []

    def iteration(setting, example):
        def run(*arguments):
            calls.append(setting.block_size)
            with NoWaits():
                return setting.iterate(*arguments)

        return run

    monkeypatch.setattr(module, "_iteration", iteration)
    # As where it is traced: a few rows on a CPU would choose their proposals by NumPy.
    monkeypatch.setattr("lightning_bpd.drafters.correction.MOST_ROWS_ON_HOST", 0)
    return calls


def heads_of(model, seed, **given):
    torch.manual_seed(seed)
    heads = HeadShape(block_size=8, d_hidden=16, **given).build(model).double().eval()
    for weight in heads.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return heads


def drafters(model, seed):
    yield drafter_of(model, seed, layers=1 + seed % 2, candidates=[None, 5, VOCABULARY][seed % 3]).drafter(
        model
    )
    yield heads_of(model, seed, following=bool(seed % 2), correction=3 * (seed % 2)).drafter(model)


@pytest.mark.parametrize("family", ["pre", "post", "images"])
@pytest.mark.parametrize("sampler", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("rule", ["exact", "top-2", "distance-1", "minimum-3+top-2"])
def test_an_iteration_of_tensors_equals_the_loop(family, sampler, rule, traced):
    acceptance = parse_acceptance(rule)
    for seed in range(3):
        model, source = case(family, seed, rows=1 + 2 * seed)
        for drafter, size, ahead in product(drafters(model, seed), (1, 2, 5, 8), (False, True)):
            given = drafter, source, size, acceptance, 7, sampler
            expected, found = blockwise(model, *given), compiled(model, *given, ahead=ahead)
            assert found.rows() == expected.rows(), (seed, size, ahead)
            assert torch.equal(found.accepted, expected.accepted)
            assert torch.equal(found.calls, expected.calls)
            if size == 1:
                assert found.rows() == sequential(model, source, 7, sampler).rows()
    assert set(traced) == {1, 2, 5, 8}


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 6),
    longest=st.integers(1, 5),
    extra=st.integers(0, 90),
    block_size=st.integers(1, 8),
    ahead=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_rows_leave_and_caches_grow(seed, rows, longest, extra, block_size, ahead):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_iteration", lambda setting, example: setting.iterate)
        patch.setattr(module, "STEP", 3)
        model, source = network(seed, vocabulary=VOCABULARY), sources(rows, longest, seed, VOCABULARY)
        drafter = next(drafters(model, seed))
        numbers = torch.randperm(100, generator=torch.Generator().manual_seed(seed))[:rows]
        expected = blockwise(model, drafter, source, block_size, extra_length=extra, rows=numbers)
        found = compiled(model, drafter, source, block_size, extra_length=extra, rows=numbers, ahead=ahead)
        assert found.rows() == expected.rows()
        assert torch.equal(found.accepted, expected.accepted)


def test_what_cannot_be_compiled_is_decoded_plainly(monkeypatch):
    model, source = network(0), sources(2, 5, 0)
    drafter = drafter_of(model).drafter(model)

    class Own:
        block_size = 2

    assert obstacle(model, Own()) == "the calls of Own cannot be compiled"
    assert "different lengths" in obstacle(model, drafter, parse_acceptance("adaptive"))
    assert "distributions" in obstacle(model, drafter, Speculative(SAMPLED))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(module, "missing_compiler", lambda: "there is no C++ compiler, such as g++")
    assert "g++" in obstacle(model, drafter)
    options = DecodingOptions("blockwise", compile=True)
    assert decode(model, source, options, drafter).rows() == blockwise(model, drafter, source, 8).rows()


# Really compiled

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


def float_network(seed):
    torch.manual_seed(seed)
    shape = Architecture(
        d_model=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=32, dropout=0.0, norm="pre"
    )
    return EncoderDecoder(shape, VOCABULARY, VOCABULARY, bos_id=1, eos_id=2).eval()


@needs_compiler
def test_compiled_code_is_kept_and_knows_no_weights(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    greedy = DecodingOptions(compile=True, extra_length=9)
    for seed in range(2):
        model = float_network(seed)
        for number in range(4):
            source = row_of(sources(4, 6, seed, VOCABULARY), number)
            assert decode(model, source, greedy).rows() == sequential(model, source, 9).rows()
        # Weights that change in place, as in training, are those that decode.
        torch.nn.init.normal_(model.target_embedding.weight)
        assert decode(model, source, greedy).rows() == sequential(model, source, 9).rows()
    # The encoder, the iteration after sources without padding, and at most one for a single token, which is padded.
    (folder,) = (path for path in tmp_path.rglob("compiled"))
    assert folder.stat().st_mode & 0o077 == 0
    assert 2 <= len(list(folder.iterdir())) <= 3


@pytest.mark.slow
@needs_compiler
def test_a_table_of_positions_that_grew_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = float_network(0).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    torch.nn.init.normal_(model.target_embedding.weight, std=0.05)  # positions decide
    model.ends = frozenset()
    source = row_of(sources(1, 4, 0, VOCABULARY), 0)
    for extra in (20, 1500):
        expected = sequential(model, source, extra).rows()
        assert compiled(model, None, source, 1, extra_length=extra).rows() == expected
    # The test is about a token that has another position in another table.
    model._sinusoids = model._sinusoids.clone()
    model._sinusoids[1000:] = 0.0
    assert sequential(model, source, 1500).rows() != expected
    long = TokenRows(torch.randint(3, VOCABULARY, (1, 1100)), torch.tensor([1100]))
    model._sinusoids = model._sinusoid_table(1024).double()
    assert compiled(model, None, long, 1, extra_length=0).rows() == sequential(model, long, 0).rows()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(("family", "sampler"), [("text", GREEDY), ("images", GREEDY), ("text", SAMPLED)])
def test_compiled_blocks_equal_the_loop(family, sampler, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if family == "text":
        model, source = float_network(3), sources(5, 6, 3, VOCABULARY)
    else:
        model, source = case("images", 3, rows=5)
        model.float()
    for drafter in (drafter_of(model, 3).float().drafter(model), heads_of(model, 3).float().drafter(model)):
        for rows in (source, row_of(source, 0)):
            given = drafter, rows, 4, parse_acceptance("exact"), 60, sampler
            expected = blockwise(model, *given)
            for ahead in (False, True):
                found = compiled(model, *given, ahead=ahead)
                assert found.rows() == expected.rows()
                assert torch.equal(found.accepted, expected.accepted)
    assert ahead_of_time.code_folder().is_relative_to(tmp_path)
