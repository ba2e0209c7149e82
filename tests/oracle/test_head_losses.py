"""The heads' losses, taken part by part, are those of the plain formulas, with all gradients (equality 5)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lightning_bpd.drafters import BlockHeads, HeadShape, head_losses
from lightning_bpd.interfaces import InputError, TokenRows

WIDTH, VOCABULARY = 8, 17


class Case:
    """Heads, hidden states, a projection and targets, in float64."""

    def __init__(
        self,
        block_size=4,
        second_matrix="per_head",
        first_head="identity",
        lengths=(6, 2, 4),
        padding=0,
        candidates=None,
    ):
        torch.manual_seed(5)
        shape = HeadShape(block_size, 5, second_matrix, first_head, candidates)
        self.heads = BlockHeads(WIDTH, shape).double()
        self.heads.choose_candidates(torch.randint(100, (VOCABULARY,)))
        for parameter in self.heads.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        shape = (len(lengths), max(lengths) + padding)
        self.rows = TokenRows(torch.randint(VOCABULARY, shape), torch.tensor(lengths))
        self.hidden = torch.randn(*shape, WIDTH, dtype=torch.float64, requires_grad=True)
        self.weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, requires_grad=True)

    @property
    def inputs(self):
        return self.hidden, self.weight, *self.heads.parameters()

    def losses(self, which, **options):
        return head_losses(self.heads, self.hidden, self.weight, self.rows, which, **options)

    def gradients(self, loss):
        return torch.autograd.grad(loss, self.inputs, allow_unused=True, materialize_grads=True)

    def naive(self, which, temperature=None):
        """Each head's losses at its targets, and whether it is right there, one token at a time."""
        logits = self.heads(self.hidden, which) @ self.weight.T
        teacher = (self.hidden @ self.weight.T).detach()
        losses, correct = [[] for _ in which], [0 for _ in which]
        for row, length in enumerate(self.rows.lengths.tolist()):
            for place in range(length):
                for index, head in enumerate(which):
                    ahead = place + head - 1
                    if ahead >= length:
                        continue
                    words = list(range(VOCABULARY))
                    if head > 1 and self.heads.shape.candidates is not None:
                        words = self.heads.candidates.tolist()
                    own = logits[row, place, index, words]
                    if temperature is None:
                        if (target := self.rows.tokens[row, ahead]) not in words:
                            continue
                        target = torch.tensor(words.index(target))
                        loss = F.cross_entropy(own, target)
                    else:
                        wanted = (teacher[row, ahead, words] / temperature).softmax(-1)
                        target = wanted.argmax()
                        given = (own / temperature).log_softmax(-1)
                        loss = F.kl_div(given, wanted, reduction="sum") * temperature**2
                    losses[index].append(loss)
                    correct[index] += int(own.argmax() == target)
        return losses, correct

    def naive_loss(self, which, weights=None, temperature=None, divisor=None):
        losses, _ = self.naive(which, temperature)
        means = [
            torch.stack(own).sum() / (divisor or len(own)) if own else self.hidden.sum() * 0 for own in losses
        ]
        weights = [1.0] * len(which) if weights is None else weights
        return sum(weight * mean for weight, mean in zip(weights, means, strict=True)) / sum(weights)


@pytest.mark.parametrize("second_matrix", ["per_head", "dense"])
@pytest.mark.parametrize("first_head", ["identity", "learned"])
@pytest.mark.parametrize("temperature", [None, 1.0, 2.5])
@pytest.mark.parametrize("most_logits", [1, 40, 200, None])
@pytest.mark.parametrize("candidates", [None, 6])
def test_loss_and_gradients_are_the_mean_of_the_naive_ones(
    second_matrix, first_head, temperature, most_logits, candidates
):
    case = Case(5, second_matrix, first_head, padding=2, candidates=candidates)
    for which in (range(1, 6), range(2, 6), range(3, 4), range(1, 2)):
        losses = case.losses(which, temperature=temperature, most_logits=most_logits)
        expected = case.naive_loss(which, temperature=temperature)
        torch.testing.assert_close(losses.loss, expected)
        torch.testing.assert_close(case.gradients(losses.loss), case.gradients(expected))


