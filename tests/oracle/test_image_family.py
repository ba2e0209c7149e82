"""The Image Transformer decoded: its cache of a window against whole rows, decoders against greedy; float64."""

import pytest
import torch
from drafters import HeadLike, Knowing, row_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd.decoding import DecodingOptions, beam_search, blockwise, decode, greedy, replay
from lightning_bpd.drafters import BlockHeads, FirstHead, HeadDrafter, HeadShape, head_losses
from lightning_bpd.interfaces import TokenRows
from lightning_bpd.models import ImageArchitecture, ImageTransformer


def network(seed: int, norm: str = "pre", local_block: int = 4, height: int = 6) -> ImageTransformer:
    """Images of ``height`` x 4 pixels of 2 channels, 6 levels, from half the size."""
    torch.manual_seed(seed)
    architecture = ImageArchitecture(
        height=height, width=4, channels=2, levels=6, scale=2, d_model=16, heads=2, encoder_layers=1,
        decoder_layers=2, feed_forward=32, dropout=0.0, norm=norm, local_block=local_block,
    )  # fmt: skip
    model = ImageTransformer(architecture).double().eval()
    torch.nn.init.normal_(model.output.weight)
    return model


def sources(model: ImageTransformer, rows: int, seed: int) -> TokenRows:
    generator = torch.Generator().manual_seed(seed)
    length = model.architecture.source_length
    return TokenRows(torch.randint(6, (rows, length), generator=generator), torch.full((rows,), length))


@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["pre", "post"]),
    local_block=st.integers(1, 9),
    block_size=st.integers(1, 10),
    rows=st.integers(1, 4),
    moves=st.lists(
        st.tuples(
            st.sampled_from(["step"] * 4 + ["rewind"] * 3 + ["far", "reorder"]), st.integers(0, 10_000)
        ),
        min_size=8,
        max_size=30,
    ),
)
@settings(max_examples=100, deadline=None)
@torch.inference_mode()
def test_any_history_equals_whole_rows(seed, norm, local_block, block_size, rows, moves):
    """Calls of up to k tokens, each row rewound by up to k, rows kept, dropped and repeated, over all of an image.

    Rewinding further is refused, or is as exact.
    """
    model = network(seed, norm, local_block)
    source = sources(model, rows, seed)
    longest = model.max_length + block_size - 1
    state = model.start(source, None, longest)
    history = [[] for _ in range(rows)]
    before = [0] * rows
    origin = list(range(rows))
    for kind, number in [*moves, ("step", seed)]:
        generator = torch.Generator().manual_seed(number)
        lengths = [len(row) for row in history]
        if kind == "step":
            # Mostly whole blocks, as in decoding.
            width = max(
                1, min(block_size, int(torch.randint(1, 2 * block_size + 1, (), generator=generator)))
            )
            if max(lengths) + width > longest:
                continue
            tokens = torch.randint(6, (len(history), width), generator=generator)
            hidden = model.step(tokens, state)
            before = lengths
            history = [row + new for row, new in zip(history, tokens.tolist(), strict=True)]
            check_last(model, source, history, origin, hidden)
        elif kind == "rewind":
            kept = [
                int(torch.randint(least, most + 1, (), generator=generator))
                for least, most in zip(before, lengths, strict=True)
            ]
            state.rewind(torch.tensor(kept))
            history = [row[:length] for row, length in zip(history, kept, strict=True)]
        elif kind == "far":
            kept = [max(0, length - number % 40) for length in lengths]
            try:
                state.rewind(torch.tensor(kept))
            except ValueError:
                continue
            history = [row[:length] for row, length in zip(history, kept, strict=True)]
            before = list(map(min, before, kept))
        else:
            count = int(torch.randint(1, 6, (), generator=generator))
            picked = torch.randint(len(history), (count,), generator=generator)
            state.reorder(picked)
            history, before, origin = (
                [every[row] for row in picked.tolist()] for every in (history, before, origin)
            )
        assert state.lengths.tolist() == [len(row) for row in history]


def check_last(model, source, history, origin, hidden):
    """The hidden states of each row's last tokens are those of whole rows; past the image there are none."""
    end = model.max_length
    whole = torch.zeros(len(history), min(end, max(map(len, history))), dtype=torch.long)
    for row, tokens in enumerate(history):
        whole[row, : len(tokens)] = torch.tensor(tokens[:end])
    expected = model(TokenRows(source.tokens[origin], source.lengths[origin]), whole)
    for row, tokens in enumerate(history):
        first, inside = len(tokens) - hidden.size(1), min(len(tokens), end)
        torch.testing.assert_close(
            hidden[row, : max(0, inside - first)], expected[row, first:inside], rtol=0, atol=1e-11
        )


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("local_block", [1, 4, 7, 48, 100])
@torch.inference_mode()
def test_cached_equals_uncached_in_any_parts(norm, local_block):
    model = network(3, norm, local_block)
    source = sources(model, 3, 3)
    target = torch.randint(7, (3, 48))
    expected = model(source, target)
    for parts in ([1] * 48, [48], [2, 5, 3, 20, 1, 17], [7] * 6 + [6], [4] * 12):
        state = model.start(source, None, 48)
        cached = torch.cat([model.step(part, state) for part in target.split(parts, 1)], 1)
        torch.testing.assert_close(cached, expected, rtol=0, atol=1e-11)


