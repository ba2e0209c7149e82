"""Converted Marian models: logits = transformers' own, greedy = blockwise = their generate; float64."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drafters import Knowing, row_of, sources

pytest.importorskip("transformers")
from marian_folders import ENGLISH, GERMAN, change, write_marian

import lightning_bpd
from lightning_bpd.cli.entry import main
from lightning_bpd.datamodules.parallel_text import ParallelText
from lightning_bpd.decoding import Exact, blockwise, greedy
from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.interfaces import TokenRows
from lightning_bpd.models import EncoderDecoder
from lightning_bpd.saved.finished_model import GenerativeModel, read_base, read_folder
from lightning_bpd.saved.marian import SUPPRESSED, read_marian
from lightning_bpd.saved.translation import Translator

# Sums are taken in another order, nothing else.
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
KINDS = {
    "opus": {},
    "one layer, relu": {"encoder_layers": 1, "decoder_layers": 1, "activation_function": "relu"},
    "more layers, gelu": {"encoder_layers": 1, "decoder_layers": 3, "activation_function": "gelu"},
    "silu, unscaled": {"activation_function": "silu", "scale_embedding": False, "d_model": 32},
    "separate": {"separate": True},
    "untied": {"tie_word_embeddings": False},
    "separate, untied": {"separate": True, "tie_word_embeddings": False},
}


def pair(folder, kind, seed):
    """transformers' model and ours, float64."""
    theirs = write_marian(folder, seed, **KINDS[kind])
    return theirs, read_marian(folder).network.double()


