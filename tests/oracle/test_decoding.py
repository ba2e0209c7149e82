"""Greedy and beam search against searches that need no cache, no batch and no care; in float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd.decoding import beam_search, greedy
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.models import Architecture, EncoderDecoder

BOS, EOS = 1, 2


def network(vocabulary: int, seed: int, sharpness: float = 1.0, norm: str = "pre") -> EncoderDecoder:
    torch.manual_seed(seed)
    architecture = Architecture(
        d_model=16,
        heads=2,
        encoder_layers=1,
        decoder_layers=2,
        feed_forward=32,
        dropout=0.0,
        norm=norm,
        tie="none",  # tied random weights repeat their input for ever
    )
    model = EncoderDecoder(architecture, vocabulary, vocabulary, bos_id=BOS, eos_id=EOS).double().eval()
    torch.nn.init.normal_(model.output.weight, std=sharpness)
    return model


def sources(vocabulary: int, rows: int, longest: int, seed: int) -> TokenRows:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)
    tokens = torch.randint(0, vocabulary, (rows, int(lengths.max())), generator=generator)
    return TokenRows(tokens, lengths)


def single(source: TokenRows, row: int) -> TokenRows:
    length = source.lengths[row : row + 1]
    return TokenRows(source.tokens[row : row + 1, : int(length)], length)


def log_probabilities(model: EncoderDecoder, source: TokenRows, prefix: list[int]) -> torch.Tensor:
    return model.project(model(source, torch.tensor([[BOS, *prefix]]))[0, -1]).log_softmax(-1)


@torch.inference_mode()
def plain_greedy(model: EncoderDecoder, source: TokenRows, extra_length: int) -> list[int]:
    row: list[int] = []
    while len(row) < int(source.lengths) + extra_length:
        row.append(int(log_probabilities(model, source, row).argmax()))
        if row[-1] == EOS:
            break
    return row


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 7),
    extra=st.integers(0, 8),
    norm=st.sampled_from(["pre", "post"]),
)
@settings(max_examples=60, deadline=None)
def test_greedy_equals_plain_greedy(seed, rows, extra, norm):
    model = network(9, seed, norm=norm)
    source = sources(9, rows, 5, seed)
    result = greedy(model, source, extra)
    expected = [plain_greedy(model, single(source, row), extra) for row in range(rows)]
    assert result.rows() == expected
    assert result.calls.tolist() == result.lengths.tolist() == [len(row) for row in expected]
    assert result.tokens.shape == (rows, max(map(len, expected)))


def test_greedy_rows_end_at_every_place():
    """The random models above do end at once, inside and at the limit: the property is not empty."""
    endings = set()
    for seed in range(60):
        source = sources(9, 4, 5, seed)
        limits = (source.lengths + 3).tolist()
        for row, limit in zip(greedy(network(9, seed), source, 3).rows(), limits, strict=True):
            endings.add("limit" if row[-1] != EOS else "at once" if len(row) == 1 else "inside")
            assert len(row) <= limit
    assert endings == {"limit", "at once", "inside"}


@torch.inference_mode()
def exhaustive(model: EncoderDecoder, source: TokenRows, vocabulary: int, alpha: float, extra: int):
    """Every possible row and its score, best first."""
    limit = int(source.lengths) + extra
    others = [token for token in range(vocabulary) if token != EOS]
    scored = []
    for length in range(1, limit + 1):
        for body in itertools.product(others, repeat=length - 1):
            for last in range(vocabulary) if length == limit else [EOS]:
                row = [*body, last]
                steps = model.project(model(source, torch.tensor([[BOS, *row[:-1]]]))[0]).log_softmax(-1)
                total = float(steps[range(length), row].sum())
                scored.append((total / ((5 + length) / 6) ** alpha, row))
    return sorted(scored, reverse=True)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_is_exhaustive(alpha, seed):
    vocabulary, extra, best = 4, 2, 3
    model = network(vocabulary, seed, sharpness=0.2)
    source = sources(vocabulary, 3, 2, seed)
    beam = vocabulary**4
    result = beam_search(model, source, beam=beam, alpha=alpha, extra_length=extra)
    several = beam_search(model, source, beam=beam, alpha=alpha, extra_length=extra, best=best)
    for row in range(3):
        expected = exhaustive(model, single(source, row), vocabulary, alpha, extra)[:best]
        assert result.rows()[row] == expected[0][1]
        assert float(result.scores[row]) == pytest.approx(expected[0][0], abs=1e-9)
        found = slice(row * best, (row + 1) * best)
        assert several.rows()[found] == [tokens for _, tokens in expected]
        assert several.scores[found].tolist() == pytest.approx([score for score, _ in expected], abs=1e-9)


def test_a_beam_may_find_fewer_hypotheses_than_were_asked_for():
    model, source = network(9, 1), sources(9, 3, 5, 1)
    for best in (0, 5):
        with pytest.raises(InputError, match="the best 1 to 4"):
            beam_search(model, source, beam=4, best=best)
    # One call: the first token is the last, and of three tokens three rows can be made.
    limited = network(3, 1)
    result = beam_search(
        limited, TokenRows(torch.tensor([[EOS]]), torch.tensor([1])), 4, extra_length=0, best=4
    )
    assert result.lengths.tolist() == [1, 1, 1, 0]
    assert sorted(result.tokens[:3, 0].tolist()) == [0, 1, 2]


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 6),
    beam=st.integers(1, 5),
    alpha=st.sampled_from([0.0, 0.6]),
)
@settings(max_examples=40, deadline=None)
def test_a_batch_of_beams_equals_single_beams(seed, rows, beam, alpha):
    model = network(9, seed)
    source = sources(9, rows, 5, seed)
    together = beam_search(model, source, beam, alpha, extra_length=6)
    for row in range(rows):
        alone = beam_search(model, single(source, row), beam, alpha, extra_length=6)
        assert together.rows()[row] == alone.rows()[0]
        assert float(together.scores[row]) == pytest.approx(float(alone.scores[0]), abs=1e-9)
        assert int(together.calls[row]) == int(alone.calls[0]) >= int(alone.lengths[0])