@torch.inference_mode()
def test_a_cache_is_as_large_for_any_image():
    """Three local blocks: so the cost of a token is the same everywhere in any image."""
    shapes, spans = set(), set()
    for height in (6, 12, 60):
        model = network(0, height=height)
        state = model.start(sources(model, 2, 0), None, model.max_length)
        shapes.add(tuple(state.cache.entries.shape))
        for tokens in (1, 4) * 30:
            if int(state.lengths.max()) + tokens <= model.max_length:
                slots, _ = state.cache.slots(tokens)
                spans.add(slots.extent - slots.begin)
                model.step(torch.zeros(2, tokens, dtype=torch.long), state)
        assert tuple(state.cache.entries.shape) in shapes
    assert shapes == {(2, 2, 2, 2, 12, 8)}
    assert max(spans) == 12
    # A small image needs no more than itself, long blocks need room to be rewound.
    model = network(0, local_block=40)
    assert model.start(sources(model, 1, 0), None, 50).cache.rows.capacity == 50
    model = network(0, local_block=4)
    assert model.start(sources(model, 1, 0), None, 48 + 9).cache.rows.capacity == 17


@torch.inference_mode()
def test_what_was_written_over_is_not_rewound_to():
    model = network(0)
    source = sources(model, 2, 0)
    state = model.start(source, None, 48)
    target = torch.randint(6, (2, 48))
    model.step(target[:, :25], state)
    # Places 13 to 24 are there. Position 20 sees 16 on, position 19 sees 12 on.
    for lengths in ([19, 25], [25, 0]):
        with pytest.raises(ValueError, match=r"had 25 tokens and cannot be rewound to .* keeps the last 12"):
            state.rewind(torch.tensor(lengths))
    with pytest.raises(ValueError, match=r"cannot rewind rows of lengths \[25, 25\] to \[26, 20\]"):
        state.rewind(torch.tensor([26, 20]))
    state.rewind(torch.tensor([20, 23]))
    order = [1, 0, 0]
    state.reorder(torch.tensor(order))
    expected = model(TokenRows(source.tokens[order], source.lengths[order]), target[order])
    hidden = model.step(torch.stack([target[1, 23:25], target[0, 20:22], target[0, 20:22]]), state)
    torch.testing.assert_close(hidden[0], expected[0, 23:25], rtol=0, atol=1e-11)
    torch.testing.assert_close(hidden[1:], expected[1:, 20:22], rtol=0, atol=1e-11)
    # What was written over once is gone, however short the row became since.
    with pytest.raises(ValueError, match="row 1 had 25 tokens and cannot be rewound to 19"):
        state.rewind(torch.tensor([25, 19, 22]))


@torch.inference_mode()
def test_the_cache_refuses_what_it_cannot_hold():
    model = network(0)
    state = model.start(sources(model, 2, 0), None, 20)
    with pytest.raises(ValueError, match="a ring of 12 places takes at most 4 tokens at once"):
        state.cache.slots(5)
    model.step(torch.zeros(2, 18, dtype=torch.long), state)
    with pytest.raises(ValueError, match="made for 20 tokens a row, this call needs 21"):
        model.step(torch.zeros(2, 3, dtype=torch.long), state)


@torch.inference_mode()
def test_rows_name_their_source():
    model = network(1)
    source, rows = sources(model, 3, 4), torch.tensor([2, 0, 0, 1])
    tokens = torch.randint(6, (4, 9))
    repeated = model.step(tokens, model.start(source, rows, 9))
    separate = model.step(tokens, model.start(TokenRows(source.tokens[rows], source.lengths[rows]), None, 9))
    torch.testing.assert_close(repeated, separate, rtol=0, atol=1e-12)


@given(seed=st.integers(0, 10_000), norm=st.sampled_from(["pre", "post"]), local_block=st.integers(1, 9))
@settings(max_examples=8, deadline=None)
@torch.inference_mode()
def test_greedy_equals_plain_greedy(seed, norm, local_block):
    model = network(seed, norm, local_block)
    source = sources(model, 3, seed)
    rows = torch.full((3, 1), model.bos_id)
    for _ in range(48):
        newest = model.project(model(source, rows)[:, -1:]).argmax(-1)
        rows = torch.cat((rows, newest), 1)
    result = greedy(model, source)
    assert torch.equal(result.tokens, rows[:, 1:])
    assert result.lengths.tolist() == result.calls.tolist() == [48] * 3


