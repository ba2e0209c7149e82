"""Training steps: ours and Hugging Face's Marian, same shape, weights, batches, dropout, loss and optimiser.

python benchmarks/training_speed.py --folder data/multi30k
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import auto_cli
from marian import PAD_ID, hugging_face_model
from timing import interleaved_seconds, machine, markdown, rates, spread, wait, write_json
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW
from transformers import PreTrainedModel

from lightning_bpd.datamodules.parallel_text import ParallelText
from lightning_bpd.interfaces import InputError, ParallelBatch, TokenRows
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.translation import load
from lightning_bpd.training.losses import (
    decoder_inputs,
    summed_cross_entropy,
    token_mask,
    without_padding,
)

Precision = Literal["float32", "bfloat16"]
Attention = Literal["sdpa", "eager"]
MARIAN: dict[str, Attention] = {"Marian, sdpa": "sdpa", "Marian, eager": "eager"}
OURS = "ours"
# What F.cross_entropy leaves out.
IGNORED = -100
SHAPE = Architecture(d_model=256, heads=4, encoder_layers=3, decoder_layers=3, feed_forward=1024)


def our_loss(network: EncoderDecoder, batch: ParallelBatch, label_smoothing: float) -> Tensor:
    """Mean loss over the target tokens, as BaseTraining computes it."""
    hidden = network(batch.source, decoder_inputs(batch.target, network.bos_id))
    hidden, targets = without_padding(hidden, batch.target)
    loss, _ = summed_cross_entropy(hidden, network.output_weight, targets, label_smoothing)
    return loss / len(targets)


def marian_loss(model: PreTrainedModel, inputs: dict[str, Tensor], label_smoothing: float) -> Tensor:
    """The same of a Hugging Face model: its own loss, or torch's on its logits where labels are smoothed."""
    if label_smoothing == 0.0:
        return model(**inputs).loss
    labels = inputs["labels"]
    start = labels.new_full((len(labels), 1), model.config.decoder_start_token_id)
    shifted = torch.cat([start, labels[:, :-1]], dim=1)
    logits = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        decoder_input_ids=shifted.masked_fill(shifted == IGNORED, PAD_ID),
        use_cache=False,
    ).logits
    return F.cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
    )


def marian_inputs(batch: ParallelBatch) -> dict[str, Tensor]:
    """What a Hugging Face collator makes of a batch: attention mask, and labels of -100 for padding."""
    return {
        "input_ids": batch.source.tokens,
        "attention_mask": token_mask(batch.source).long(),
        "labels": batch.target.tokens.masked_fill(~token_mask(batch.target), IGNORED),
    }


def training(
    model: torch.nn.Module, losses: Sequence[Callable[[], Tensor]], precision: Precision
) -> Callable[[], None]:
    """A run of one optimiser step for each loss, with an optimiser of its own."""
    model.train()
    optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        for loss in losses:
            optimizer.zero_grad()
            with _autocast(model, precision):
                value = loss()
            value.backward()
            optimizer.step()

    return run


def _autocast(model: torch.nn.Module, precision: Precision) -> AbstractContextManager[object]:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16)


def seconds_by_part(
    network: EncoderDecoder, batches: Sequence[ParallelBatch], label_smoothing: float, precision: Precision
) -> dict[str, float]:
    """Seconds that our step spends in each of its parts, summed over the batches."""
    device = network.output_weight.device
    optimizer = AdamW(network.parameters(), lr=1e-4, fused=True)
    parts = dict.fromkeys(
        ("encoder, forward", "decoder, forward", "projection and loss, forward", "backward", "optimiser"), 0.0
    )

    def timed(part: str, call: Callable[[], Any]) -> Any:
        wait(device)
        start = time.perf_counter()
        result = call()
        wait(device)
        parts[part] += time.perf_counter() - start
        return result

    for batch in batches:
        optimizer.zero_grad()
        inputs = decoder_inputs(batch.target, network.bos_id)
        with _autocast(network, precision):
            timed("encoder, forward", partial(network.encode, batch.source))
            hidden = timed("decoder, forward", partial(network, batch.source, inputs))
            rows, targets = without_padding(hidden, batch.target)
            loss, _ = timed(
                "projection and loss, forward",
                partial(summed_cross_entropy, rows, network.output_weight, targets, label_smoothing),
            )
        timed("backward", (loss / len(targets)).backward)
        timed("optimiser", optimizer.step)
    # The whole network ran the encoder once more.
    parts["decoder, forward"] -= parts["encoder, forward"]
    return parts


