"""Hugging Face's models by the adapters: blockwise = greedy = their own generate; cached = uncached; float64."""

import copy

import pytest
import torch
from drafters import Knowing

pytest.importorskip("transformers")
from hugging_face_models import (
    CAUSAL,
    EOS,
    FAMILIES,
    SEQ2SEQ,
    VOCABULARY,
    adapted,
    bare,
    generated,
    plain_logits,
    row_of,
    sources,
)

from lightning_bpd.adapters import CausalAdapter, decoder_only, encoder_decoder
from lightning_bpd.decoding import Exact, beam_search, blockwise, greedy, replay
from lightning_bpd.drafters import BlockHeads, HeadDrafter, HeadShape
from lightning_bpd.interfaces import TokenRows

# T5's, Llama's and their kin's norms compute in float32 whatever the model does.
TOLERANCE = 2e-5


def random_heads(adapter, block_size=8, seed=0):
    torch.manual_seed(seed)
    heads = BlockHeads(adapter.output_weight.size(1), HeadShape(block_size=block_size)).double()
    torch.nn.init.normal_(heads.output_weight)
    return HeadDrafter(heads, adapter.output_weight)


def check(adapter, source, extra, block_sizes):
    """Returns how its rows ended: at the end token, or at the limit."""
    expected = generated(adapter, source, extra)
    result = greedy(adapter, source, extra)
    assert result.rows() == expected
    drafters = [random_heads(adapter), Knowing(adapter, source, extra, wrong=0.3)]
    for block_size in block_sizes:
        for drafter in drafters:
            decoded = blockwise(adapter, drafter, source, block_size, Exact(), extra)
            assert decoded.rows() == expected, (block_size, type(drafter).__name__)
    knowing = Knowing(adapter, source, extra, wrong=0.0)
    decoded = blockwise(adapter, knowing, source, block_sizes[-1], Exact(), extra)
    assert decoded.rows() == expected
    if max(map(len, expected)) >= block_sizes[-1]:
        assert int(decoded.accepted.max()) == block_sizes[-1]
    return {row[-1] == adapter.eos_id for row in expected}


@pytest.mark.parametrize("family", FAMILIES)
def test_blockwise_equals_greedy_equals_generate(family):
    endings = set()
    for seed in range(4):
        model = bare(family, seed)
        adapter = adapted(model)
        assert adapter.tested
        source = sources(4 - seed, seed)
        if seed % 2:  # rows are to end: by what the first one has as its third token
            model.generation_config.eos_token_id = greedy(adapter, source, 7).rows()[0][:3][-1]
            adapter = adapted(model)
        endings |= check(adapter, source, 7, [range(1, 9), [2, 5], [3, 8], [4, 7]][seed])
    assert endings == {True, False}, "rows end in one way alone"


def test_the_families_called_tested_are():
    assert frozenset(SEQ2SEQ) == encoder_decoder.TESTED
    assert frozenset(CAUSAL) == decoder_only.TESTED


