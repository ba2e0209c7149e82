"""A finished translation model: its folder, and translating text with it."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_bpd.decoding import DecodingOptions, decode
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.tasks.text import Tokenizer

logger = logging.getLogger(__name__)

FORMAT = 1
# Source tokens decoded together, padding included; a longer line is decoded alone.
MOST_BATCH_TOKENS = 16_384
# What a checkpoint holds beside the training state, so that a finished model can be made of it alone.
CHECKPOINT_KEY = "lightning_bpd"


def pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> TokenRows:
    """Rows of token ids as one batch, padded with zeros at the right."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return TokenRows(tokens.to(device), lengths.to(device))


class Translator:
    """A network with its tokenizers.

    Args:
        network: The model, put into eval mode.
        source_tokenizer: For the text that is translated.
        target_tokenizer: For the translations; the same object when the vocabulary is joint.

    Raises:
        InputError: A tokenizer has another number of pieces than the network has tokens.
    """

    def __init__(
        self, network: EncoderDecoder, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer
    ) -> None:
        for side, tokenizer, tokens in (
            ("source", source_tokenizer, network.source_vocabulary),
            ("target", target_tokenizer, network.target_vocabulary),
        ):
            if tokenizer.vocab_size != tokens:
                raise InputError(
                    f"the {side} tokenizer has {tokenizer.vocab_size} pieces and the model {tokens} {side} tokens: "
                    "they do not belong together; use the tokenizer that the model was trained with"
                )
        self.network = network.eval()
        self.source_tokenizer = source_tokenizer
        self.target_tokenizer = target_tokenizer

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.target_embedding.weight.device

    def translate(
        self,
        lines: Sequence[str],
        decoder: str = "greedy",
        batch_size: int = 64,
        *,
        beam: int = 4,
        alpha: float = 0.6,
        extra_length: int = 50,
        max_source_length: int = 1024,
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Translate text, line for line, in the order given.

        Lines are translated in batches of like length. A line of white space alone gives an empty line.

        Args:
            lines: Source text.
            decoder: ``greedy`` or ``beam``.
            batch_size: Lines decoded together; fewer where they are very long.
            beam: Prefixes that beam search keeps.
            alpha: Exponent of beam search's length penalty.
            extra_length: Tokens that a translation may be longer than its source.
            max_source_length: Source tokens, end token included, past which a line is cut, with a warning.
            progress: Called with the number of lines done after each batch.

        Raises:
            InputError: An unknown decoder, or numbers that make no sense.
        """
        options = DecodingOptions(decoder, beam, alpha, extra_length)  # type: ignore[arg-type]  # checked there
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size}")
        if self.network.max_length is not None:
            max_source_length = min(max_source_length, self.network.max_length)
        outputs = [""] * len(lines)
        numbers = [number for number, line in enumerate(lines) if line.strip()]
        encoded = self.source_tokenizer.encode([lines[number] for number in numbers])
        cut = sum(len(row) >= max_source_length for row in encoded)
        if cut:
            logger.warning("%d lines were cut to %d source tokens", cut, max_source_length)
        rows = [[*row[: max_source_length - 1], self.source_tokenizer.eos_id] for row in encoded]
        if progress is not None and len(numbers) < len(lines):
            progress(len(lines) - len(numbers))
        # Long rows first: if memory is short, that shows at once.
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        first = 0
        while first < len(order):
            # Fewer rows where they are long: the cache grows with rows times length.
            fitting = max(1, MOST_BATCH_TOKENS // len(rows[order[first]]))
            batch = order[first : first + min(batch_size, fitting)]
            first += len(batch)
            result = decode(self.network, pad([rows[place] for place in batch], self.device), options)
            for place, text in zip(batch, self.target_tokenizer.decode(result.rows()), strict=True):
                outputs[numbers[place]] = text
            if progress is not None:
                progress(len(batch))
        return outputs

    def save(self, folder: str | Path, metrics: Mapping[str, Any]) -> None:
        """Write the finished model: ``model.safetensors``, ``config.json``, tokenizer(s) and ``metrics.json``.

        It appears whole, and a finished model that is there already makes way at the last moment; a folder of
        anything else is refused.

        Raises:
            InputError: The folder holds something that is not a finished model, or cannot be written.
        """
        folder = Path(folder)
        try:
            if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").is_file():
                raise InputError(f"{folder} is not empty and holds no finished model: choose another folder")
            folder.parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise InputError(f"{folder} cannot be written as a folder: {error.strerror}") from error
        joint = self.source_tokenizer.fingerprint == self.target_tokenizer.fingerprint
        names = (
            {"target": "tokenizer.model"} if joint else {"source": "source.model", "target": "target.model"}
        )
        self.target_tokenizer.save(unfinished / names["target"])
        if not joint:
            self.source_tokenizer.save(unfinished / names["source"])
        save_file(self.network.state_dict(), unfinished / "model.safetensors")
        config = {"format": FORMAT, "network": network_config(self.network), "tokenizers": names}
        _write_json(unfinished / "config.json", config)
        _write_json(unfinished / "metrics.json", metrics)
        # Temporary folders and safetensors files are for their owner alone; a finished model is not.
        for path in (unfinished, *unfinished.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder.exists():
            replaced = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)) / folder.name
            os.replace(folder, replaced)
            os.replace(unfinished, folder)
            shutil.rmtree(replaced.parent)
        else:
            os.replace(unfinished, folder)


def describe(
    network: EncoderDecoder, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer
) -> dict[str, Any]:
    """What rebuilds a translator, weights aside: plain data and tensors of bytes, fit for a checkpoint."""
    tokenizers = {"source": source_tokenizer, "target": target_tokenizer}
    return {
        "network": network_config(network),
        "tokenizers": {
            side: torch.frombuffer(bytearray(tokenizer.model_proto), dtype=torch.uint8)
            for side, tokenizer in tokenizers.items()
        },
        "fingerprints": {side: tokenizer.fingerprint for side, tokenizer in tokenizers.items()},
    }


def network_config(network: EncoderDecoder) -> dict[str, Any]:
    """The network's constructor arguments as plain data."""
    return {
        "architecture": dataclasses.asdict(network.architecture),
        "source_vocabulary": network.source_vocabulary,
        "target_vocabulary": network.target_vocabulary,
        "bos_id": network.bos_id,
        "eos_id": network.eos_id,
    }


def build_network(config: Mapping[str, Any]) -> EncoderDecoder:
    """The inverse of ``network_config``, with random weights."""
    return EncoderDecoder(**{**config, "architecture": Architecture(**config["architecture"])})


def load(folder: str | Path, device: str | torch.device = "cpu") -> Translator:
    """Load a finished model.

    Args:
        folder: What a training run or ``export`` wrote, such as ``runs/default/model``.
        device: Where to put the network.

    Raises:
        InputError: The folder is not a finished model, is damaged, or is of a newer format.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no finished model (no config.json): give the folder that a training run ends with, "
            "such as runs/default/model"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise InputError(
                f"{folder} is of format {config['format']} and this version reads {FORMAT}: update lightning_bpd"
            )
        network = build_network(config["network"])
        names = config["tokenizers"]
        target = Tokenizer.load(folder / names["target"])
        source = Tokenizer.load(folder / names["source"]) if "source" in names else target
        weights = load_file(folder / "model.safetensors")
    except (KeyError, TypeError, json.JSONDecodeError, SafetensorError, OSError) as error:
        raise InputError(f"the finished model in {folder} is damaged: {error}") from error
    _load_weights(network, weights, str(folder))
    return Translator(network.to(device), source, target)


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Translator:
    """The model that a training checkpoint holds: averaged weights where averaging was on.

    Raises:
        InputError: The file is no checkpoint of a translation model of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        description = checkpoint[CHECKPOINT_KEY]
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, EOFError, UnpicklingError) as error:
        raise InputError(f"{path} is not a checkpoint of a translation model: {error}") from error
    network = build_network(description["network"])
    source, target = (
        Tokenizer(description["tokenizers"][side].numpy().tobytes()) for side in ("source", "target")
    )
    prefix = "network."
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    _load_weights(network, weights, str(path))
    return Translator(network.to(device), source, target)


def _load_weights(network: EncoderDecoder, weights: dict[str, Tensor], where: str) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"the weights in {where} do not fit its own configuration: {error}") from error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