def _batches(data: ParallelText, steps: int, device: torch.device) -> list[ParallelBatch]:
    def moved(rows: TokenRows) -> TokenRows:
        return TokenRows(rows.tokens.to(device), rows.lengths.to(device))

    data.prepare_data()
    data.setup("fit")
    batches = [
        ParallelBatch(moved(batch.source), moved(batch.target), batch.index)
        for batch in islice(data.train_dataloader(), steps)
    ]
    if len(batches) < steps:
        raise InputError(f"the training text makes {len(batches)} batches, not {steps}: lower steps")
    return batches


def main(
    folder: Path,
    model: Path | None = None,
    architecture: Architecture = SHAPE,
    vocab_size: int = 8000,
    batch_tokens: int = 4096,
    label_smoothing: float = 0.1,
    precisions: Sequence[Precision] = ("float32", "bfloat16"),
    steps: int = 10,
    repeats: int = 5,
    threads: int = 1,
    device: Literal["cpu", "cuda"] = "cpu",
    json: Path | None = None,
) -> None:
    """Time training steps of both arms in turns, on the same batches.

    Args:
        folder: Parallel text with a corpus called train, such as Multi30k's.
        model: A finished model whose shape, weights and tokenizer to take, instead of random ones.
        architecture: The shape where no model is given.
        vocab_size: Tokens of the joint vocabulary where no model is given.
        batch_tokens: The most tokens in a batch, padding included, on its longer side.
        label_smoothing: Probability spread evenly over the vocabulary, in the arms that smooth.
        precisions: Of the forward pass; weights and optimiser are float32.
        steps: Optimiser steps, each with its own batch, in each timed run.
        repeats: Timed runs of each arm.
        threads: CPU threads.
        device: Where both arms run.
        json: Where to write the numbers as well.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    place = torch.device(device)
    tokenizer = None
    if model is not None:
        network, tokenizer = load(model, place).network, str(model / "tokenizer.model")
    data = ParallelText(str(folder), vocab_size=vocab_size, batch_tokens=batch_tokens, tokenizer=tokenizer)
    batches = _batches(data, steps, place)
    if model is None:
        target = data.target_tokenizer
        size = target.vocab_size
        network = EncoderDecoder(architecture, size, size, target.bos_id, target.eos_id).to(place)
    inputs = [marian_inputs(batch) for batch in batches]
    tokens = sum(int(batch.target.lengths.sum()) for batch in batches)

    report: dict[str, Any] = {"machine": machine(place), "target_tokens": tokens, "results": []}
    report["architecture"] = vars(network.architecture)
    print(f"{report['machine']}\n{network.architecture}")
    print(f"{steps} batches of {tokens / steps:,.0f} target tokens, padding not counted; {repeats} repeats\n")
    table, parts_table = [], []
    for precision in precisions:
        for smoothing in (label_smoothing, 0.0):
            arms = {}
            ours = copy.deepcopy(network)
            arms[OURS] = training(
                ours,
                [partial(our_loss, ours, batch, smoothing) for batch in batches],
                precision,
            )
            for name, attention in MARIAN.items():
                other = hugging_face_model(network, attention)
                arms[name] = training(
                    other,
                    [partial(marian_loss, other, given, smoothing) for given in inputs],
                    precision,
                )
            seconds = interleaved_seconds(arms, repeats, place)
            speeds = {name: rates(tokens, seconds[name]) for name in arms}
            for name, speed in speeds.items():
                ratio = speeds[OURS]["median"] / speed["median"]
                report["results"].append(
                    {
                        "precision": precision,
                        "label_smoothing": smoothing,
                        "arm": name,
                        "target_tokens_per_second": speed,
                        "ours_is_faster_by": ratio,
                    }
                )
                table.append(
                    [
                        precision,
                        str(smoothing),
                        name,
                        f"{speed['median']:,.0f}",
                        spread(speed),
                        f"{ratio:.2f}",
                    ]
                )
        parts = seconds_by_part(copy.deepcopy(network).train(), batches, label_smoothing, precision)
        total = sum(parts.values())
        report[f"parts_{precision}"] = parts
        parts_table += [
            [precision, part, f"{1000 * second / steps:,.1f}", f"{100 * second / total:.0f} %"]
            for part, second in parts.items()
        ]
    header = [
        "precision",
        "label smoothing",
        "arm",
        "tokens/s (median)",
        "tokens/s (range)",
        "ours is faster by",
    ]
    print(markdown(header, table))
    print("\nWhere the time of our step goes:\n")
    print(markdown(["precision", "part", "ms a step", "share"], parts_table))
    write_json(json, report)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