@pytest.mark.parametrize("family", ["bart", "pegasus", "gpt2", "opt", "llama"])
@pytest.mark.parametrize("block_size", [1, 5])
def test_blocks_that_stick_out_over_the_last_position(family, block_size):
    model = bare(family, 1, **{"n_positions" if family == "gpt2" else "max_position_embeddings": 12})
    model.generation_config.suppress_tokens = [EOS]
    adapter = adapted(model)
    assert adapter.max_length == (12 if family in SEQ2SEQ else 12 - 6 + 1)
    source = sources(3, 0)
    expected = generated(adapter, source, 50)
    assert max(map(len, expected)) == adapter.max_length
    for drafter in (random_heads(adapter), Knowing(adapter, source, 50, wrong=0.2)):
        assert blockwise(adapter, drafter, source, block_size, Exact(), 50).rows() == expected


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_any_history_equals_the_model_without_a_cache(family):
    """Whatever was fed, rewound and reordered: each row goes on as the model itself would."""
    adapter = adapted(bare(family, 5))
    source = sources(3, 1)
    padding = adapter.model.config.pad_token_id or 0
    generator = torch.Generator().manual_seed(0)

    def number(least, most):
        return int(torch.randint(least, most + 1, (), generator=generator))

    state = adapter.start(source, None, 18)
    origin, history = list(range(3)), [[], [], []]
    for move in range(14):
        if move % 3 == 1:
            lengths = [number(0, len(row)) for row in history]
            state.rewind(torch.tensor(lengths))
            history = [row[:length] for row, length in zip(history, lengths, strict=True)]
        elif move % 5 == 2:
            rows = [number(0, len(history) - 1) for _ in range(number(1, 4))]
            state.reorder(torch.tensor(rows))
            origin, history = [origin[row] for row in rows], [history[row] for row in rows]
        else:
            width = min(number(1, 4), 18 - max(map(len, history)))
            if width == 0:
                continue
            tokens = torch.randint(0, VOCABULARY, (len(history), width), generator=generator)
            # Without a cache M2M100 does not count padding inside a row, with one it does.
            tokens[tokens == padding] = EOS
            hidden = adapter.step(tokens, state)
            for row, new in enumerate(tokens.tolist()):
                history[row] = history[row] + new
                whole = torch.tensor([history[row]])
                if whole[0, 0] != adapter.bos_id and isinstance(adapter, CausalAdapter):
                    whole[0, 0] = adapter.bos_id
                expected = plain_logits(adapter, row_of(source, origin[row]), whole)[-width:]
                ours = adapter.project(hidden[row])
                torch.testing.assert_close(ours, expected, rtol=TOLERANCE, atol=TOLERANCE)
        assert state.lengths.tolist() == [len(row) for row in history]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_sees_what_decoding_sees(family):
    adapter = adapted(bare(family, 2))
    source = sources(3, 3)
    padding = adapter.model.config.pad_token_id or 0
    target = torch.randint(0, VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(1))
    target[target == padding] = EOS
    target[:, 0] = adapter.bos_id
    hidden = adapter(source, target)
    for row in range(3):
        expected = plain_logits(adapter, row_of(source, row), target[row : row + 1])
        torch.testing.assert_close(adapter.project(hidden[row]), expected, rtol=TOLERANCE, atol=TOLERANCE)
    # The product with the projection's weight, which losses compute, is all but bias and cap.
    weight, bias = adapter.output_weight, adapter.output_bias
    product = hidden @ weight.T + (0 if bias is None else bias)
    if (cap := adapter.projection.cap) is not None:
        product = cap * torch.tanh(product / cap)
    torch.testing.assert_close(product, adapter.project(hidden), rtol=1e-9, atol=1e-9)

    # What lies past the ends of sources and targets does not matter.
    spoiled = source.tokens.clone()
    for row, length in enumerate(source.lengths.tolist()):
        spoiled[row, length:] = 10**6
    longer = torch.nn.functional.pad(target, (0, 2), value=padding)
    same = adapter(TokenRows(spoiled, source.lengths), longer)[:, :5]
    torch.testing.assert_close(same, hidden, rtol=TOLERANCE, atol=TOLERANCE)

    hidden.square().sum().backward()
    gradients = [value.grad for value in adapter.parameters() if value.grad is not None]
    assert len(gradients) > 10
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("family", ["marian", "m2m_100", "t5", "llama", "gemma2"])
def test_beams_in_a_batch_equal_beams_alone(family):
    adapter = adapted(bare(family, 3))
    source = sources(4, 2)
    together = beam_search(adapter, source, beam=3, extra_length=5).rows()
    alone = [beam_search(adapter, row_of(source, row), beam=3, extra_length=5).rows()[0] for row in range(4)]
    assert together == alone


@pytest.mark.parametrize("family", ["bart", "t5", "gpt2", "mistral"])
def test_rows_name_their_source(family):
    adapter = adapted(bare(family, 4))
    source = sources(3, 4)
    rows = torch.tensor([2, 0, 0, 1])
    picked = TokenRows(source.tokens[rows], source.lengths[rows])
    tokens = torch.full((4, 3), 3)
    with torch.inference_mode():
        repeated = adapter.step(tokens, adapter.start(source, rows, 3))
        separate = adapter.step(tokens, adapter.start(picked, None, 3))
    torch.testing.assert_close(repeated, separate, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("family", ["marian", "llama"])
def test_replay_equals_decoding(family):
    adapter = adapted(bare(family, 0))
    source = sources(4, 0)
    drafter = random_heads(adapter, 4)
    replayed = replay(adapter, drafter, source, greedy(adapter, source, 7), 4)
    for block_size in range(1, 5):
        accepted = blockwise(adapter, drafter, source, block_size, Exact(), 7).accepted
        assert torch.equal(replayed[block_size - 1], accepted)


@pytest.mark.parametrize("family", ["bart", "t5", "gpt2"])
def test_a_copy_decodes_by_itself(family):
    adapter = adapted(bare(family, 6))
    source = sources(3, 6)
    expected = greedy(adapter, source, 7).rows()
    other = copy.deepcopy(adapter)
    with torch.no_grad():
        for value in adapter.parameters():
            value.normal_()
    assert blockwise(other, random_heads(other), source, 4, Exact(), 7).rows() == expected


def test_eager_attention():
    for family in ("marian", "t5", "llama"):
        model = bare(family, 7)
        model.set_attn_implementation("eager")
        check(adapted(model), sources(3, 7), 7, [4])
