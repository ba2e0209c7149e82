"""Cached = uncached, rewound = fresh, reordered = separate, batched = single; in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd.interfaces import TokenRows
from lightning_bpd.models import Architecture, EncoderDecoder

VOCABULARY = 11


def network(
    norm: str = "pre", positions: str = "sinusoidal", tie: str = "all", seed: int = 0
) -> EncoderDecoder:
    torch.manual_seed(seed)
    architecture = Architecture(
        d_model=16, heads=2, encoder_layers=2, decoder_layers=2, feed_forward=32, dropout=0.0,
        norm=norm, positions=positions, tie=tie, max_length=64,
    )  # fmt: skip
    return EncoderDecoder(architecture, VOCABULARY, VOCABULARY, bos_id=2, eos_id=3).double().eval()


def random_source(rows: int, seed: int) -> TokenRows:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (rows,), generator=generator)
    tokens = torch.randint(0, VOCABULARY, (rows, int(lengths.max())), generator=generator)
    return TokenRows(tokens, lengths)


def rows_of(source: TokenRows, rows: torch.Tensor) -> TokenRows:
    lengths = source.lengths[rows]
    return TokenRows(source.tokens[rows, : int(lengths.max())], lengths)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("tie", ["all", "output", "none"])
@torch.inference_mode()
def test_cached_equals_uncached(norm, positions, tie):
    model = network(norm, positions, tie)
    source = random_source(5, seed=1)
    target = torch.randint(0, VOCABULARY, (5, 12))
    state = model.start(source, None, 12)
    cached = torch.cat([model.step(part, state) for part in target.split([1, 4, 1, 6], dim=1)], dim=1)
    torch.testing.assert_close(cached, model(source, target), rtol=0, atol=1e-12)
    assert state.lengths.tolist() == [12] * 5


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 5),
    moves=st.lists(
        st.tuples(st.sampled_from(["step", "rewind", "reorder"]), st.integers(0, 10_000)), max_size=12
    ),
)
@settings(max_examples=60, deadline=None)
@torch.inference_mode()
def test_any_history_equals_a_fresh_state(seed, rows, moves):
    """Whatever was fed, rewound and reordered: each row goes on as a fresh row with the same tokens would."""
    model = network(seed=seed % 3)
    source = random_source(rows, seed)
    longest = 40
    state = model.start(source, None, longest)
    history = [[] for _ in range(rows)]
    origin = list(range(rows))
    for kind, number in [*moves, ("step", seed)]:
        generator = torch.Generator().manual_seed(number)
        count = len(history)
        if kind == "step":
            width = int(torch.randint(1, 5, (), generator=generator))
            if max(map(len, history)) + width > longest:
                continue
            tokens = torch.randint(0, VOCABULARY, (count, width), generator=generator)
            hidden = model.step(tokens, state)
            for row, new in enumerate(tokens.tolist()):
                history[row] = history[row] + new
                alone = rows_of(source, torch.tensor([origin[row]]))
                expected = model(alone, torch.tensor([history[row]]))[0, -width:]
                torch.testing.assert_close(hidden[row], expected, rtol=0, atol=1e-11)
        elif kind == "rewind":
            lengths = [int(torch.randint(0, len(row) + 1, (), generator=generator)) for row in history]
            state.rewind(torch.tensor(lengths))
            history = [row[:length] for row, length in zip(history, lengths, strict=True)]
        else:
            picked = torch.randint(
                0, count, (int(torch.randint(1, 7, (), generator=generator)),), generator=generator
            )
            state.reorder(picked)
            history = [history[row] for row in picked.tolist()]
            origin = [origin[row] for row in picked.tolist()]
        assert state.lengths.tolist() == [len(row) for row in history]


@torch.inference_mode()
def test_rows_name_their_source():
    model = network()
    source = random_source(3, seed=4)
    rows = torch.tensor([2, 0, 0, 1])
    tokens = torch.randint(0, VOCABULARY, (4, 3))
    repeated = model.step(tokens, model.start(source, rows, 3))
    separate = model.step(tokens, model.start(rows_of(source, rows), None, 3))
    torch.testing.assert_close(repeated, separate, rtol=0, atol=1e-12)


@torch.inference_mode()
def test_padding_is_never_looked_at():
    model = network()
    source = random_source(4, seed=5)
    spoiled = source.tokens.clone()
    for row, length in enumerate(source.lengths.tolist()):
        spoiled[row, length:] = VOCABULARY - 1
    target = torch.randint(0, VOCABULARY, (4, 6))
    torch.testing.assert_close(
        model(TokenRows(spoiled, source.lengths), target), model(source, target), rtol=0, atol=0
    )


@torch.inference_mode()
def test_the_cache_refuses_what_it_cannot_hold():
    model = network()
    state = model.start(random_source(2, seed=0), None, 3)
    model.step(torch.zeros(2, 3, dtype=torch.long), state)
    with pytest.raises(ValueError, match="made for 3 tokens a row, this call needs 4"):
        model.step(torch.zeros(2, 1, dtype=torch.long), state)
    with pytest.raises(ValueError, match=r"cannot rewind rows of lengths \[3, 3\] to \[4, 0\]"):
        state.rewind(torch.tensor([4, 0]))
