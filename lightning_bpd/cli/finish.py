"""The end of a training run: a finished model, curves of the training, samples and a comparison of decoders."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_bpd.callbacks.checkpoints import checkpoint_file
from lightning_bpd.callbacks.panels import decode_panels, panels_title
from lightning_bpd.cli.compare import record_of, settings_of
from lightning_bpd.cli.export import checkpoint_metrics
from lightning_bpd.codecs.hugging_face import stored_reference
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.faults import program
from lightning_bpd.measuring.arms import spread
from lightning_bpd.measuring.comparison import compare_decoders, comparison_table, draw_comparison
from lightning_bpd.measuring.panels import draw_panels
from lightning_bpd.measuring.record import Corpus, Record, write_record
from lightning_bpd.measuring.words import QUALITIES
from lightning_bpd.saved.finished_model import GenerativeModel, read_checkpoint
from lightning_bpd.saved.translation import Translator
from lightning_bpd.tracking.curves import draw_curves
from lightning_bpd.tracking.provenance import provenance

logger = logging.getLogger(__name__)

SAMPLES = 5
# The comparison of decoders takes at most this many sentences, one at a time, and about this many seconds.
COMPARED, SECONDS = 200, 60.0
# If all block sizes leave time for fewer than FEW sentences, only two sizes are compared, on at least FEWEST sentences.
FEW, FEWEST = 10, 2
# Images that are shown.
PANELS = 4


def finish(trainer: pl.Trainer, console: Console) -> None:
    """Write ``model`` and ``curves.png`` to the run's folder and print the result. Rank 0 calls it.

    The model is that of the best checkpoint, or of the last when training never validated.
    """
    folder = Path(trainer.default_root_dir)
    checkpoint = checkpoint_file(trainer, "best")
    if not checkpoint.is_file():
        checkpoint = checkpoint_file(trainer, "last")
    if not checkpoint.is_file():
        logger.warning("No training step was taken, so there is no finished model.")
        return
    metrics = checkpoint_metrics(checkpoint)
    module: Any = trainer.lightning_module
    data, decode = trainer.datamodule, module.decode  # type: ignore[attr-defined]
    training = {"regime": module.regime, "data": data.mix, "seed": module.seed}
    base = getattr(module, "base", None)
    # The base is passed again, because only the user may allow a base to run its own code, never a checkpoint.
    model = read_checkpoint(checkpoint, base if isinstance(base, str) else None)
    model.save(folder / "model", {**metrics, "training": training, "provenance": provenance()})
    of_text = model.codec.kind == "text"
    curve = (bleu_label(metrics), "val/bleu") if of_text else ("PSNR (dB)", "val/psnr")
    draw_curves(folder / "metrics.csv", folder / "curves.png", *curve)
    console.print(results(checkpoint_metrics(checkpoint_file(trainer, "last")), metrics))
    if of_text:
        lines = _show_text(Translator.of(model).to(module.device), folder, data, decode, console)
    else:
        title = f"Best checkpoint, {metrics['steps']} steps"
        _show_images(model.to(module.device), folder, data, decode, title)
        lines = [f"Images: {folder}/panels.png"]
    for line in (f"Finished model: {folder}/model", f"Curves: {folder}/curves.png", *lines):
        console.print(Text(line), soft_wrap=True)


def _show_text(
    translator: Translator, folder: Path, data: Any, decode: DecodingOptions, console: Console
) -> list[str]:
    """Print samples, and greedy and blockwise decoding side by side; return the last lines to print."""
    console.print(samples(translator, data, decode))
    lines, decoder = [], ""
    if translator.heads is not None:
        record = compare(translator, data, folder / "model", decode)
        arms = record.arms
        write_record(folder / "compare_validation.json", record)
        draw_comparison(arms, folder / "block_sizes.png")
        lines.append(f"Block sizes: {folder}/block_sizes.png")
        title = "Decoding validation sentences one at a time: calls and time a sentence"
        console.print(comparison_table(arms, title))
        decoder = " --decoder blockwise"
    # A finished model does not say that its base's own code may run.
    origin = translator.origin
    if origin is not None and stored_reference(origin) != origin:
        decoder += f" --base {shlex.quote(origin)}"
    return [*lines, f"Try: {command_to_try(data.sources('validation')[0], folder / 'model', decoder)}"]


def command_to_try(source: str, model: Path, options: str) -> str:
    """A line for any shell that translates ``source``; ``options`` are quoted already."""
    # echo takes a sentence such as -n for an option and, in some shells, backslashes for escapes.
    say = r"printf '%s\n'" if source.startswith("-") or "\\" in source else "echo"
    return f"{say} {shlex.quote(source)} | {program()} translate --model {shlex.quote(str(model))}{options}"


def _show_images(
    model: GenerativeModel, folder: Path, data: Any, decode: DecodingOptions, title: str
) -> None:
    """Draw the picture that validation draws, for the finished model."""
    if model.drafter is not None:
        title = panels_title(title, decode)
    panels = decode_panels(model.model, model.drafter, model.codec, data, model.device, PANELS, decode)
    draw_panels(panels, folder / "panels.png", title)


def results(last: dict[str, Any], best: dict[str, Any]) -> Table:
    """A table of the best checkpoint's quality, and of the time and speed of training."""
    table = Table("", "", title="Result", show_header=False, title_justify="left")
    for name, value in best.get("validation", {}).items():
        if "/" not in name:
            label = bleu_label(best, name) if name in ("bleu", "chrf") else name.replace("_", " ")
            table.add_row(f"validation {label}", f"{value:.2f}")
    table.add_row("best after", f"{best['steps']:,} of {last['steps']:,} steps")
    table.add_row("training time", f"{last['training_seconds']:.0f} s, validation not counted")
    table.add_row("training speed", f"{last['tokens_per_second']:,.0f} target tokens/s")
    return table