@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["pre", "post"]),
    local_block=st.integers(1, 9),
    rows=st.integers(1, 4),
    extra=st.sampled_from([0, 50]),
    block_size=st.integers(1, 10),
    wrong=st.sampled_from([0.0, 0.2, 1.0, None]),
)
@settings(max_examples=60, deadline=None)
def test_exact_equals_greedy(seed, norm, local_block, rows, extra, block_size, wrong):
    model = network(seed, norm, local_block)
    source = sources(model, rows, seed)
    expected = greedy(model, source, extra)
    assert expected.lengths.tolist() == [48] * rows, "images have one length, whatever texts are allowed"
    drafter = HeadLike(model, 10, seed) if wrong is None else Knowing(model, source, extra, wrong)
    result = blockwise(model, drafter, source, block_size, extra_length=extra)
    assert torch.equal(result.tokens, expected.tokens)
    assert torch.equal(result.lengths, expected.lengths)
    for sizes, calls in zip(result.accepted.tolist(), result.calls.tolist(), strict=True):
        iterations = [size for size in sizes if size]
        assert sum(iterations) == 48
        assert calls == len(iterations) + (iterations[-1] > 1)
        if wrong == 0.0:
            whole, rest = divmod(48, block_size)
            assert iterations == [block_size] * whole + [rest] * (rest > 0)
        if wrong == 1.0 or block_size == 1:
            assert iterations == [1] * 48


@given(seed=st.integers(0, 10_000), norm=st.sampled_from(["pre", "post"]), local_block=st.integers(1, 9))
@settings(max_examples=10, deadline=None)
def test_replay_equals_decoding_for_every_block_size(seed, norm, local_block):
    model = network(seed, norm, local_block)
    source = sources(model, 3, seed)
    drafter = HeadLike(model, 10, seed)
    sizes = replay(model, drafter, source, greedy(model, source), 10)
    for block_size, replayed in enumerate(sizes, start=1):
        assert torch.equal(replayed, blockwise(model, drafter, source, block_size).accepted)


def test_images_and_blocks_vary():
    """The properties above are not about blocks of one token, nor about images of one colour."""
    sizes, colours = set(), []
    for seed in range(12):
        model = network(seed)
        source = sources(model, 2, seed)
        result = blockwise(model, HeadLike(model, 10, seed), source, 6)
        sizes |= set(result.accepted.flatten().tolist())
        colours += [len(set(row)) for row in result.rows()]
    assert sizes >= {1, 2, 3, 4, 5, 6}
    assert sum(colours) / len(colours) > 2


@given(seed=st.integers(0, 10_000), local_block=st.integers(1, 9), block_size=st.integers(1, 10))
@settings(max_examples=10, deadline=None)
def test_a_batch_equals_single_rows(seed, local_block, block_size):
    model = network(seed, "post", local_block)
    source, drafter = sources(model, 4, seed), HeadLike(model, 10, seed)
    together = blockwise(model, drafter, source, block_size)
    for row in range(4):
        alone = blockwise(model, drafter, row_of(source, row), block_size)
        assert together.rows()[row] == alone.rows()[0]
        sizes = alone.accepted[0].tolist()
        assert together.accepted[row].tolist() == sizes + [0] * (together.accepted.size(1) - len(sizes))
        assert int(together.calls[row]) == int(alone.calls[0])


@pytest.mark.parametrize("first_head", ["identity", "learned"])
def test_heads_and_their_losses_know_no_difference(first_head):
    model = network(2)
    source = sources(model, 3, 2)
    heads = BlockHeads(16, HeadShape(block_size=6, d_hidden=8, first_head=first_head)).double()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    target = TokenRows(torch.randint(6, (3, 48)), torch.full((3,), 48))
    inputs = torch.cat((torch.full((3, 1), model.bos_id), target.tokens[:, :-1]), 1)
    losses = head_losses(heads, model(source, inputs), model.output_weight, target, range(1, 7))
    assert losses.counts.tolist() == [3 * (48 - ahead) for ahead in range(6)]
    losses.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in [*heads.parameters(), *model.parameters()])

    decoder = FirstHead(model, heads) if first_head == "learned" else model
    drafter = HeadDrafter(heads, model.output_weight)
    expected = greedy(decoder, source)
    for block_size in (2, 5, 6):
        result = decode(decoder, source, DecodingOptions("blockwise", block_size=block_size), drafter)
        assert torch.equal(result.tokens, expected.tokens)
        assert result.lengths.tolist() == [48] * 3


def test_relaxed_rules_and_beams_end_with_the_image_too():
    model = network(5)
    source, drafter = sources(model, 3, 5), HeadLike(model, 10, 5)
    for rule in ("distance-2", "top-2", "minimum-3"):
        result = decode(model, source, DecodingOptions("blockwise", acceptance=rule), drafter)
        assert result.lengths.tolist() == result.accepted.sum(1).tolist() == [48] * 3
        assert int(result.accepted.max()) > 1
    single = beam_search(model, source, beam=1, alpha=0.0)
    assert torch.equal(single.tokens, greedy(model, source).tokens)
    several = beam_search(model, source, beam=3, alpha=0.0)
    assert several.lengths.tolist() == [48] * 3
