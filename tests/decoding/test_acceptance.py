import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd.decoding import Distance, Exact, MinimumBlock, TopK, parse_acceptance
from lightning_bpd.interfaces import Block, InputError

NAMES = ["exact", "top-1", "top-2", "top-3", "distance-0", "distance-1", "distance-3", "minimum-1", "minimum-2",
         "minimum-9", "minimum-2+top-2", "minimum-3+distance-1"]  # fmt: skip


def stays(name: str, token: int, logits: list[float]) -> bool:
    kind, _, number = name.partition("-")
    best = max(range(len(logits)), key=logits.__getitem__)
    if kind == "exact":
        return token == best
    if kind == "top":
        return token in sorted(range(len(logits)), key=lambda other: -logits[other])[: int(number)]
    return abs(token - best) <= int(number)


def naive(name: str, tokens: list[int], logits: list[list[float]]) -> tuple[int, int]:
    least, inner = 1, name
    if name.startswith("minimum"):
        first, _, inner = name.partition("+")
        least, inner = int(first.partition("-")[2]), inner or "exact"
    accepted = 1
    while accepted < len(tokens) and stays(inner, tokens[accepted], logits[accepted - 1]):
        accepted += 1
    accepted = max(accepted, min(least, len(tokens)))
    last = logits[accepted - 1]
    return accepted, max(range(len(last)), key=last.__getitem__)


def decided(name, tokens, logits):
    start = torch.zeros(len(tokens), dtype=torch.long)
    return parse_acceptance(name).decide(Block(tokens, start, start), logits, logits.argmax(-1))


@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 4),
    block=st.integers(1, 6),
    vocabulary=st.integers(3, 6),
)
@settings(max_examples=300, deadline=None)
def test_rules_equal_plain_python(name, seed, rows, block, vocabulary):
    torch.manual_seed(seed)
    logits = torch.randn(rows, block, vocabulary)
    tokens = torch.randint(vocabulary, (rows, block))
    # Half of the proposals are p_1's own, so that long runs occur.
    right = torch.cat((tokens[:, :1], logits.argmax(-1)[:, :-1]), 1)
    tokens = torch.where(torch.rand(rows, block) < 0.5, right, tokens)
    accepted, following = decided(name, tokens, logits)
    assert accepted.dtype == following.dtype == torch.long
    expected = [naive(name, *row) for row in zip(tokens.tolist(), logits.tolist(), strict=True)]
    assert list(zip(accepted.tolist(), following.tolist(), strict=True)) == expected


def test_a_tie_never_rejects_the_first_choice():
    logits = torch.zeros(1, 3, 5)
    tokens = torch.cat((torch.tensor([[4]]), logits.argmax(-1)[:, :-1]), 1)
    for name in NAMES:
        assert decided(name, tokens, logits).accepted.tolist() == [3]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_read_as_they_are_written(name):
    rule = parse_acceptance(name)
    assert rule.name == name
    assert rule.ordinal == ("distance" in name)


def test_names_of_rules_built_in_python():
    rules = [Exact(), TopK(2), Distance(2), MinimumBlock(2, Exact()), MinimumBlock(2, TopK(3))]
    assert [rule.name for rule in rules] == ["exact", "top-2", "distance-2", "minimum-2", "minimum-2+top-3"]
    assert parse_acceptance("minimum-2+exact").name == "minimum-2"


@pytest.mark.parametrize(
    "text",
    ["", "Exact", "top", "top-", "top-x", "top--1", "top-2 ", "exact\n", "distance", "minimum-2+",
     "minimum-2+minimum-3", "exact+top-2", "minimum", "top-2.5"],
)  # fmt: skip
def test_unknown_rules_are_refused_with_the_choices(text):
    with pytest.raises(
        InputError, match=r"there is no acceptance rule .*: choose exact, top-N, distance-N, min"
    ):
        parse_acceptance(text)


@pytest.mark.parametrize("text", ["top-0", "minimum-0", "minimum-0+exact", "minimum-2+top-0"])
def test_zero_is_refused(text):
    with pytest.raises(InputError, match="N must be at least 1"):
        parse_acceptance(text)


def test_a_negative_distance_is_refused():
    with pytest.raises(InputError, match="it must be at least 0"):
        Distance(-1)
