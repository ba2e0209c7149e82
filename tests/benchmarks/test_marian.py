from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch

from lightning_bpd.interfaces import InputError, ParallelBatch, TokenRows
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.training.losses import decoder_inputs, summed_cross_entropy, without_padding

for library in ("transformers", "ctranslate2"):
    pytest.importorskip(library, reason="needs the bench extra: pip install -e '.[bench]'")

VOCABULARY, BOS, EOS = 40, 2, 3
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmarks() -> dict[str, ModuleType]:
    """The scripts, which import each other by their plain names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return {
            name: importlib.import_module(name) for name in ("marian", "decoding_speed", "training_speed")
        }


def random_network(norm: Literal["pre", "post"], **changes: object) -> EncoderDecoder:
    torch.manual_seed(1)
    shape = {"d_model": 32, "heads": 4, "encoder_layers": 2, "decoder_layers": 3, "feed_forward": 64}
    architecture = Architecture(**{**shape, "norm": norm, **changes})  # type: ignore[arg-type]
    network = EncoderDecoder(architecture, VOCABULARY, VOCABULARY, BOS, EOS).eval()
    for parameter in network.parameters():
        # Biases and norms are 0 and 1 at first, which would hide one that was not copied.
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


def random_rows(rows: int, longest: int, seed: int) -> TokenRows:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (rows,), generator=generator)
    lengths[0] = longest
    tokens = torch.randint(4, VOCABULARY, (rows, longest), generator=generator)
    inside = torch.arange(longest) < lengths[:, None]
    tokens[torch.arange(rows), lengths - 1] = EOS
    return TokenRows(tokens * inside, lengths)


@pytest.fixture(scope="module")
def copying_network() -> EncoderDecoder:
    """A network that has learned to repeat its source, or nearly, so that it ends its rows by itself."""
    network = random_network("post", dropout=0.0).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(250):
        batch = random_rows(32, 9, step)
        hidden, targets = without_padding(network(batch, decoder_inputs(batch, BOS)), batch)
        loss, _ = summed_cross_entropy(hidden, network.output_weight, targets)
        optimizer.zero_grad()
        (loss / len(targets)).backward()
        optimizer.step()
    return network.eval()


# As a converted Marian model has it.
CONVERTED = {
    "activation": "swish",
    "positions": "sinusoidal_halves",
    "scale_embedding": False,
    "output_bias": True,
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("norm", "changes"), [("post", {}), ("pre", {}), ("post", CONVERTED)])
def test_hugging_face_has_our_logits(
    benchmarks: dict[str, ModuleType],
    norm: Literal["pre", "post"],
    changes: dict[str, object],
    attention: str,
) -> None:
    network = random_network(norm, **changes)
    if network.output_bias is not None:
        network.output_bias.normal_()
    source, target = random_rows(6, 9, 1), random_rows(6, 7, 2)
    inputs = decoder_inputs(target, BOS)
    other = benchmarks["marian"].hugging_face_model(network, attention)
    mask = (torch.arange(9) < source.lengths[:, None]).long()
    with torch.no_grad():
        ours = network.project(network(source, inputs))
        theirs = other(input_ids=source.tokens, attention_mask=mask, decoder_input_ids=inputs).logits
    assert ours.std() > 0.5
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_greedy_is_the_same_in_all_three(
    benchmarks: dict[str, ModuleType], copying_network: EncoderDecoder
) -> None:
    scripts, device = benchmarks["decoding_speed"], torch.device("cpu")
    batches = [random_rows(20, 9, 1001), random_rows(20, 8, 1002)]
    ours = scripts.our_rows(copying_network, batches)
    assert sum(row[-1] == EOS for row in ours) >= 38
    assert len({len(row) for row in ours}) > 4
    other = benchmarks["marian"].hugging_face_model(copying_network, "sdpa")
    engine = scripts.load_ctranslate2(copying_network, device, 1)
    texts = [scripts.text_rows(batch) for batch in batches]
    for theirs in (
        scripts.hugging_face_rows(other, batches),
        scripts.ctranslate2_rows(engine, texts, EOS),
    ):
        assert [row[: len(mine)] for row, mine in zip(theirs, ours, strict=True)] == ours


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_both_arms_train_on_the_same_loss(benchmarks: dict[str, ModuleType], label_smoothing: float) -> None:
    scripts = benchmarks["training_speed"]
    network = random_network("post", dropout=0.0)
    other = benchmarks["marian"].hugging_face_model(network, "sdpa")
    batch = ParallelBatch(random_rows(6, 9, 1), random_rows(6, 7, 2), torch.arange(6))
    ours = scripts.our_loss(network, batch, label_smoothing)
    theirs = scripts.marian_loss(other, scripts.marian_inputs(batch), label_smoothing)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    ours.backward()
    theirs.backward()
    gradient = other.model.decoder.layers[0].fc1.weight.grad
    network_gradient = next(iter(network.decoder)).feed_forward.hidden.weight.grad
    torch.testing.assert_close(network_gradient, gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("changes", [{"positions": "learned"}, {"tie": "output"}])
def test_what_marian_has_not_is_refused(
    benchmarks: dict[str, ModuleType], changes: dict[str, object]
) -> None:
    with pytest.raises(InputError, match="Marian has sinusoidal positions"):
        benchmarks["marian"].hugging_face_model(random_network("post", **changes), "sdpa")
