"""The drafter that attends: its output, its masks and its losses, for every family of models; float64."""

import dataclasses

import pytest
import torch
from drafters import network, row_of, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lightning_bpd.decoding import GREEDY, Sampled, blockwise, greedy, sequential
from lightning_bpd.drafters import ParallelDraft
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.models import ImageArchitecture, ImageTransformer
from lightning_bpd.training.losses import decoder_inputs

VOCABULARY = 8
SAMPLED = Sampled(temperature=0.8, top_k=6, top_p=0.95, seed=3)


def images(seed):
    torch.manual_seed(seed)
    shape = ImageArchitecture(
        height=4, width=4, channels=1, levels=VOCABULARY, scale=2, d_model=16, heads=2, encoder_layers=1,
        decoder_layers=1, feed_forward=32, dropout=0.0, norm="pre", local_block=3,
    )  # fmt: skip
    model = ImageTransformer(shape).double().eval()
    torch.nn.init.normal_(model.output.weight)
    return model


def hugging_face(family, seed):
    pytest.importorskip("transformers")
    from hugging_face_models import adapted, bare

    return adapted(bare(family, seed))


def case(family, seed, rows=4):
    """A model of the family, and sources for it."""
    if family == "images":
        model = images(seed)
        length = model.architecture.source_length
        return model, TokenRows(torch.randint(VOCABULARY, (rows, length)), torch.full((rows,), length))
    if family in ("pre", "post"):
        return network(seed, family, vocabulary=VOCABULARY), sources(rows, 5, seed, VOCABULARY)
    from hugging_face_models import sources as prompts

    return hugging_face(family, seed), prompts(rows, seed)


def drafter_of(model, seed=0, **settings):
    """A drafter of random weights, larger than those it would start with, so that its proposals differ."""
    torch.manual_seed(seed)
    shape = ParallelDraft(**{"block_size": 8, "attention_heads": 2, "correction": 3, **settings})
    model.return_layers(shape.base_layers or ())
    drafter = shape.build(model).double().eval()
    for weight in drafter.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return drafter


class Recorder:
    """Keeps what another drafter proposes, with the position and row that it is for."""

    def __init__(self, drafter):
        self.drafter, self.block_size, self.seen = drafter, drafter.block_size, []

    def start(self, *given):
        self.drafter.start(*given)

    def propose(self, verified, following, count):
        proposal = self.drafter.propose(verified, following, count)
        positions = verified.positions + verified.accepted - 1
        self.seen += zip(verified.rows.tolist(), positions.tolist(), proposal.tokens.tolist(), strict=True)
        return proposal

    def reorder(self, rows):
        self.drafter.reorder(rows)


FAMILIES = ["pre", "post", "images", "marian", "t5", "gpt2", "llama"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampler", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_exact_blocks_equal_plain_decoding(family, sampler):
    for seed in range(3):
        model, source = case(family, seed)
        plain = sequential(model, source, 7, sampler)
        module = drafter_of(model, seed, layers=1 + seed % 2, candidates=[None, 5, VOCABULARY][seed])
        for block_size in range(1, 9):
            decoded = blockwise(
                model, module.drafter(model), source, block_size, extra_length=7, sampler=sampler
            )
            assert decoded.rows() == plain.rows(), (seed, block_size)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 5),
    layers=st.integers(1, 2),
    block_size=st.integers(2, 8),
    correction=st.sampled_from([0, 3]),
    memory=st.booleans(),
    candidates=st.sampled_from([None, 2, 5]),
)
@settings(max_examples=40, deadline=None)
def test_a_batch_equals_single_rows(seed, rows, layers, block_size, correction, memory, candidates):
    """The cache of each row holds what was accepted of it alone: proposals are those that it would get by itself."""
    model, source = network(seed, vocabulary=VOCABULARY), sources(rows, 5, seed, VOCABULARY)
    module = drafter_of(
        model, seed, layers=layers, correction=correction, memory=memory, candidates=candidates
    )
    together = Recorder(module.drafter(model))
    result = blockwise(model, together, source, block_size, extra_length=9)
    assert result.rows() == greedy(model, source, 9).rows()
    for row in range(rows):
        alone = Recorder(module.drafter(model))
        numbers = torch.tensor([row])
        blockwise(model, alone, row_of(source, row), block_size, extra_length=9, rows=numbers)
        assert alone.seen == [seen for seen in together.seen if seen[0] == row]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("layers", "of_base"), [(1, False), (2, False), (1, True)])
def test_training_sees_what_decoding_sees(family, layers, of_base):
    """Groups of all anchors in one pass give the proposals that decoding makes one group at a time."""
    for seed in range(3):
        model, source = case(family, seed)
        output = greedy(model, source, 7)
        base_layers = list(range(model.returnable_layers, 0, -1)) if of_base else None
        assert base_layers != []
        module = drafter_of(model, seed, layers=layers, correction=0, block_size=5, base_layers=base_layers)
        assert greedy(model, source, 7).rows() == output.rows()
        rows = TokenRows(output.tokens.clone(), output.lengths.clone())
        with torch.no_grad():
            reading = model.read(source, decoder_inputs(rows, model.bos_id))
            length = rows.tokens.size(1)
            groups = module._groups(rows.lengths, length, 3)
            outputs = module._outputs(model, reading, rows.tokens, groups)
            logits = F.linear(outputs, model.output_weight, model.output_bias)
        sizes = [length, *groups.counts]
        by_depth = [part.argmax(-1) for part in logits.split(sizes, 1)]
        recorder = Recorder(module.drafter(model))
        for block_size in (2, 3, 5):
            blockwise(model, recorder, source, block_size, extra_length=7)
        assert recorder.seen
        for row, position, proposed in recorder.seen:
            for depth, token in enumerate(proposed):
                if position + depth + 1 < int(rows.lengths[row]):
                    assert by_depth[depth][row, position] == token


