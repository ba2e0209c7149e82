"""Train the two drafters of tests/data/quality_gate, whose block sizes the tests hold to floors.

    PYTHONPATH=. OMP_NUM_THREADS=1 python -m tools.quality_gate

It takes four minutes on one core. Run it only if a change is meant to change what drafters learn, and say in that
change what happened to the floors, which it prints.
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.decoding import blockwise, greedy
from lightning_bpd.drafters import HeadShape, ParallelDraft, TrainedDrafter
from lightning_bpd.interfaces import TokenRows
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.training.losses import decoder_inputs, summed_cross_entropy, without_padding
from tools.demo_corpus.sentences import sentence_pairs

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "quality_gate"
SHAPES: dict[str, Any] = {
    "heads": HeadShape(block_size=5, d_hidden=24),
    "parallel": ParallelDraft(block_size=5, attention_heads=2, feed_forward=48, correction=8),
}
VOCABULARY, ROWS = 400, 48
START, END = 1, 2  # as the tokenizer has them


def build() -> EncoderDecoder:
    """The base, with random weights."""
    shape = Architecture(
        d_model=24, heads=2, encoder_layers=1, decoder_layers=2, feed_forward=48, dropout=0.0, norm="pre"
    )
    torch.manual_seed(1)
    return EncoderDecoder(shape, VOCABULARY, VOCABULARY, bos_id=START, eos_id=END)


def rows_of(sequences: list[list[int]]) -> TokenRows:
    """Sequences of token ids as rows."""
    lengths = torch.tensor([len(each) for each in sequences])
    return TokenRows(pad_sequence([torch.tensor(each) for each in sequences], batch_first=True), lengths)


def read() -> tuple[EncoderDecoder, dict[str, TrainedDrafter], TokenRows]:
    """The trained base and drafters, and the sources that they are measured on."""
    base = build()
    base.load_state_dict(load_file(FOLDER / "base.safetensors"))
    drafters = {name: shape.build(base) for name, shape in SHAPES.items()}
    for name, drafter in drafters.items():
        drafter.load_state_dict(load_file(FOLDER / f"{name}.safetensors"))
        drafter.eval()
    return base.eval(), drafters, rows_of(json.loads((FOLDER / "sources.json").read_text()))


def acceptance_by_position(base: EncoderDecoder, drafter: TrainedDrafter, source: TokenRows) -> list[float]:
    """The share of iterations in which the first, second, ... proposal was accepted."""
    accepted = blockwise(base, drafter.drafter(base), source, drafter.block_size).accepted
    assert accepted is not None
    sizes = accepted[accepted > 0]
    return [float((sizes > place).float().mean()) for place in range(1, drafter.block_size)]


def train() -> None:
    """Train the base on the demo corpus, and each drafter on the base's own output."""
    pairs = list(islice(sentence_pairs(seed=5), 8000 + ROWS))
    tokenizer = train_tokenizer([text for pair in pairs for text in pair], vocab_size=VOCABULARY)
    encoded = [tuple([*tokenizer.encode([text])[0], END] for text in pair) for pair in pairs]
    measured, kept = encoded[:ROWS], sorted(encoded[ROWS:], key=lambda pair: len(pair[1]))
    batches = [kept[first : first + 64] for first in range(0, len(kept), 64)]
    base = build()

    def loss_of_base(source: TokenRows, target: TokenRows) -> Tensor:
        hidden, targets = without_padding(base(source, decoder_inputs(target, base.bos_id)), target)
        return summed_cross_entropy(hidden, base.output_weight, targets)[0] / len(targets)

    _descend(base, [tuple(map(rows_of, zip(*batch, strict=True))) for batch in batches], loss_of_base, 12)
    base.eval().requires_grad_(False)
    own = []
    for batch in batches:
        source = rows_of([pair[0] for pair in batch])
        output = greedy(base, source, 10)
        own.append((source, TokenRows(output.tokens.clone(), output.lengths.clone())))
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(base.state_dict(), FOLDER / "base.safetensors")
    sources = [pair[0] for pair in measured]
    (FOLDER / "sources.json").write_text(json.dumps(sources, separators=(",", ":")) + "\n")
    floors = {}
    for name, shape in SHAPES.items():
        torch.manual_seed(2)
        drafter = shape.build(base)

        def loss_of_drafter(
            source: TokenRows, target: TokenRows, drafter: TrainedDrafter = drafter
        ) -> Tensor:
            reading = base.read(source, decoder_inputs(target, base.bos_id))
            return drafter.losses(base, reading, target, range(2, drafter.block_size + 1)).loss

        _descend(drafter, own, loss_of_drafter, 6)
        save_file(drafter.state_dict(), FOLDER / f"{name}.safetensors")
        floors[name] = acceptance_by_position(base, drafter.eval(), rows_of(sources))
    sys.stdout.write(json.dumps(floors) + "\n")


def _descend(module: torch.nn.Module, batches: list[Any], loss_of: Any, epochs: int) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.005)
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=steps, pct_start=0.05)
    order = torch.Generator().manual_seed(3)
    for epoch in range(epochs):
        losses = []
        for place in torch.randperm(len(batches), generator=order).tolist():
            loss = loss_of(*batches[place])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        sys.stderr.write(f"epoch {epoch} loss {sum(losses) / len(losses):.3f}\n")


if __name__ == "__main__":
    train()
