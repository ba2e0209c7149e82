"""The benchmarks of Hugging Face bases, run end to end on tiny models: what they count must fit together."""

import importlib
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from lightning_bpd.codecs.hugging_face import with_template
from lightning_bpd.decoding import greedy
from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.finished_model import read_base
from lightning_bpd.saved.translation import Translator

for library in ("transformers", "ctranslate2"):
    pytest.importorskip(library, reason="needs the bench extra: pip install -e '.[bench]'")

ROOT = Path(__file__).parents[2]
EXTRA, ROWS = 6, 5


@pytest.fixture(scope="module")
def modules():
    """The scripts, which import each other by their plain names, and the tiny models of the adapters' tests."""
    names = ("hugging_face_speed", "hugging_face_rewinding", "small_models")
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("benchmarks", "tests/hugging_face"):
            patch.syspath_prepend(str(ROOT / folder))
        return {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def text(modules, tmp_path_factory):
    """Source and reference of a few sentences, one of them empty."""
    folder = tmp_path_factory.mktemp("text")
    pairs = [("", ""), *modules["small_models"].pairs(ROWS, seed=8)]
    for place, name in enumerate(("source", "reference")):
        (folder / name).write_text("".join(f"{pair[place]}\n" for pair in pairs))
    return {"source": folder / "source", "reference": folder / "reference"}


def finished(modules, folder, family):
    """A tiny base, a draft model with its tokenizer, and a finished model of random heads on the base."""
    small = modules["small_models"]
    for seed, name in enumerate(("base", "draft")):
        make = getattr(small, family, small.causal)
        make(folder / name, seed=seed)
    found = read_base(f"hf:{folder / 'base'}")
    network, codec, origin = found.network, found.codec, found.origin
    if family == "llama":
        codec = with_template(codec, "translate: {source} =")
    torch.manual_seed(0)
    heads = BlockHeads(network.architecture.d_model, HeadShape(block_size=3, d_hidden=8))
    torch.nn.init.normal_(heads.output_weight, std=0.3)
    Translator(network, codec, heads, origin).save(folder / "model", {})
    return folder / "model"


def measured(modules, model, text, **options):
    report = model.parent / "report.json"
    modules["hugging_face_speed"].main(
        model, **text, extra_length=EXTRA, repeats=1, json=report, **{"batch_sizes": [1, 3], **options}
    )
    return json.loads(report.read_text())


@pytest.mark.parametrize("family", ["marian", "llama", "t5"])
def test_all_ways_decode_the_same(modules, text, family, tmp_path, capsys):
    model = finished(modules, tmp_path, family)
    report = measured(modules, model, text, draft=tmp_path / "draft", draft_tokens=2, block_sizes=[2, 3])
    assert report["sentences"] == ROWS
    library = ["transformers: prompt lookup", "transformers: draft model"]
    ours = ["ours: greedy", "ours: blockwise, k = 2", "ours: blockwise, k = 3"]
    engine = [] if family == "t5" else ["CTranslate2 float32: greedy"]
    carried = [name.replace("ours", "ours, converted") for name in ours] if family == "marian" else []
    in_batches = ["transformers: generate", *engine, *ours, *carried]
    entries = {(entry["arm"], entry["batch_size"]): entry for entry in report["results"]}
    assert entries.keys() == {(name, size) for name in in_batches for size in (1, 3)} | {
        (name, 1) for name in library
    }
    missing = report["not_measured"]
    assert ("CTranslate2 float32: greedy" in missing) == (family == "t5")
    assert ("ours, converted" in missing) == (family != "marian")
    yardstick = entries["transformers: generate", 1]
    assert yardstick["tokens"] > 5 * ROWS
    for (name, _), entry in entries.items():
        assert entry["equal_to_generate"] == 1
        assert (entry["tokens"], entry["bleu"]) == (yardstick["tokens"], yardstick["bleu"])
        rate = entry["tokens"] / entry["seconds"][0]
        assert entry["tokens_per_second"]["median"] == pytest.approx(rate)
        first = entries["transformers: generate", entry["batch_size"]]
        assert entry["speed_up_over_generate"] == pytest.approx(first["seconds"][0] / entry["seconds"][0])
        size = entry["mean_accepted_block_size"]
        if "blockwise" in name:
            assert 1 <= size <= int(name[-1])
            assert size == entries[name, 1]["mean_accepted_block_size"]
            assert size == entries[name.replace("ours, converted", "ours"), 1]["mean_accepted_block_size"]
        elif name in library:
            assert size >= 1
        else:
            assert size == 1
    shown = capsys.readouterr()
    assert shown.out.count("\n| ") == len(entries) + 2
    assert all(f"* {name}: {reason}" in shown.out for name, reason in missing.items())
    assert "batches of 3: round 1 of 1" in shown.err


@pytest.mark.parametrize("family", ["marian", "llama"])
def test_rows_that_end_by_themselves_and_rows_at_the_limit(modules, text, family, tmp_path):
    """The end token is made likelier: rows end at once, in their middle, and at the limit."""
    model = finished(modules, tmp_path, family)
    before = measured(modules, model, text, batch_sizes=[2])
    found = read_base(f"hf:{tmp_path / 'base'}")
    network, codec, origin = found.network, found.codec, found.origin
    with torch.no_grad():
        if family == "marian":
            network.model.final_logits_bias[:, network.eos_id] += 4
        else:
            network.output_weight[network.eos_id] *= 1.5
    network.model.save_pretrained(tmp_path / "base")
    heads = BlockHeads(network.architecture.d_model, HeadShape(block_size=3, d_hidden=8))
    Translator(network, codec, heads, origin).save(model, {})
    after = measured(modules, model, text, batch_sizes=[2])
    batches = Translator(network, codec).batches(text["source"].read_text().split("\n")[1:-1], 1)
    lengths = [int(length) for _, batch in batches for length in greedy(network, batch, EXTRA).lengths]
    assert min(lengths) < 10
    assert max(lengths) > 20
    assert sum(lengths) == after["results"][0]["tokens"] < before["results"][0]["tokens"]
    assert all(entry["equal_to_generate"] == 1 for entry in after["results"])
    assert after["not_measured"]["transformers: draft model"] == "no draft model was given (--draft)"


def test_what_cannot_be_measured_is_refused(modules, text, tmp_path):
    model = finished(modules, tmp_path, "marian")
    with pytest.raises(InputError, match="propose blocks of 1 to 3 tokens, not \\[4\\]"):
        measured(modules, model, text, block_sizes=[4])
    other = modules["small_models"].t5(tmp_path / "t5")
    with pytest.raises(InputError, match="t5 has another vocabulary than the base"):
        measured(modules, model, text, draft=other)
    (tmp_path / "short").write_text("one line\n")
    with pytest.raises(InputError, match="short"):
        measured(modules, model, {**text, "reference": tmp_path / "short"})
    found = read_base(f"hf:{tmp_path / 'base'}")
    network, codec, origin = found.network, found.codec, found.origin
    Translator(network, codec, None, origin).save(tmp_path / "bare", {})
    with pytest.raises(InputError, match="is no Hugging Face base with block heads"):
        measured(modules, tmp_path / "bare", text)


def test_three_ways_of_forgetting_give_the_same_rows(modules, tmp_path, capsys):
    rewinding = modules["hugging_face_rewinding"]
    rewinding.main(
        batch_sizes=[1, 6], block_size=4, mean_accepted=2.0, source_length=5, length=24, width=64, vocabulary=200,
        repeats=1, json=tmp_path / "report.json",
    )  # fmt: skip
    results = json.loads((tmp_path / "report.json").read_text())["results"]
    assert [(entry["model"], entry["way"], entry["batch size"]) for entry in results] == [
        (family, way, size)
        for family in ("marian", "t5", "llama")
        for size in (1, 6)
        for way in (["ours", "cropped", "masked"] if family == "llama" else ["ours", "cropped"])
    ]
    for entry in results:
        assert entry["rows equal to greedy"] == entry["batch size"]
        assert 1.3 < entry["mean accepted block size"] < 3
        if entry["way"] == "ours":
            assert entry["times as long as ours"] == 1
    assert capsys.readouterr().out.count("\n| ") == len(results) + 2


def test_rewound_models_do_not_repeat_themselves(modules):
    """Rows of one token over and over, or all alike, would be equal whatever the cache held."""
    rewinding = modules["hugging_face_rewinding"]
    for family in ("marian", "t5", "llama"):
        adapter = rewinding.random_model(family, 64, 200, 64)
        source = rewinding.TokenRows(torch.arange(3, 23).view(4, 5), torch.full((4,), 5))
        rows = rewinding.greedy(adapter, source, 20).rows()
        assert all(len(row) == 25 for row in rows)
        assert len(set(map(tuple, rows))) == 4
        assert max(len(set(row)) for row in rows) > 5


@pytest.mark.parametrize("mean", [1.0, 2.5, 5.0])
def test_the_agreement_gives_the_mean(modules, mean):
    agreement = modules["hugging_face_rewinding"].agreement_for(mean, 5)
    assert sum(agreement**place for place in range(5)) == pytest.approx(mean)


@pytest.mark.parametrize("options", [{"mean_accepted": 6.0}, {"mean_accepted": 0.5}, {"length": 5}])
def test_impossible_sizes_are_refused(modules, options):
    with pytest.raises(InputError, match="mean_accepted must be 1 to block_size"):
        modules["hugging_face_rewinding"].main(block_size=5, **options)