@pytest.mark.parametrize("candidates", [None, 6])
@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("weights", [None, (3.0, 0.0, 1.0, 2.0), (0.0, 0.0, 0.0, 1.0), (1.0, 0.0, 0.0, 0.0)])
def test_losses_of_parts_of_a_batch_add_up_to_the_loss_of_the_whole(candidates, temperature, weights):
    """With one divisor; without, each part is divided by its own number of targets."""
    case = Case(4, lengths=(6, 2, 4, 1, 9), candidates=candidates)
    options = {"head_weights": weights and torch.tensor(weights), "temperature": temperature}
    whole = case.losses(range(1, 5), divisor=torch.tensor(7.0), **options).loss
    expected = case.naive_loss(range(1, 5), weights, temperature, divisor=7.0)
    rows, hidden, losses = case.rows, case.hidden, []
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
        case.rows = TokenRows(rows.tokens[part], rows.lengths[part])
        case.hidden = hidden[part]
        losses.append(case.losses(range(1, 5), divisor=torch.tensor(7.0), **options).loss)
    case.rows, case.hidden = rows, hidden
    for loss in (whole, sum(losses)):
        torch.testing.assert_close(loss, expected)
    gradients = case.gradients(expected)
    for loss in (whole, sum(losses)):
        torch.testing.assert_close(case.gradients(loss), gradients)


@pytest.mark.parametrize("candidates", [None, 6])
@pytest.mark.parametrize("skipped", [1, 2, 4])
def test_a_head_with_weight_0_never_contributes(candidates, skipped):
    """Its loss may overflow: the others' loss and gradients are those without it."""
    case = Case(4, first_head="learned", candidates=candidates)
    kept = [head for head in range(1, 5) if head != skipped]
    with torch.no_grad():
        case.heads.output_bias[skipped - 1] = 1e308
    weights = torch.tensor([float(head != skipped) for head in range(1, 5)])
    losses = case.losses(range(1, 5), head_weights=weights)
    expected = sum(case.losses(range(head, head + 1)).loss for head in kept) / 3
    torch.testing.assert_close(losses.loss, expected)
    gradients = case.gradients(losses.loss)
    assert all(gradient.isfinite().all() for gradient in gradients)
    torch.testing.assert_close(gradients, case.gradients(expected))
    assert losses.counts[skipped - 1] == 0


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(0, 2),
    st.integers(1, 7),
    st.data(),
)
def test_any_lengths_parts_heads_and_weights(lengths, padding, block_size, data):
    candidates = data.draw(st.sampled_from([None, 3, VOCABULARY, 2 * VOCABULARY + 3]))
    case = Case(block_size, lengths=tuple(lengths), padding=padding, candidates=candidates)
    start = data.draw(st.integers(1, block_size))
    which = range(start, data.draw(st.integers(start + 1, block_size + 1)))
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(which), max_size=len(which)))
    temperature = data.draw(st.sampled_from([None, 2.0]))
    most_logits = data.draw(st.integers(1, 300))
    losses = case.losses(which, head_weights=torch.tensor(weights, dtype=torch.float64), temperature=temperature,
                         most_logits=most_logits)  # fmt: skip
    naive, correct = case.naive(which, temperature)
    torch.testing.assert_close(losses.loss, case.naive_loss(which, weights, temperature))
    torch.testing.assert_close(
        losses.sums, torch.stack([sum(own, torch.zeros(()).double()) for own in naive]).detach()
    )
    assert losses.counts.tolist() == [len(own) for own in naive]
    assert losses.correct.tolist() == correct


@pytest.mark.parametrize("temperature", [None, 2.0])
def test_sampled_heads_average_to_all(temperature):
    case = Case(4, first_head="learned")
    every = case.losses(range(1, 5), temperature=temperature).loss
    single = [case.losses(range(head, head + 1), temperature=temperature).loss for head in range(1, 5)]
    torch.testing.assert_close(torch.stack(single).mean(), every)
    gradients = [case.gradients(loss) for loss in single]
    means = tuple(torch.stack(each).mean(0) for each in zip(*gradients, strict=True))
    torch.testing.assert_close(means, case.gradients(every))


