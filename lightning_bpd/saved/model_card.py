"""The README of a finished model on a Hugging Face base: what it is, how it is used, what was measured (floor 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_bpd.codecs.hugging_face import name_of

# Measured figures that say most, if they were measured.
FIGURES = {
    "bleu": "BLEU",
    "mean_accepted_block_size": "mean accepted block size",
    "loss": "loss of p_1, nats a token",
}


def model_card(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The text of README.md.

    Args:
        config: The folder's config.json.
        metrics: Its metrics.json.
    """
    base = config["base"]
    name = name_of(base["hugging_face"])
    heads = config.get("heads")
    size = 1 if heads is None else heads["shape"]["block_size"]
    inside = base["inside"]
    lines = ["---", "library_name: lightning_bpd", "tags:", "- blockwise-parallel-decoding"]
    lines += [] if inside else [f"base_model: {name}"]
    where = (
        "the fine-tuned model in `base/`"
        if inside
        else f"`{name}`, whose output by the exact rule stays what it is"
    )
    lines += [
        "---",
        "",
        f"# Block heads, block size {size}" if heads else "# A base",
        "",
        f"Blockwise parallel decoding (Stern et al. 2018) of {where}. The base's weights have the fingerprint "
        f"{base['fingerprint']}; another base is refused.",
        "",
        "```python",
        "import lightning_bpd",
        "",
        'model = lightning_bpd.load("FOLDER")  # this folder',
        f'model.translate(["A text."], decoder="{"blockwise" if heads else "greedy"}")',
        "```",
        "",
    ]
    measured = metrics.get("validation", {})
    rows = [f"| {label} | {measured[key]:.4g} |" for key, label in FIGURES.items() if key in measured]
    if rows:
        lines += ["On the validation set of its training:", "", "| | |", "|---|---|", *rows, ""]
    if training := metrics.get("training"):
        lines += [f"Trained: {', '.join(f'{key} {value}' for key, value in training.items())}.", ""]
    return "\n".join(lines)