@pytest.mark.parametrize("sampled", [False, True])
def test_depth_sampling_trains_the_same_groups_as_all_of_them(sampled):
    model, source = case("pre", 1, rows=5)
    output = greedy(model, source, 9)
    module = drafter_of(model, 1, block_size=6, layers=2)
    rows, length = TokenRows(output.tokens.clone(), output.lengths.clone()), output.tokens.size(1)
    reading = model.read(source, decoder_inputs(rows, model.bos_id))
    every = module._groups(rows.lengths, length, 4)
    whole = module._outputs(model, reading, rows.tokens, every).split([length, *every.counts], 1)
    module.shape = dataclasses.replace(module.shape, kept=0.6)
    module.train(sampled)
    some = module._groups(rows.lengths, length, 4)
    assert (some.counts == every.counts) != sampled
    parts = module._outputs(model, reading, rows.tokens, some).split([length, *some.counts], 1)
    torch.testing.assert_close(parts[0], whole[0])
    for depth, count in enumerate(some.counts, 1):
        anchors = some.anchors[:, :count]
        there = anchors < every.counts[depth - 1]
        rows_there, column = there.nonzero().unbind(1)
        torch.testing.assert_close(
            parts[depth][rows_there, column], whole[depth][rows_there, anchors[rows_there, column]]
        )


@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("candidates", [None, 5])
@pytest.mark.parametrize("which", [range(1, 6), range(2, 6), range(4, 5)], ids=str)
def test_losses_are_those_of_plain_autograd(temperature, candidates, which):
    model, source = case("pre", 2, rows=5)
    model.requires_grad_(False)
    output = greedy(model, source, 9)
    rows, length = TokenRows(output.tokens.clone(), output.lengths.clone()), output.tokens.size(1)
    module = drafter_of(model, 2, block_size=5, candidates=candidates)
    module.choose_candidates(torch.bincount(output.tokens.flatten(), minlength=VOCABULARY))
    reading = model.read(source, decoder_inputs(rows, model.bos_id))
    weights = torch.arange(1.0, 1 + len(which))
    losses = module.losses(model, reading, rows, which, weights, temperature)

    groups = module._groups(rows.lengths, length, which.stop - 3)
    parts = module._outputs(model, reading, rows.tokens, groups).split([length, *groups.counts], 1)
    ids = torch.arange(VOCABULARY) if candidates is None else module.candidates
    table = module.correction.after[ids]
    expected, sums, counts = torch.zeros((), dtype=torch.double), [], []
    for head, weight in zip(which, weights, strict=True):
        losses_of_head = []
        for row in range(len(rows.lengths)):
            for anchor in range(int(rows.lengths[row]) - head + 1):
                target = int(rows.tokens[row, anchor + head - 1])
                if head == 1:
                    logits = reading.hidden[row, anchor] @ model.output_weight.T
                    losses_of_head.append(F.cross_entropy(logits, torch.tensor(target)))
                    continue
                before = module.correction.before(rows.tokens[row, anchor + head - 2])
                logits = parts[head - 2][row, anchor] @ model.output_weight[ids].T + table @ before
                if temperature is not None:
                    taught = reading.hidden[row, anchor + head - 1] @ model.output_weight[ids].T
                    taught, logits = (
                        (taught / temperature).log_softmax(0),
                        (logits / temperature).log_softmax(0),
                    )
                    divergence = F.kl_div(logits, taught, reduction="sum", log_target=True)
                    losses_of_head.append(divergence * temperature**2)
                elif target in ids.tolist():
                    place = torch.tensor(ids.tolist().index(target))
                    losses_of_head.append(F.cross_entropy(logits, place))
        total = torch.stack(losses_of_head).sum()
        expected = expected + weight / weights.sum() * total / len(losses_of_head)
        sums.append(float(total.detach()))
        counts.append(len(losses_of_head))
    torch.testing.assert_close(losses.loss, expected)
    assert losses.counts.tolist() == counts
    torch.testing.assert_close(losses.sums, torch.tensor(sums, dtype=torch.double))
    own = torch.autograd.grad(losses.loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    plain = torch.autograd.grad(expected, list(module.parameters()), allow_unused=True)
    for (name, _), mine, theirs in zip(module.named_parameters(), own, plain, strict=True):
        theirs = torch.zeros(()) if theirs is None else theirs
        mine = torch.zeros_like(theirs) if mine is None else mine
        torch.testing.assert_close(mine, theirs, msg=name, check_dtype=False)


def test_shapes_that_make_no_sense():
    model = network(0)
    for given_shape, message in (
        ({"block_size": 1}, "block_size must be at least 2"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"kept": 0.0}, "kept must be above 0"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"base_layers": ["2"]}, "base_layers must be numbers of layers"),
    ):
        with pytest.raises(InputError, match=message):
            ParallelDraft(**given_shape)
    for layers in ([0], [1, 9]):
        with pytest.raises(InputError, match="choose from 1 to"):
            model.return_layers(layers)
    with pytest.raises(InputError, match="does not divide the width of the base, 16"):
        ParallelDraft(attention_heads=3).build(model)