def bleu_label(metrics: dict[str, Any], name: str = "bleu") -> str:
    """BLEU or chrF with how its output was decoded: ``BLEU (greedy)``, ``BLEU (beam 4)``."""
    decode, label = metrics.get("decode"), QUALITIES[name].label
    if decode is None:
        return label
    beam = f" {decode['beam']}" if decode["decoder"] == "beam" else ""
    return f"{label} ({decode['decoder']}{beam})"


def compare(translator: Translator, datamodule: Any, model: Path, decode: DecodingOptions) -> Record:
    """Compare greedy decoding and blocks of 1 to k tokens on some validation sentences, one at a time.

    A slow model is compared on fewer sentences, and with two block sizes only.
    The record is that of `compare`, without the costs of single calls, so that `report` reads it.
    """
    assert translator.heads is not None
    sources, references = datamodule.sources("validation"), datamodule.references("validation")
    block_size = translator.heads.block_size
    decode = decode.limits()
    started = time.monotonic()
    translator.translate(sources[:1], decode)
    affordable = SECONDS / max(time.monotonic() - started, 1e-6)
    sizes = list(range(1, block_size + 1))
    if affordable < FEW * (block_size + 2):
        sizes = sorted({(block_size + 1) // 2, block_size})
    chosen = spread(list(range(len(sources))), min(COMPARED, max(int(affordable / (len(sizes) + 2)), FEWEST)))
    sources, references = [sources[i] for i in chosen], [references[i] for i in chosen]
    rules = [*((size, "exact") for size in sizes), (block_size, "adaptive")]
    arms = compare_decoders(translator, sources, references, rules, decode=decode)
    content = hashlib.sha256(json.dumps([sources, references]).encode()).hexdigest()
    corpus = Corpus(str(datamodule.folder), "validation", len(chosen), content)
    settings = settings_of(translator, 1, len(chosen), 1, decode)
    return record_of(translator, str(model), corpus, settings, arms, references=references)


def samples(translator: Translator, datamodule: Any, decode: DecodingOptions) -> Table:
    """A few validation sentences, with the reference and the model's own translation."""
    sources, references = datamodule.sources("validation"), datamodule.references("validation")
    chosen = spread(list(range(len(sources))), SAMPLES)
    outputs = translator.translate([sources[i] for i in chosen], decode.limits())
    table = Table("source", "reference", "output", title="Samples", title_justify="left", show_lines=True)
    for i, output in zip(chosen, outputs, strict=True):
        # As Text, because rich would read brackets in a sentence as markup.
        table.add_row(Text(sources[i]), Text(references[i]), Text(output))
    return table
