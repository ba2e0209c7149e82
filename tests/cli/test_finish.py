from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from lightning_bpd.cli import finish
from lightning_bpd.cli.finish import bleu_label, compare
from lightning_bpd.cli.report import report
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.measuring.record import read_record, write_record
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.translation import Translator
from tools.demo_corpus.sentences import sentence_pairs


@pytest.mark.parametrize(
    ("decode", "label"),
    [
        ({"decoder": "greedy", "beam": 4}, "BLEU (greedy)"),
        ({"decoder": "beam", "beam": 5}, "BLEU (beam 5)"),
        (None, "BLEU"),
    ],
)
def test_the_label_says_how_the_output_was_decoded(decode, label):
    assert bleu_label({"decode": decode}) == label


def test_without_a_validation_there_is_nothing_to_say():
    assert bleu_label({"steps": 3}) == "BLEU"


def small_translator(folder, block_size=3):
    """A random model with heads, saved in ``folder``, and six pairs as its data."""
    pairs = list(islice(sentence_pairs(seed=4), 6))
    tokenizer = train_tokenizer([line for pair in pairs for line in pair], 320, True, "identity")
    torch.manual_seed(1)
    shape = Architecture(d_model=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=32, norm="pre")
    size = tokenizer.vocab_size
    network = EncoderDecoder(shape, size, size, tokenizer.bos_id, tokenizer.eos_id)
    heads = BlockHeads(16, HeadShape(block_size=block_size, d_hidden=8))
    translator = Translator(network, TextCodec(tokenizer, tokenizer), heads)
    translator.save(folder / "model", {"training": {"regime": "frozen", "data": "gold", "seed": 7}})
    sources, references = map(list, zip(*pairs, strict=True))
    return translator, SimpleNamespace(
        sources=lambda _: sources, references=lambda _: references, folder=folder
    )


def test_the_final_table_is_a_record_that_report_reads(tmp_path):
    translator, data = small_translator(tmp_path)
    record = compare(translator, data, tmp_path / "model", DecodingOptions())
    write_record(tmp_path / "compare_validation.json", record)
    assert read_record(tmp_path / "compare_validation.json") == record
    sizes = [(arm.acceptance, arm.block_size) for arm in record.arms if arm.decoder == "blockwise"]
    assert sizes == [("exact", 1), ("exact", 2), ("exact", 3), ("adaptive", 3)]
    assert (record.training.regime, record.training.block_size, record.training.seed) == ("frozen", 3, 7)
    report([str(tmp_path)], str(tmp_path / "report"), resamples=100)
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "the same output" in text
    assert "frozen, gold" in text


@pytest.mark.parametrize(("block_size", "compared"), [(2, [1, 2]), (3, [2, 3]), (8, [4, 8])])
def test_a_slow_model_is_compared_on_few_rows(block_size, compared, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "SECONDS", 0.0)
    translator, data = small_translator(tmp_path, block_size)
    record = compare(translator, data, tmp_path / "model", DecodingOptions(max_new_tokens=3))
    assert record.corpus.rows == 2
    sizes = [(arm.acceptance, arm.block_size) for arm in record.arms if arm.decoder == "blockwise"]
    assert sizes == [*(("exact", size) for size in compared), ("adaptive", block_size)]
    assert max(record.arms[0].tokens) <= 3
    assert record.settings["max_new_tokens"] == 3