def test_a_frozen_base_gets_no_gradient_and_the_heads_the_same():
    case = Case()
    joint = case.gradients(case.losses(range(2, 5)).loss)
    case.hidden.requires_grad_(False)
    case.weight.requires_grad_(False)
    loss = case.losses(range(2, 5)).loss
    loss.backward()
    assert case.hidden.grad is None
    assert case.weight.grad is None
    for parameter, expected in zip(case.heads.parameters(), joint[2:], strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_without_gradients_only_the_numbers_are_computed():
    case = Case()
    expected = case.losses(range(1, 5))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            losses = case.losses(range(1, 5))
        assert not losses.loss.requires_grad
        torch.testing.assert_close(losses.loss, expected.loss.detach())
        assert losses.correct.tolist() == expected.correct.tolist()


@pytest.mark.parametrize("candidates", [None, 6])
def test_padding_is_never_looked_at(candidates):
    case = Case(padding=2, candidates=candidates)
    mask = torch.arange(case.rows.tokens.size(1)) < case.rows.lengths[:, None]
    before = case.losses(range(1, 5))
    case.rows.tokens[~mask] = -1_000_000
    with torch.no_grad():
        case.hidden[~mask] = torch.nan
    after = case.losses(range(1, 5))
    torch.testing.assert_close(after.loss, before.loss)
    gradient = case.gradients(after.loss)[0]
    assert (gradient[~mask] == 0).all()
    assert gradient[mask].isfinite().all()


def test_rows_without_a_target_for_a_head_count_as_nothing():
    case = Case(4, lengths=(2, 1))
    losses = case.losses(range(3, 5))
    assert losses.counts.tolist() == [0, 0]
    assert losses.loss == 0
    assert all((gradient == 0).all() for gradient in case.gradients(losses.loss))


def test_heads_that_agree_with_the_teacher_have_nothing_to_learn():
    case = Case()
    losses = case.losses(range(1, 2), temperature=2.0)
    torch.testing.assert_close(losses.loss, torch.zeros_like(losses.loss), atol=1e-12, rtol=0)
    assert losses.correct.tolist() == losses.counts.tolist() == [12]


def test_very_improbable_targets_have_finite_losses():
    case = Case()
    with torch.no_grad():
        case.weight.mul_(1000)
    losses = case.losses(range(1, 5))
    assert losses.loss > 500
    torch.testing.assert_close(losses.loss, case.naive_loss(range(1, 5)))


@pytest.mark.parametrize("second_matrix", ["per_head", "dense"])
@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types_are_near(second_matrix, temperature, dtype):
    case = Case(4, second_matrix, "learned", lengths=(30, 7, 22))
    expected = case.losses(range(1, 5), temperature=temperature)
    gradients = case.gradients(expected.loss)
    case.heads.float()
    case.hidden, case.weight = (
        tensor.detach().float().requires_grad_() for tensor in (case.hidden, case.weight)
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        losses = case.losses(range(1, 5), temperature=temperature, most_logits=300)
    assert losses.loss.dtype == losses.sums.dtype == torch.float32
    # bfloat16 rounds to 1 in 256; a loss added up in it would be 1 in 60 off.
    near, gradients_near = (1e-5, 1e-5) if dtype == torch.float32 else (0.005, 0.05)
    torch.testing.assert_close(losses.loss.double(), expected.loss, rtol=near, atol=0)
    for mine, other in zip(case.gradients(losses.loss), gradients, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - other).norm() < gradients_near * other.norm()


def test_gradients_can_be_taken_once():
    loss = Case().losses(range(1, 5)).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        loss.backward()


@pytest.mark.parametrize(
    ("which", "options", "words"),
    [
        (range(2, 6), {}, "choose from heads 1 to 4"),
        (range(2, 5), {"head_weights": torch.ones(4)}, "must be 3 numbers"),
        (range(2, 5), {"head_weights": torch.zeros(3)}, "must be 3 numbers"),
        (range(2, 5), {"head_weights": torch.tensor([1, -1, 1])}, "must be 3 numbers"),
        (range(2, 5), {"head_weights": torch.tensor([1, torch.nan, 1])}, "must be 3 numbers"),
        (range(2, 5), {"head_weights": torch.tensor([1, torch.inf, 1])}, "must be 3 numbers"),
        (range(2, 5), {"temperature": 0.0}, "above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(which, options, words):
    with pytest.raises(InputError, match=words):
        Case(4).losses(which, **options)
