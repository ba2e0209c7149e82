"""Block heads that see the certain token, and whose proposals are corrected from left to right; float64."""

import pytest
import torch
from drafters import network, row_of, sources
from torch.nn import functional as F

from lightning_bpd.decoding import GREEDY, Sampled, blockwise, replay, sequential
from lightning_bpd.drafters import HeadShape
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.training.losses import decoder_inputs

VOCABULARY = 8
SEEING = [{"following": True}, {"correction": 3}, {"following": True, "correction": 3}]
seeing = pytest.mark.parametrize("settings", SEEING, ids=["following", "correction", "both"])


def heads_of(model, seed, **settings):
    torch.manual_seed(seed)
    heads = HeadShape(**{"block_size": 6, "d_hidden": 12, **settings}).build(model).double().eval()
    for weight in heads.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return heads


@seeing
@pytest.mark.parametrize("candidates", [None, 5])
@pytest.mark.parametrize("second_matrix", ["per_head", "dense"])
@pytest.mark.parametrize("sampler", [GREEDY, Sampled(temperature=0.9, seed=2)], ids=["greedy", "sampled"])
def test_blocks_are_exact_replayed_and_the_same_in_a_batch(settings, candidates, second_matrix, sampler):
    sizes = set()
    for seed in range(3):
        model, source = network(seed, vocabulary=VOCABULARY), sources(4, 5, seed, VOCABULARY)
        heads = heads_of(model, seed, candidates=candidates, second_matrix=second_matrix, **settings)
        plain = sequential(model, source, 9, sampler)
        replayed = replay(model, heads.drafter(model), source, plain, 6, sampler)
        for block_size in range(1, 7):
            decoded = blockwise(
                model, heads.drafter(model), source, block_size, extra_length=9, sampler=sampler
            )
            assert decoded.rows() == plain.rows()
            assert torch.equal(decoded.accepted, replayed[block_size - 1])
            sizes |= set(decoded.accepted.flatten().tolist())
            for row in range(4):
                alone = blockwise(
                    model, heads.drafter(model), row_of(source, row), block_size, extra_length=9,
                    sampler=sampler, rows=torch.tensor([row]),
                )  # fmt: skip
                own = alone.accepted[0].tolist()
                assert decoded.accepted[row].tolist()[: len(own)] == own
    assert len(sizes) > 2


@seeing
@pytest.mark.parametrize("which", [range(1, 7), range(3, 5)], ids=str)
def test_losses_are_those_of_plain_autograd(settings, which):
    model, source = network(1, vocabulary=VOCABULARY), sources(5, 5, 1, VOCABULARY)
    model.requires_grad_(False)
    output = sequential(model, source, 9)
    rows = TokenRows(output.tokens.clone(), output.lengths.clone())
    heads = heads_of(model, 1, candidates=6, **settings)
    reading = model.read(source, decoder_inputs(rows, model.bos_id))
    losses = heads.losses(model, reading, rows, which)
    expected = torch.zeros((), dtype=torch.double)
    for head in which:
        of_head = []
        for row, length in enumerate(rows.lengths.tolist()):
            for anchor in range(length - head + 1):
                hidden, target = reading.hidden[row, anchor], rows.tokens[row, anchor + head - 1]
                if head == 1:
                    of_head.append(F.cross_entropy(model.output_weight @ hidden, target))
                    continue
                seen = model.output_weight[rows.tokens[row, anchor]] if heads.shape.following else None
                logits = model.output_weight[:6] @ heads(hidden, range(head, head + 1), seen)[0]
                if heads.correction is not None:
                    before = heads.correction.before(rows.tokens[row, anchor + head - 2])
                    logits = logits + heads.correction.after[:6] @ before
                if target < 6:
                    of_head.append(F.cross_entropy(logits, target))
        expected = expected + torch.stack(of_head).mean() / len(which)
    torch.testing.assert_close(losses.loss, expected)
    own = torch.autograd.grad(losses.loss, list(heads.parameters()), allow_unused=True)
    plain = torch.autograd.grad(expected, list(heads.parameters()), allow_unused=True)
    for mine, theirs in zip(own, plain, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if theirs is None else theirs)


def test_what_goes_with_p_1_alone():
    for settings in SEEING:
        with pytest.raises(InputError, match="choose first_head: identity"):
            HeadShape(first_head="learned", **settings)
    with pytest.raises(InputError, match="correction must be at least 0"):
        HeadShape(correction=-1)
