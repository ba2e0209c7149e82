"""Blockwise decoding against greedy, against a loop that needs no cache, and against known answers; float64."""

from functools import partial

import pytest
import torch
from drafters import BOS, EOS, HeadLike, Knowing, network, row_of, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from proposed import proposed as proposed_by
from torch.nn import functional as F

from lightning_bpd.decoding import DecodingOptions, Exact, blockwise, decode, greedy, parse_acceptance
from lightning_bpd.interfaces import InputError, Proposal, TokenRows

cases = given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["pre", "post"]),
    positions=st.sampled_from(["sinusoidal", "learned"]),
    rows=st.integers(1, 7),
    extra=st.integers(0, 12),
    block_size=st.integers(1, 10),
    wrong=st.sampled_from([0.0, 0.2, 1.0, None]),
)


def check_accounts(result, limits):
    """Accepted sizes add up to the lengths; calls are iterations + 1, less the call that a lone last token saves."""
    assert result.accepted.sum(1).tolist() == result.lengths.tolist()
    for row, (tokens, sizes, calls, limit) in enumerate(
        zip(result.rows(), result.accepted.tolist(), result.calls.tolist(), limits, strict=True)
    ):
        iterations = [size for size in sizes if size]
        assert iterations == sizes[: len(iterations)], "zeros come last"
        assert calls == len(iterations) + (iterations[-1] > 1)
        assert len(tokens) == limit or tokens[-1] == EOS, row
        assert EOS not in tokens[:-1]


@cases
@settings(max_examples=250, deadline=None)
def test_exact_equals_greedy(seed, norm, positions, rows, extra, block_size, wrong):
    model = network(seed, norm, positions)
    source = sources(rows, 5, seed)
    expected = greedy(model, source, extra)
    drafter = HeadLike(model, 10, seed) if wrong is None else Knowing(model, source, extra, wrong)
    result = blockwise(model, drafter, source, block_size, Exact(), extra)
    assert torch.equal(result.tokens, expected.tokens)
    assert torch.equal(result.lengths, expected.lengths)
    limits = [min(length + extra, model.max_length or 99) for length in source.lengths.tolist()]
    check_accounts(result, limits)
    assert int(result.accepted.max()) <= block_size
    if block_size == 1:
        assert torch.equal(result.calls, expected.calls)
    if wrong == 1.0:
        assert int(result.accepted.max()) == 1
    if wrong == 0.0:
        for sizes, length in zip(result.accepted.tolist(), result.lengths.tolist(), strict=True):
            whole, rest = divmod(length, block_size)
            assert [size for size in sizes if size] == [block_size] * whole + [rest] * (rest > 0)


def test_rows_end_at_every_place():
    """The property above is not empty: each way to end a row occurs, blocks that stick out included."""
    endings = set()
    for seed in range(40):
        model = network(seed, positions="learned")
        source = sources(4, 5, seed)
        result = blockwise(model, Knowing(model, source, 5, wrong=0.2), source, 4, Exact(), 5)
        for tokens, sizes in zip(result.rows(), result.accepted.tolist(), strict=True):
            last = [size for size in sizes if size][-1]
            where = "at once" if len(tokens) == 1 else "lone" if last == 1 else f"inside after {last}"
            endings.add((where, "end token" if tokens[-1] == EOS else "limit"))
    places = ["lone", "inside after 2", "inside after 3", "inside after 4"]
    assert endings == {("at once", "end token")} | {(p, w) for p in places for w in ("end token", "limit")}