def generated(model, source, limits):
    """Each row by itself, without padding and with its own limit."""
    rows = []
    for row, limit in enumerate(limits.tolist()):
        tokens = row_of(source, row).tokens
        mask = torch.ones_like(tokens)
        output = model.generate(
            tokens, attention_mask=mask, num_beams=1, do_sample=False, max_new_tokens=limit
        )
        rows.append(output[0, 1:].tolist())
    return rows


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_logits_are_theirs(tmp_path, kind):
    theirs, ours = pair(tmp_path, kind, 0)
    source = sources(5, 9, seed=1, vocabulary=ours.source_vocabulary)
    target = torch.randint(ours.target_vocabulary, (5, 7), generator=torch.Generator().manual_seed(2))
    target[:, 0] = ours.bos_id
    mask = torch.arange(source.tokens.size(1)) < source.lengths[:, None]
    wanted = theirs(input_ids=source.tokens, attention_mask=mask.long(), decoder_input_ids=target).logits
    found = ours.project(ours(source, target))
    padding = theirs.config.pad_token_id
    assert wanted.std() > 0.5
    assert bool((wanted.argmax(-1) == padding).any())
    assert found[..., padding].max() < SUPPRESSED / 2
    wanted[..., padding] = found[..., padding] = 0
    torch.testing.assert_close(found, wanted, **TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_blockwise_equals_greedy_equals_generate(tmp_path, kind):
    endings, variety = set(), set()
    for seed in range(3):
        theirs, ours = pair(tmp_path, kind, seed)
        source = sources(5, 9, seed, vocabulary=ours.source_vocabulary)
        if seed:  # rows are to end: by what the first one has as its third token
            end = greedy(ours, source, 8).rows()[0][:3][-1]
            ours.ends, theirs.generation_config.eos_token_id = frozenset((end,)), end
        expected = generated(theirs, source, length_limits(ours, source, 8))
        assert greedy(ours, source, 8).rows() == expected
        torch.manual_seed(seed)
        heads = BlockHeads(ours.architecture.d_model, HeadShape(block_size=6, d_hidden=8)).double()
        drafters = GenerativeModel(ours, None, heads).drafter, Knowing(ours, source, 8, wrong=0.3)
        for block_size in (1, 2, 3, 6):
            for drafter in drafters:
                result = blockwise(ours, drafter, source, block_size, Exact(), 8)
                assert result.rows() == expected
        endings |= {row[-1] in ours.ends for row in expected}
        variety |= {token for row in expected for token in row}
    assert endings == {True, False}
    assert len(variety) > 3


def test_a_long_row_is_where_their_positions_end(tmp_path):
    theirs = write_marian(tmp_path, max_position_embeddings=400)
    ours = read_marian(tmp_path).network.double()
    target = torch.randint(50, (1, 400), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = theirs(input_ids=target, decoder_input_ids=target).logits[..., :-1]
        found = ours.project(ours(TokenRows(target, torch.tensor([400])), target))[..., :-1]
    torch.testing.assert_close(found, wanted, **TOLERANCE)


def test_losses_with_a_suppressed_token_are_numbers(tmp_path):
    theirs = write_marian(tmp_path)
    network = read_marian(tmp_path).network.train()
    source = sources(4, 6, seed=0, vocabulary=50)
    logits = network.project(network(source, source.tokens))
    probabilities = logits.softmax(-1)
    assert probabilities[..., theirs.config.pad_token_id].max() == 0
    entropy = -(probabilities * logits.log_softmax(-1)).sum()
    smoothed = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), source.tokens.flatten(), label_smoothing=0.1
    )
    (entropy + smoothed).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert smoothed < 100
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert "output_bias" not in dict(network.named_parameters())


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickled_checkpoint_with_all_names(tmp_path, archive):
    """As older versions wrote them: tied matrices under each name, positions too, settings in config.json alone."""
    theirs = write_marian(tmp_path)
    expected = read_marian(tmp_path).network.state_dict()
    torch.save(
        theirs.float().state_dict(),
        tmp_path / "pytorch_model.bin",
        _use_new_zipfile_serialization=archive,
    )
    (tmp_path / "model.safetensors").unlink()
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").unlink()
    change(
        tmp_path / "config.json",
        bad_words_ids=generation["bad_words_ids"],
        no_repeat_ngram_size=0,
        num_beams=6,
    )
    found = read_marian(tmp_path).network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_convert_and_translate(tmp_path):
    theirs = write_marian(tmp_path / "marian", seed=1)
    model = str(tmp_path / "ours")
    main(["convert", "--model", str(tmp_path / "marian"), "--output", model])
    translator = lightning_bpd.load(model)
    translator.network.double()
    lines = [*ENGLISH[:6], "", ">>deu<< " + ENGLISH[6], "µ? " + ENGLISH[7]]
    found = translator.translate(lines, batch_size=4, extra_length=8)

    import transformers

    tokenizer = transformers.MarianTokenizer.from_pretrained(tmp_path / "marian")
    for line, text in zip(lines, found, strict=True):
        inputs = tokenizer([line], return_tensors="pt")
        limit = inputs.input_ids.size(1) + 8
        output = theirs.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=limit)
        wanted = tokenizer.batch_decode(output, skip_special_tokens=True)[0]
        assert text == (wanted if line else "")
    assert len(set(found)) > 4
    metrics = json.loads((tmp_path / "ours/metrics.json").read_text())
    assert metrics["converted_from"] == "marian"
    # The folder says all: written again, it is the same.
    parts = read_folder(model)
    translator.network.float()
    translator.save(tmp_path / "again", metrics)
    for file in (tmp_path / "ours").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name
    assert parts.codec.describe()["fingerprints"] == dict(translator.codec.parts())
    described = type(parts.codec).from_description(parts.codec.describe())
    assert described.parts() == parts.codec.parts()


