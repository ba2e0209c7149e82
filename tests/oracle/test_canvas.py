"""The canvas loop and the masks of models that fill grids."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bpd.decoding import Sampled, blockwise, fill, fixed_plan, sequential
from lightning_bpd.decoding.guidance import Guided, guided
from lightning_bpd.decoding.samplers import Greedy
from lightning_bpd.drafters import HeadShape
from lightning_bpd.interfaces import InputError, TokenRows, Vocabularies
from lightning_bpd.models import TokenShape
from lightning_bpd.orders import grouped, order_of, plan_groups, random_order, raster

GRID, CLASSES, VOCABULARY = (4, 4), 3, 11
CELLS = 16
SHAPES = {
    "raster": {},
    "regions": {"regions": 4},
    "sixteen regions": {"regions": 16},
    "no start": {"regions": 4, "sequential_start": False},
    "causal": {"regions": 4, "bidirectional": False},
    "consecutive": {"regions": 4, "order": "consecutive"},
    "shared": {"regions": 4, "transition": "shared"},
    "copied": {"regions": 4, "transition": "copied"},
    "zero rotary": {"regions": 4, "zero_rotary": True},
}
PLANS = ["raster", "regions-4", "regions-16", "consecutive-2", "random-6", "halton-5", "locality-7"]
SAMPLERS = [Greedy(), Sampled(seed=3), Sampled(temperature=0.7, top_k=5, top_p=0.9, seed=1)]
SOURCE = TokenRows(torch.tensor([[0], [2], [CLASSES]]), torch.ones(3, dtype=torch.long))


def network(seed=0, grid=GRID, **shape):
    torch.manual_seed(seed)
    shape = TokenShape(d_model=16, heads=2, decoder_layers=2, feed_forward=24, dropout=0.0, **shape)
    model = shape.build(Vocabularies(CLASSES, VOCABULARY, VOCABULARY, grid=grid)).double().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return model.requires_grad_(False)


def own_plan(model):
    return fixed_plan(model.groups, model)


def logits_of(model, groups, tokens, labels=SOURCE.tokens[:, 0]):
    """Those of one pass over whole grids, in the order of the groups."""
    if model.query is None:
        return model.project(model.hidden(labels, tokens))
    order = order_of(groups).expand(len(tokens), -1)
    return model.project(model.hidden_of(labels, tokens, order, [len(group) for group in groups]))


def chosen_by(sampler, logits, order):
    """What a sampler chooses of logits [B, N, V] that predict the cells of ``order``."""
    rows = torch.arange(len(logits))
    each = [
        sampler.choose(logits[:, number : number + 1], cell.expand(len(logits)), rows)
        for number, cell in enumerate(order)
    ]
    return torch.cat(each, 1)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_raster_order_of_one_token_equals_the_prefix_loop(sampler):
    model = network()
    found = fill(model, fixed_plan(raster(GRID), model), SOURCE, sampler)
    expected = sequential(model, SOURCE, sampler=sampler)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.calls, expected.calls)
    assert torch.equal(found.passes, torch.arange(CELLS).expand(3, -1))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_masks_of_decoding_are_those_of_training(name, sampler):
    for seed in range(3):
        model = network(seed, **SHAPES[name])
        filled = fill(model, own_plan(model), SOURCE, sampler)
        logits = logits_of(model, model.groups, filled.tokens)
        assert torch.equal(chosen_by(sampler, logits, model.order), filled.tokens[:, model.order])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize("plan", PLANS)
def test_one_network_with_queries_fills_by_any_plan(plan, sampler):
    model, groups = network(order="queries"), plan_groups(plan, GRID)
    filled = fill(model, fixed_plan(groups, model), SOURCE, sampler)
    logits, order = logits_of(model, groups, filled.tokens), order_of(groups)
    assert torch.equal(chosen_by(sampler, logits, order), filled.tokens[:, order])
    for number, group in enumerate(groups):
        assert (filled.passes[:, list(group)] == number).all()
    assert (filled.calls == len(groups)).all()


@pytest.mark.parametrize("name", [*SHAPES, *PLANS])
def test_cached_logits_are_those_of_a_whole_pass(name):
    model = network(**SHAPES.get(name, {"order": "queries"}))
    groups = plan_groups(name, GRID) if name in PLANS else model.groups
    tokens = torch.randint(VOCABULARY, (3, CELLS), generator=torch.Generator().manual_seed(0))
    if name in SHAPES:
        groups = model.groups
    whole, state, first = logits_of(model, groups, tokens), model.begin(SOURCE), 0
    for group in groups:
        # Cells that are not known yet are never looked at.
        known = torch.zeros(CELLS, dtype=torch.bool)
        known[[cell for each in groups[: groups.index(group)] for cell in each]] = True
        canvas = torch.where(known, tokens, torch.randint(VOCABULARY, tokens.shape))
        logits = model.predict(canvas, torch.tensor(group).expand(3, -1), state)
        torch.testing.assert_close(logits, whole[:, first : first + len(group)], rtol=1e-9, atol=1e-9)
        first += len(group)


@pytest.mark.parametrize("name", [*SHAPES, *PLANS])
def test_no_prediction_sees_its_own_group_or_a_later_one(name):
    model = network(**SHAPES.get(name, {"order": "queries"}))
    groups = model.groups if name in SHAPES else plan_groups(name, GRID)
    tokens = torch.randint(VOCABULARY, (3, CELLS), generator=torch.Generator().manual_seed(1))
    before = logits_of(model, groups, tokens)
    first = 0
    for group in groups:
        changed = tokens.clone()
        changed[:, list(group)] = (changed[:, list(group)] + 1) % VOCABULARY
        difference = (logits_of(model, groups, changed) - before).abs().amax((0, 2))
        first += len(group)
        assert (difference[:first] == 0).all()
        assert (difference[first:] > 0).all(), "what follows sees all that is known"


@pytest.mark.parametrize("name", [*SHAPES, "queries"])
def test_batches_equal_single_rows(name):
    model = network(**SHAPES.get(name, {"order": "queries"}))
    plan = own_plan(model) if name in SHAPES else fixed_plan(plan_groups("random-6", GRID), model)
    together = fill(model, plan, SOURCE, SAMPLERS[1])
    for row in range(3):
        alone = TokenRows(SOURCE.tokens[row : row + 1], SOURCE.lengths[:1])
        found = fill(model, plan, alone, SAMPLERS[1], torch.tensor([row]))
        assert torch.equal(found.tokens, together.tokens[row : row + 1])


@pytest.mark.parametrize(
    ("count", "grid"), [(4, (8, 8)), (16, (8, 8)), (4, (24, 24)), (16, (24, 24)), (4, (4, 4, 3))]
)
def test_regions_take_the_passes_of_the_paper(count, grid):
    cells = 1
    for side in grid:
        cells *= side
    groups = plan_groups(f"regions-{count}", grid)
    assert len(groups) == count + (cells - count) // count
    assert sorted(order_of(groups).tolist()) == list(range(cells))
    if len(grid) == 3:
        # Channels of a place follow one another, and tokens together are of one channel and of different regions.
        assert all(len({cell % 3 for cell in group}) == 1 for group in groups)
        assert groups[0] == (0,)
        assert groups[count] == (1, 7, 25, 31)


@given(
    seed=st.integers(0, 1000), sides=st.tuples(st.integers(1, 6), st.integers(1, 6)), share=st.floats(0, 1)
)
@settings(max_examples=60, deadline=None)
def test_any_order_in_any_groups_is_filled(seed, sides, share):
    model = network(grid=sides, order="queries")
    cells = sides[0] * sides[1]
    groups = grouped(random_order(sides, seed), 1 + round(share * (cells - 1)), 1 + 2 * share)
    assert all(groups)
    filled = fill(model, fixed_plan(groups, model), SOURCE, Sampled(seed=seed))
    logits, order = logits_of(model, groups, filled.tokens), order_of(groups)
    assert torch.equal(chosen_by(Sampled(seed=seed), logits, order), filled.tokens[:, order])


def test_what_cannot_be_filled_is_refused():
    model, anything = network(regions=4), network(order="queries")
    with pytest.raises(InputError, match="do not divide a grid of 4 x 4"):
        network(regions=9)
    with pytest.raises(InputError, match="do not divide"):
        plan_groups("regions-5", GRID)
    with pytest.raises(InputError, match="leaves out 15"):
        fixed_plan(raster(GRID)[:-1], model)
    with pytest.raises(InputError, match="leaves out 15 and repeats 0"):
        fixed_plan((*raster(GRID)[:-1], (0,)), model)
    with pytest.raises(InputError, match="is outside at 16"):
        fixed_plan((*raster(GRID), (16,)), model)
    with pytest.raises(InputError, match="was trained to predict"):
        fill(model, fixed_plan(raster(GRID), model), SOURCE)
    with pytest.raises(InputError, match="not those of 3 classes"):
        fill(anything, fixed_plan(raster(GRID), anything), TokenRows(torch.tensor([[4]]), torch.tensor([1])))
    with pytest.raises(InputError, match="raster order"):
        sequential(model, SOURCE)
    with pytest.raises(InputError, match="unknown plan 'spiral'"):
        plan_groups("spiral", GRID)
    with pytest.raises(InputError, match="passes cannot fill"):
        plan_groups("random-17", GRID)


class FirstOnly:
    """Predicts all cells that are not known, and keeps the first of them."""

    def positions(self, known, number):
        """Those that are not known."""
        return (~known).nonzero()[:, 1].view(len(known), -1) if not known.all() else None

    def keep(self, tokens, logits, number):
        """The first."""
        return torch.arange(tokens.size(1)).expand_as(tokens) == 0


class Uncached:
    """A CanvasModel that reads the whole canvas anew, and prefers the number of known cells."""

    grid = GRID

    def begin(self, source):
        """Nothing."""

    def predict(self, canvas, positions, state):
        """One token for all cells."""
        known = (canvas >= 0).sum(1)[:, None].expand_as(positions)
        return torch.nn.functional.one_hot(known, CELLS).double()


def test_a_plan_may_keep_some_predictions_if_the_model_can_go_on():
    filled = fill(Uncached(), FirstOnly(), SOURCE)
    assert torch.equal(filled.tokens, torch.arange(CELLS).expand(3, -1))
    assert torch.equal(filled.passes, filled.tokens)
    with pytest.raises(InputError, match="pass 0 of the plan did not keep all of its predictions"):
        fill(network(order="queries"), FirstOnly(), SOURCE)


@pytest.mark.parametrize("name", ["raster", "regions", "queries"])
def test_guidance_combines_two_rows(name):
    model = network(**SHAPES.get(name, {"order": "queries"}))
    plan = own_plan(model) if name in SHAPES else fixed_plan(plan_groups("random-6", GRID), model)
    alike = fill(Guided(model, 1.0), plan, SOURCE, SAMPLERS[1])
    assert torch.equal(alike.tokens, fill(model, plan, SOURCE, SAMPLERS[1]).tokens)
    assert guided(model, 1.0) is model
    filled = fill(Guided(model, 2.5), plan, SOURCE, SAMPLERS[1])
    none = torch.full((3,), CLASSES)
    own, without = (
        logits_of(model, plan.groups, filled.tokens, labels) for labels in (SOURCE.tokens[:, 0], none)
    )
    order = order_of(plan.groups)
    expected = chosen_by(SAMPLERS[1], without + 2.5 * (own - without), order)
    assert torch.equal(expected, filled.tokens[:, order])
    if name == "raster":
        assert torch.equal(filled.tokens, sequential(Guided(model, 2.5), SOURCE, sampler=SAMPLERS[1]).tokens)
    with pytest.raises(InputError, match="guidance is -1"):
        Guided(model, -1)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_blocks_of_a_raster_model_equal_plain_sampling(scale):
    model = network()
    heads = HeadShape(block_size=4, d_hidden=16).build(model).double().eval().requires_grad_(False)
    subject = guided(model, scale)
    if scale == 1:
        found = blockwise(model, heads.drafter(model), SOURCE, 4, sampler=SAMPLERS[1])
        assert torch.equal(found.tokens, sequential(subject, SOURCE, sampler=SAMPLERS[1]).tokens)
    state = subject.start(SOURCE, None, CELLS)
    fed = torch.full((3, 1), model.bos_id)
    subject.step(fed, state)
    subject.step(torch.tensor([[1, 2], [3, 4], [5, 6]]), state)
    state.rewind(torch.tensor([1, 2, 3]))
    state.reorder(torch.tensor([2, 0]))
    assert state.lengths.tolist() == [3, 1]
