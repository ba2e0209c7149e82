"""The end of a training run: a finished model, a picture of how it was reached, and a report."""

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
from lightning_bpd.measuring.comparison import (
    compare_decoders,
    comparison_table,
    draw_comparison,
)
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
    """Write ``model`` and ``curves.png`` to the run's folder and say what was reached. Rank 0 calls it.

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
    training = training_summary(trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
    base = getattr(trainer.lightning_module, "base", None)
    # Named once more: leave to run a base's own code is the user's, and no checkpoint's.
    model = read_checkpoint(checkpoint, base if isinstance(base, str) else None)
    model.save(folder / "model", {**metrics, "training": training, "provenance": provenance()})
    of_text = model.codec.kind == "text"
    draw_curves(
        folder / "metrics.csv",
        folder / "curves.png",
        bleu_label(metrics) if of_text else "PSNR (dB)",
        "val/bleu" if of_text else "val/psnr",
    )
    console.print(results(checkpoint_metrics(checkpoint_file(trainer, "last")), metrics))
    data, device = trainer.datamodule, trainer.lightning_module.device  # type: ignore[attr-defined]
    decode: DecodingOptions = trainer.lightning_module.decode  # type: ignore[assignment]
    if of_text:
        lines = _show_text(Translator.of(model).to(device), folder, data, decode, console)
    else:
        _show_images(model.to(device), folder, data, decode, f"Best checkpoint, {metrics['steps']} steps")
        lines = [("Images", f"{folder}/panels.png")]
    for label, value in (
        ("Finished model", f"{folder}/model"),
        ("Curves", f"{folder}/curves.png"),
        *lines,
    ):
        console.print(Text(f"{label}: {value}"), soft_wrap=True)


def _show_text(
    translator: Translator, folder: Path, data: Any, decode: DecodingOptions, console: Console
) -> list[tuple[str, str]]:
    """Samples, and greedy and blockwise decoding side by side; what to say of them at the end."""
    console.print(samples(translator, data, decode))
    lines = []
    decoder = ""
    if translator.heads is not None:
        record = compare(translator, data, folder / "model", decode)
        arms = record.arms
        write_record(folder / "compare_validation.json", record)
        draw_comparison(arms, folder / "block_sizes.png")
        lines.append(("Block sizes", f"{folder}/block_sizes.png"))
        console.print(
            comparison_table(arms, "Decoding validation sentences one at a time: calls and time a sentence")
        )
        decoder = " --decoder blockwise"
    # A finished model does not say that its base's own code may run.
    origin = translator.origin
    if origin is not None and stored_reference(origin) != origin:
        decoder += f" --base {shlex.quote(origin)}"
    return [*lines, ("Try", command_to_try(data.sources("validation")[0], folder / "model", decoder))]


def command_to_try(source: str, model: Path, options: str) -> str:
    """A line for any shell that translates ``source``; ``options`` are quoted already."""
    # echo takes a sentence such as -n for an option and, in some shells, backslashes for escapes.
    say = r"printf '%s\n'" if source.startswith("-") or "\\" in source else "echo"
    return f"{say} {shlex.quote(source)} | {program()} translate --model {shlex.quote(str(model))}{options}"


def _show_images(
    model: GenerativeModel, folder: Path, data: Any, decode: DecodingOptions, title: str
) -> None:
    """The picture of each validation, once more: of the finished model."""
    if model.drafter is not None:
        title = panels_title(title, decode)
    panels = decode_panels(model.model, model.drafter, model.codec, data, model.device, PANELS, decode)
    draw_panels(panels, folder / "panels.png", title)


def training_summary(module: Any, data: Any) -> dict[str, Any]:
    """How a model was trained, in the words of the paper's tables: regime, data and seed."""
    return {"regime": module.regime, "data": data.mix, "seed": module.seed}


def results(last: dict[str, Any], best: dict[str, Any]) -> Table:
    """What was reached, and how fast."""
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
    return (
        f"{label} (beam {decode['beam']})"
        if decode["decoder"] == "beam"
        else f"{label} ({decode['decoder']})"
    )


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
        # Text, for what looks like markup in a sentence is not.
        table.add_row(Text(sources[i]), Text(references[i]), Text(output))
    return table
