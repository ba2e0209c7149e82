"""compare: what it writes is what decoding gives, and adds up."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from lightning_bpd.cli.compare import compare
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.interfaces import InputError
from lightning_bpd.metrics import bleu_score, bleu_signature, bleu_statistics, chrf_score, chrf_statistics
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.translation import Translator, load
from tools.demo_corpus.sentences import sentence_pairs

SENTENCES = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A corpus, a base and a model whose heads are right now and then."""
    folder = tmp_path_factory.mktemp("compare")
    pairs = list(islice(sentence_pairs(seed=4), SENTENCES))
    (folder / "test.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    tokenizer = train_tokenizer([line for pair in pairs for line in pair], 350, True, "identity")
    torch.manual_seed(1)
    shape = Architecture(d_model=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=32, norm="pre")
    size = tokenizer.vocab_size
    network = EncoderDecoder(shape, size, size, tokenizer.bos_id, tokenizer.eos_id)
    Translator(network, TextCodec(tokenizer, tokenizer)).save(
        folder / "base" / "model", {"training": {"regime": "base"}}
    )
    # Tied random weights repeat a token for ever, and these heads propose as p_1 does.
    heads = BlockHeads(16, HeadShape(block_size=5, d_hidden=8))
    training = {"regime": "frozen", "data": "gold", "seed": 7}
    Translator(network, TextCodec(tokenizer, tokenizer), heads).save(
        folder / "heads" / "model", {"training": training}
    )
    return folder


def test_numbers_add_up(folder, capsys):
    model = folder / "heads" / "model"
    compare(
        str(model), str(folder), rules=["exact", "top-2", "minimum-2"], timed=5, batch_size=4, device="cpu"
    )
    assert "k = 5, minimum-2" in capsys.readouterr().out
    measured = json.loads((folder / "heads" / "compare_test.json").read_text())
    assert measured["training"] == {"regime": "frozen", "data": "gold", "block_size": 5, "seed": 7}
    assert (measured["format"], measured["kind"]) == (2, "text")
    assert measured["corpus"]["rows"] == len(measured["references"]) == SENTENCES
    assert measured["signature"] == bleu_signature()
    arms = measured["arms"]
    named = [(arm["decoder"], arm["block_size"], arm["acceptance"]) for arm in arms]
    assert named == [
        ("greedy", 1, "exact"),
        ("blockwise", 2, "exact"),
        ("blockwise", 4, "exact"),
        ("blockwise", 5, "exact"),
        ("blockwise", 5, "top-2"),
        ("blockwise", 5, "minimum-2"),
    ]
    translator = load(model)
    sources = [line.split("\t")[0] for line in (folder / "test.tsv").read_text().splitlines()]
    for arm in arms:
        for name in ("outputs", "tokens", "iterations"):
            assert len(arm[name]) == SENTENCES
        sizes = arm["accepted_sizes"]
        assert len(sizes) == arm["block_size"]
        assert sum(sizes) == sum(arm["iterations"])
        assert sum(size * count for size, count in enumerate(sizes, start=1)) == sum(arm["tokens"])
        assert arm["mean_accepted_block_size"] == sum(arm["tokens"]) / sum(arm["iterations"])
        assert arm["speed_up"] == arms[0]["seconds"] / arm["seconds"] > 0
        score = bleu_score(bleu_statistics(arm["outputs"], measured["references"]))
        chrf = chrf_score(chrf_statistics(arm["outputs"], measured["references"]))
        assert (arm["quality"], arm["to_greedy"]) == ({"bleu": score, "chrf": chrf}, None)
        assert arm["outputs"] == translator.translate(
            sources, arm["decoder"], 4, block_size=arm["block_size"], acceptance=arm["acceptance"]
        )
    for arm in arms[1:4]:
        assert arm["greedy_agreement"] == 1.0
        # Replay and decoding agree (equality 6).
        assert measured["replay"]["iterations"][arm["block_size"] - 1] == sum(arm["iterations"])
    assert arms[3]["mean_accepted_block_size"] > 1.5
    assert measured["replay"]["tokens"] == measured["replay"]["iterations"][0] == sum(arms[0]["tokens"])
    by_position = measured["acceptance_by_position"]
    assert by_position == sorted(by_position, reverse=True)
    assert sum(by_position) == pytest.approx(arms[3]["mean_accepted_block_size"])
    costs = measured["costs"]
    assert costs["start"] > 0
    assert len(costs["call"]) == len(costs["propose"]) == 5
    assert costs["propose"][0] == 0
    assert all(seconds > 0 for seconds in [*costs["call"], *costs["propose"][1:]])


def test_a_base_is_decoded_greedily(folder, tmp_path):
    output = tmp_path / "base.json"
    compare(
        str(folder / "base" / "model"), str(folder), rules=["exact", "top-2"], timed=0, output=str(output)
    )
    measured = json.loads(output.read_text())
    (arm,) = measured["arms"]
    assert (arm["decoder"], arm["seconds"], arm["speed_up"]) == ("greedy", None, None)
    assert measured["training"] == {"regime": "base", "data": "unknown", "block_size": 1, "seed": None}
    assert measured["replay"] is measured["costs"] is measured["acceptance_by_position"] is None


def test_some_rows_of_a_corpus(folder, tmp_path):
    output = tmp_path / "some.json"
    compare(str(folder / "base" / "model"), str(folder), rows=5, timed=0, output=str(output))
    measured = json.loads(output.read_text())
    targets = [line.split("\t")[1] for line in (folder / "test.tsv").read_text().splitlines()]
    assert measured["references"] == [targets[place] for place in (0, 4, 9, 13, 18)]


def test_what_was_measured_otherwise_is_kept(folder, tmp_path):
    output = tmp_path / "cell.json"

    def measure(model="heads", data=folder, **options):
        options = {"rows": 3, "timed": 0, "output": str(output), "device": "cpu", **options}
        compare(str(folder / model / "model"), str(data), **options)
        return json.loads(output.read_text())

    measured = measure()
    before = output.read_bytes()
    (tmp_path / "test.tsv").write_text((folder / "test.tsv").read_text() + "one\tmore\n")
    for options, words in (
        ({"rules": ["top-2"]}, "rules k = 2 exact, k = 4 exact, k = 5 exact there, k = 2 top-2, .* now"),
        ({"block_sizes": [5]}, "rules k = 2 exact, .* there, k = 5 exact now"),
        ({"rows": 4}, "rows 3 there, 4 now"),
        ({"timed": 1}, "timed_rows 0 there, 1 now"),
        ({"timed_batch_size": 2}, "timed_batch_size 1 there, 2 now"),
        ({"batch_size": 2, "rows": 2}, "rows 3 there, 2 now; batch_size 64 there, 2 now"),
        ({"data": tmp_path}, "hash of the corpus "),
        ({"model": "base"}, "model .*/heads/model there, .*/base/model now"),
    ):
        with pytest.raises(InputError, match=rf"cell.json was measured otherwise \({words}.*--output OTHER"):
            measure(**options)
        assert output.read_bytes() == before
    # The same again takes its place, and so does anything where there is nothing to lose.
    output.write_text(json.dumps(measured | {"signature": "of before"}))
    assert measure()["arms"] == measured["arms"]
    assert json.loads(output.read_text())["signature"] == bleu_signature()
    for damaged in ("{", "[]", '{"format": 1}', '{"format": 2}'):
        output.write_text(damaged)
        assert measure(rows=2)["corpus"]["rows"] == 2


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("base", {"block_sizes": [2]}, "no block heads"),
        ("heads", {"block_sizes": [6]}, "larger than the 5"),
        ("heads", {"rules": ["best"]}, "no acceptance rule 'best'"),
        ("heads", {"rules": ["distance-2"]}, "values that have an order"),
        ("heads", {"corpus": "dev"}, "no files for 'dev'"),
        ("heads", {"output": "."}, "is a folder"),
        ("heads", {"data": None}, "--data is missing"),
        ("none", {}, "no finished model"),
        # Before anything is looked for.
        ("none", {"rows": 0}, "--rows 0: it must be at least 1"),
        ("none", {"batch_size": 0}, "--batch_size 0: it must be at least 1"),
        ("none", {"timed": -1}, "--timed -1: it must be at least 0"),
        ("none", {"timed_batch_size": 0}, "--timed_batch_size 0: it must be at least 1"),
        ("none", {"threads": 0}, "--threads 0: it must be at least 1"),
    ],
)
def test_what_cannot_be_compared(folder, tmp_path, model, options, words):
    output = str(tmp_path / "none.json")
    with pytest.raises(InputError, match=words):
        compare(
            str(folder / model / "model"),
            **{"data": str(folder), "device": "cpu", "output": output, **options},
        )


def test_bleu_in_another_tokenizer(folder, tmp_path):
    options = {
        "rules": ["exact"],
        "block_sizes": [2],
        "timed": 0,
        "device": "cpu",
        "output": str(tmp_path / "out"),
    }
    model = str(folder / "heads" / "model")
    compare(model, str(folder), bleu_tokenizer="char", **options)
    measured = json.loads((tmp_path / "out").read_text())
    assert measured["signature"] == bleu_signature("char")
    assert measured["settings"]["bleu_tokenizer"] == "char"
    for arm in measured["arms"]:
        expected = bleu_score(bleu_statistics(arm["outputs"], measured["references"], "char"))
        assert arm["quality"]["bleu"] == expected
    with pytest.raises(InputError, match="bleu_tokenizer char there, 13a now"):
        compare(model, str(folder), **options)
