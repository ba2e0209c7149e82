"""Small teachers, and distilling with them."""

from pathlib import Path

import torch

from lightning_bpd.cli.distill import distill
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.translation import Translator

ROWS = 61
# Parts of 7 rows: 9 of them, the last with 5.
QUICK = {"extra_length": 6, "part_rows": 7, "batch_tokens": 130, "max_length": 90, "max_length_ratio": 50.0}


def write_teacher(folder: Path, sureness: float, lines: list[str]) -> str:
    tokenizer = train_tokenizer(lines, 400, True, "identity")
    torch.manual_seed(1)
    shape = Architecture(
        d_model=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=32, norm="pre", tie="none"
    )
    network = EncoderDecoder(
        shape, tokenizer.vocab_size, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id
    )
    # Random weights are sure of nothing, and seldom end a row: these are surer, and end many rows.
    torch.nn.init.normal_(network.output.weight, std=0.75 * sureness)
    network.decoder_norm.bias.data[0] = 1.0
    network.output.weight.data[tokenizer.eos_id, 0] += 1.5
    Translator(network, TextCodec(tokenizer, tokenizer)).save(folder, {})
    return str(folder)


def run(teacher: str, corpus: Path, output: Path, **options) -> Path:
    distill(teacher, str(corpus), str(output), device="cpu", **{**QUICK, **options})
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