@pytest.fixture(scope="module")
def trained():
    """A network that has learnt to repeat the source's first token up to the source's length."""
    model = network(0, vocabulary=8).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(200):
        generator = torch.Generator().manual_seed(step)
        body = torch.randint(3, 8, (32, 1), generator=generator).expand(-1, step % 7)
        rows = F.pad(body, (0, 1), value=EOS)
        hidden = model(TokenRows(rows, torch.full((32,), rows.size(1))), F.pad(body, (1, 0), value=BOS))
        loss = F.cross_entropy(model.project(hidden).flatten(0, 1), rows.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("block_size", range(1, 11))
def test_exact_equals_greedy_with_trained_weights(trained, block_size):
    lengths = torch.tensor([1, 7, 2, 5, 5, 3])
    tokens = torch.tensor([3, 4, 5, 6, 7, 3])[:, None].repeat(1, 7)
    tokens[torch.arange(6), lengths - 1] = EOS
    source = TokenRows(tokens, lengths)
    expected = greedy(trained, source)
    for row, first in zip(expected.rows(), tokens[:, 0].tolist(), strict=True):
        assert set(row) <= {first, EOS}, "it has learnt nothing"
    for drafter in (HeadLike(trained, 10, seed=3), Knowing(trained, source, 50, wrong=0.2)):
        result = blockwise(trained, drafter, source, block_size)
        assert torch.equal(result.tokens, expected.tokens)
        check_accounts(result, [99] * 6)


RULES = {
    "exact": (1, lambda token, logits: token == int(logits.argmax())),
    "top-2": (1, lambda token, logits: token in logits.topk(2).indices.tolist()),
    "distance-1": (1, lambda token, logits: abs(token - int(logits.argmax())) <= 1),
    "minimum-2": (2, lambda token, logits: token == int(logits.argmax())),
    "minimum-3+top-2": (3, lambda token, logits: token in logits.topk(2).indices.tolist()),
}


@torch.inference_mode()
def naive(model, proposals, source, block_size, rule, limit):
    """One row, one token at a time, without a cache: tokens, accepted sizes and calls."""
    least, stays = RULES[rule]

    def after(prefix):
        hidden = model(source, torch.tensor([[BOS, *prefix]]))[0, -1]
        return hidden, model.project(hidden)

    row, sizes, calls = [], [], 1
    while not row or (row[-1] != EOS and len(row) < limit):
        hidden, logits = after(row)
        block = [int(logits.argmax())]
        if block[0] != EOS and len(row) + 1 < limit:
            calls += 1
            proposed = proposals(hidden, block_size - 1).tolist() if block_size > 1 else []
            accepted = 0
            # What comes after the limit is dropped, and learned positions do not reach that far.
            for token in proposed[: limit - len(row) - 1]:
                if not stays(token, after(row + block + proposed[:accepted])[1]):
                    break
                accepted += 1
            block += proposed[: max(accepted, least - 1)]
        kept = block[: block.index(EOS) + 1] if EOS in block else block
        kept = kept[: limit - len(row)]
        row, sizes = row + kept, [*sizes, len(kept)]
    return row, sizes, calls


@given(
    seed=st.integers(0, 10_000),
    rule=st.sampled_from(sorted(RULES)),
    rows=st.integers(1, 4),
    block_size=st.integers(1, 5),
)
@settings(max_examples=80, deadline=None)
def test_every_rule_equals_a_naive_loop(seed, rule, rows, block_size):
    model = network(seed, positions=("sinusoidal", "learned")[seed % 2])
    source = sources(rows, 5, seed)
    drafter = HeadLike(model, 5, seed)
    result = blockwise(model, drafter, source, block_size, parse_acceptance(rule), extra_length=7)
    for row in range(rows):
        limit = min(int(source.lengths[row]) + 7, model.max_length or 99)
        tokens, sizes, calls = naive(
            model, partial(proposed_by, drafter), row_of(source, row), block_size, rule, limit
        )
        assert result.rows()[row] == tokens
        assert [size for size in result.accepted[row].tolist() if size] == sizes
        assert int(result.calls[row]) == calls


@given(seed=st.integers(0, 10_000), rule=st.sampled_from(sorted(RULES)), block_size=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_a_batch_equals_single_rows(seed, rule, block_size):
    model = network(seed, norm="post")
    source = sources(6, 5, seed)
    drafter, acceptance = HeadLike(model, 6, seed), parse_acceptance(rule)
    together = blockwise(model, drafter, source, block_size, acceptance, 7)
    for row in range(6):
        alone = blockwise(model, drafter, row_of(source, row), block_size, acceptance, 7)
        assert together.rows()[row] == alone.rows()[0]
        sizes = alone.accepted[0].tolist()
        assert together.accepted[row].tolist() == sizes + [0] * (together.accepted.size(1) - len(sizes))
        assert int(together.calls[row]) == int(alone.calls[0])


class Counting:
    """p_1 counts: after token n comes n + 1, after the start token the row's source token. Ends at 40."""

    bos_id, ends, max_length, memory = 0, frozenset((40,)), None, None

    def __init__(self):
        self.fed = []

    def start(self, source, rows, max_length):
        self.offset, self.lengths, self.capacity = (
            source.tokens[:, 0],
            torch.zeros_like(source.lengths),
            max_length,
        )
        return self

    def step(self, tokens, state):
        self.fed.append(tuple(tokens.shape))
        self.lengths = self.lengths + tokens.size(1)
        assert int(self.lengths.max()) <= self.capacity
        return torch.where(tokens == self.bos_id, self.offset[:, None] - 1, tokens)[..., None].double()

    def project(self, hidden):
        return -(torch.arange(64) - hidden - 1).abs()

    def rewind(self, lengths):
        assert bool((lengths <= self.lengths).all())
        self.lengths = lengths

    def reorder(self, rows):
        self.offset, self.lengths = self.offset[rows], self.lengths[rows]


class Shifted:
    """Counts on from the certain token, ``shift`` places off."""

    block_size = 10

    def __init__(self, shift):
        self.shift = shift

    def start(self, source, max_length, sampler, memory):
        pass

    def propose(self, verified, following, count):
        last = verified.hidden[torch.arange(len(following)), verified.accepted - 1].long()
        assert torch.equal(last[:, 0] + 1, following)
        assert not bool((following == 40).any()), "there is nothing to propose after the end token"
        return Proposal(last + 2 + torch.arange(count) + self.shift)

    def reorder(self, rows):
        pass


@pytest.mark.parametrize("block_size", range(1, 11))
def test_counting_accepts_every_block_whole(block_size):
    starts = torch.tensor([[1], [30], [40], [7], [39]])
    result = blockwise(Counting(), Shifted(0), TokenRows(starts, torch.ones(5, dtype=torch.long)), block_size)
    for start, row, sizes in zip(starts[:, 0].tolist(), result.rows(), result.accepted.tolist(), strict=True):
        assert row == list(range(start, 41))
        whole, rest = divmod(41 - start, block_size)
        assert [size for size in sizes if size] == [block_size] * whole + [rest] * (rest > 0)


@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_heads_one_place_off_accept_nothing(shift):
    source = TokenRows(torch.tensor([[1], [30]]), torch.ones(2, dtype=torch.long))
    result = blockwise(Counting(), Shifted(shift), source, 6)
    assert result.rows() == [list(range(1, 41)), list(range(30, 41))]
    assert set(result.accepted.flatten().tolist()) == {0, 1}
    assert result.calls.tolist() == [40, 11]


def test_finished_rows_leave_and_only_blocks_are_fed():
    model = Counting()
    source = TokenRows(torch.tensor([[31], [40], [37], [36]]), torch.ones(4, dtype=torch.long))
    result = blockwise(model, Shifted(0), source, 4, extra_length=50)
    # The second row ends with its first token, the third with its first block, the fourth with the token after it.
    assert model.fed == [(4, 1), (3, 4), (1, 4), (1, 4)]
    assert result.calls.tolist() == [4, 1, 2, 2]
    assert result.accepted.tolist() == [[4, 4, 2], [1, 0, 0], [4, 0, 0], [4, 1, 0]]


def test_the_start_token_may_be_the_end_token():
    class Same(Counting):
        bos_id = 40

    source = TokenRows(torch.tensor([[35]]), torch.ones(1, dtype=torch.long))
    assert blockwise(Same(), Shifted(0), source, 4).rows() == [[35, 36, 37, 38, 39, 40]]


def test_what_cannot_be_decoded_blockwise():
    model, source = Counting(), TokenRows(torch.tensor([[35]]), torch.ones(1, dtype=torch.long))
    with pytest.raises(
        InputError, match="block_size 11 is larger than the 10 that the heads were trained for"
    ):
        blockwise(model, Shifted(0), source, 11)
    with pytest.raises(InputError, match="block_size must be at least 1, not 0"):
        blockwise(model, Shifted(0), source, 0)
    with pytest.raises(InputError, match="this model has no block heads"):
        decode(model, source, DecodingOptions("blockwise"))


def test_decode_takes_the_largest_block_unless_told():
    model, source = Counting(), TokenRows(torch.tensor([[21]]), torch.ones(1, dtype=torch.long))
    sizes = decode(model, source, DecodingOptions("blockwise"), Shifted(0)).accepted
    assert sizes.tolist() == [[10, 10]]
    options = DecodingOptions("blockwise", block_size=3, acceptance="distance-2")
    assert decode(model, source, options, Shifted(1)).accepted.tolist()[0][:2] == [3, 3]