@pytest.mark.parametrize("inside", [False, True])
def test_heads_of_the_base_come_along(tmp_path, inside, capsys):
    """Hidden states are the same, so heads propose the same and the same is accepted."""
    write_marian(tmp_path / "marian", seed=1)
    parts = read_base(f"hf:{tmp_path / 'marian'}")
    torch.manual_seed(0)
    heads = BlockHeads(parts.network.architecture.d_model, HeadShape(block_size=3, d_hidden=8))
    origin = None if inside else parts.origin
    GenerativeModel(parts.network, parts.codec, heads, origin).save(tmp_path / "theirs", {})
    main(["convert", "--model", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours")])
    assert "block heads for up to 3 tokens" in capsys.readouterr().err
    theirs, ours = (read_folder(tmp_path / name) for name in ("theirs", "ours"))
    assert isinstance(ours.network, EncoderDecoder)
    outputs = []
    for model in (theirs, ours):
        translator = Translator(model.network.double(), model.codec, model.heads.double())
        outputs.append(translator.translate(ENGLISH[:8], "blockwise", extra_length=8))
    assert outputs[0] == outputs[1]
    source = sources(4, 6, seed=0, vocabulary=50)
    hidden = [model.network(source, torch.full((4, 3), model.network.bos_id)) for model in (theirs, ours)]
    proposals = [
        model.heads(states, range(2, 4)) for model, states in zip((theirs, ours), hidden, strict=True)
    ]
    torch.testing.assert_close(*proposals, **TOLERANCE)
    with pytest.raises(SystemExit, match="2"):
        main(["convert", "--model", str(tmp_path / "ours"), "--output", str(tmp_path / "again")])
    assert "there is nothing to convert" in capsys.readouterr().err


def test_output_folders_that_hold_something_else(tmp_path, capsys):
    write_marian(tmp_path / "marian")
    for output in (tmp_path / "marian", tmp_path):
        with pytest.raises(SystemExit, match="2"):
            main(["convert", "--model", str(tmp_path / "marian"), "--output", str(output)])
        assert "is not empty and holds no finished model" in capsys.readouterr().err
    read_marian(tmp_path / "marian")


@pytest.fixture
def corpus(tmp_path):
    """A folder of text, and a converted model in it."""
    write_marian(tmp_path / "marian", seed=2)
    main(["convert", "--model", str(tmp_path / "marian"), "--output", str(tmp_path / "ours")])
    for name, first, last in (("train", 0, 120), ("val", 120, 130), ("test", 130, 140)):
        lines = zip(ENGLISH[first:last], GERMAN[first:last], strict=True)
        (tmp_path / f"{name}.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in lines))
    return tmp_path


def test_data_is_cut_into_its_tokens(corpus):
    codec = read_folder(corpus / "ours").codec
    data = ParallelText(
        str(corpus),
        joint_vocabulary=False,
        tokenizer=str(corpus / "ours/source.marian.json"),
        target_tokenizer=str(corpus / "ours/target.marian.json"),
    )
    data.prepare_data()
    data.setup("fit")
    assert data.codec.parts() == codec.parts()
    batch = next(iter(data.val_dataloader()))
    rows = [
        row[:length] for row, length in zip(batch.target.tokens.tolist(), batch.target.lengths, strict=True)
    ]
    assert all(row[-1] == codec.target.eos_id for row in rows)
    found = {int(index): row[:-1] for index, row in zip(batch.index, rows, strict=True)}
    assert found == {index: codec.target.encode([data.references("validation")[index]])[0] for index in found}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frozen", "joint"])
def test_heads_are_trained_on_it(corpus, kind):
    project = Path(__file__).parents[2]
    settings = {
        "data": {"class_path": "ParallelText", "init_args": {"folder": ".", "batch_tokens": 256}},
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
    }
    (corpus / "text.yaml").write_text(json.dumps(settings))
    heads = ("--model.heads.block_size", "3", "--model.heads.d_hidden", "16")
    weights = () if kind == "frozen" else ("--model.head_weights", "null")
    configs = ("-c", "text.yaml", "-c", str(project / f"configs/translation/{kind}.yaml"))
    command = [
        sys.executable,
        str(project / "train.py"),
        "fit",
        *configs,
        "--model.base",
        "ours",
        *heads,
        *weights,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = ("--experiment", "heads", "--wandb", "disabled")
    done = subprocess.run(
        [*command, *options], cwd=corpus, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    before, after = read_folder(corpus / "ours"), read_folder(corpus / "runs/heads/model")
    assert torch.equal(before.network.output_bias, after.network.output_bias)
    moved = not torch.equal(before.network.output_weight, after.network.output_weight)
    assert moved == (kind == "joint")
    translator = Translator(after.network.double(), after.codec, after.heads.double())
    outputs = [translator.translate(ENGLISH[:8], decoder) for decoder in ("greedy", "blockwise")]
    assert outputs[0] == outputs[1]
