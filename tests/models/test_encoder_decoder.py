import pytest
import torch

from lightning_bpd.decoding import beam_search, greedy
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.models import Architecture, EncoderDecoder


def network(**options) -> EncoderDecoder:
    torch.manual_seed(0)
    shape = {"d_model": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 32}
    architecture = Architecture(**{**shape, "dropout": 0.0, **options})
    return EncoderDecoder(architecture, 11, 11, bos_id=2, eos_id=3).eval()


def source(length: int) -> TokenRows:
    return TokenRows(torch.ones(1, length, dtype=torch.long), torch.tensor([length]))


def test_base_is_the_base_of_the_paper():
    """Vaswani et al. 2017, table 3: 65 million parameters with 37,000 tokens."""
    with torch.device("meta"):
        model = EncoderDecoder(Architecture(), 37_000, 37_000, bos_id=2, eos_id=3)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(63e6, rel=0.02)


@pytest.mark.parametrize(("tie", "matrices"), [("all", 1), ("output", 2), ("none", 3)])
def test_tying_shares_matrices(tie, matrices):
    names = [name for name, p in network(tie=tie).named_parameters() if p.shape == (11, 16)]
    assert len(names) == matrices


def test_sinusoids_grow_and_learned_positions_say_where_they_end():
    tokens = torch.ones(1, 40, dtype=torch.long)
    grown = network()
    first = grown(source(30), tokens)
    grown(source(600), torch.ones(1, 700, dtype=torch.long))
    torch.testing.assert_close(grown(source(30), tokens), first, rtol=0, atol=0)
    assert not list(grown.buffers()), "weight averaging and DDP would not follow a buffer that grows"
    with pytest.raises(
        InputError, match="a source row of 30 tokens is longer than this model's learned positions, 8"
    ):
        network(max_length=8, positions="learned")(source(30), tokens)
    with pytest.raises(InputError, match="a target row of 9 tokens"):
        network(max_length=8, positions="learned")(source(3), torch.ones(1, 9, dtype=torch.long))


def test_positions_that_grew_while_decoding_still_train():
    model = network()
    with torch.inference_mode():
        model.start(source(9), None, 400)
    model.train()(source(9), torch.ones(1, 300, dtype=torch.long)).sum().backward()


def test_the_cache_is_as_narrow_as_what_goes_in():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        state = network().start(source(4), None, 9)
    assert state.cache.entries.dtype == state.row_source[0][0].dtype == torch.bfloat16


def test_decoding_stops_where_learned_positions_end():
    model = network(max_length=12, positions="learned", tie="none")
    for decoder in (greedy, beam_search):
        assert int(decoder(model, source(10), extra_length=50).lengths) <= 12


@torch.inference_mode()
def test_a_block_may_stick_out_over_learned_positions():
    """What sticks out has any position; what comes before it is not touched by that."""
    model = network(max_length=8, positions="learned")
    tokens = torch.randint(4, 11, (2, 11))
    both = TokenRows(torch.ones(2, 3, dtype=torch.long), torch.tensor([3, 2]))
    expected = model(both, tokens[:, :8])
    even = model.start(both, None, 11)
    torch.testing.assert_close(model.step(tokens, even)[:, :8], expected)
    ragged = model.start(both, None, 11)
    model.step(tokens[:, :6], ragged)
    ragged.rewind(torch.tensor([6, 5]))
    after = model.step(torch.stack((tokens[0, 6:10], tokens[1, 5:9])), ragged)
    torch.testing.assert_close(after[0, :2], expected[0, 6:])
    torch.testing.assert_close(after[1, :3], expected[1, 5:])


def test_shapes_that_cannot_be():
    with pytest.raises(InputError, match="d_model 16 is not a multiple of heads 3"):
        Architecture(d_model=16, heads=3)
    with pytest.raises(InputError, match="sinusoidal positions need an even d_model, not 15"):
        Architecture(d_model=15, heads=3)
    with pytest.raises(
        InputError, match="tie: all needs one vocabulary for both languages, not 5 source and 6 target"
    ):
        EncoderDecoder(Architecture(d_model=16, heads=2), 5, 6, bos_id=2, eos_id=3)


def test_bfloat16_attention_trains_in_float32_on_the_cpu():
    """Autocast must give the same result, to bfloat16's precision, on the path that avoids the slow kernel."""
    model = network().train()
    tokens = torch.randint(4, 11, (1, 12))
    with torch.autocast("cpu", torch.bfloat16):
        low = model(source(6), tokens)
        low.float().sum().backward()
    with torch.inference_mode():
        torch.testing.assert_close(low.float().detach(), model(source(6), tokens), rtol=0.05, atol=0.05)


def test_what_is_added_to_the_logits_is_kept_and_not_trained():
    plain, biased = network(), network(output_bias=True)
    assert plain.output_bias is None
    assert "output_bias" not in plain.state_dict()
    assert "output_bias" not in dict(biased.named_parameters())
    hidden = torch.randn(2, 3, 16)
    torch.testing.assert_close(biased.project(hidden), plain.project(hidden))
    biased.output_bias[1] = -1e4
    other = network(output_bias=True)
    other.load_state_dict(biased.state_dict())
    assert torch.equal(other.project(hidden), biased.project(hidden))
    assert other.project(hidden)[..., 1].max() < -9000


def test_halved_sinusoids_are_sinusoids_in_another_order():
    plain, halved = network(), network(positions="sinusoidal_halves")
    table, other = (model._positions("source", 300) for model in (plain, halved))
    assert torch.equal(other[:, :8], table[:, 0::2])
    assert torch.equal(other[:, 8:], table[:, 1::2])
    with pytest.raises(InputError, match="even d_model"):
        Architecture(d_model=9, heads=3, positions="sinusoidal_halves")


@pytest.mark.parametrize(
    "changes", [{"activation": "gelu"}, {"activation": "swish"}, {"scale_embedding": False}]
)
def test_each_setting_changes_what_is_computed(changes):
    tokens = torch.tensor([[3, 4, 5]])
    results = [model(source(3), tokens) for model in (network(), network(), network(**changes))]
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2])
