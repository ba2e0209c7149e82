"""Tokenizers of images, and where they lie: a folder that a training wrote, or a Hugging Face model (floor 2).

Shapes: N images, H height, W width, C channels, L codes of an image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_bpd.codecs.images import Images, Tokens
from lightning_bpd.faults import damaged, from_plain, read_json
from lightning_bpd.files import whole_folder
from lightning_bpd.interfaces import InputError
from lightning_bpd.models.image_tokenizer import ImageTokenizer, TokenizerShape, to_intensities, to_signal
from lightning_bpd.network import fingerprint

FORMAT = 1
WEIGHTS = "tokenizer.safetensors"
_REMEDY = "train the tokenizer again, or fetch it again"
_TOGETHER = 64


class PixelTokenizer(Protocol):
    """Turns images of one size into codes and back. It computes the same codes in any batch, but for rounding."""

    height: int
    width: int
    channels: int
    vocabulary: int
    """the number of different codes"""

    @property
    def grid(self) -> tuple[int, ...]:
        """The sides of the grid of codes."""

    @property
    def fingerprint(self) -> str:
        """Differs if the weights do."""

    def to(self, device: torch.device) -> None:
        """Move the weights, so that codes and images are computed there."""

    def encode(self, images: Images) -> Tokens:
        """Codes in raster order, uint8 [N, H, W, C] to int64 [N, L]."""

    def decode(self, codes: Tokens) -> Images:
        """Images, int64 [N, L] to uint8 [N, H, W, C]."""

    def describe(self) -> dict[str, Any]:
        """Return plain data and tensors from which ``rebuild_tokenizer`` makes the tokenizer, for a checkpoint."""

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer's files, if it has any, and return plain data for ``read``."""


class TrainedTokenizer:
    """A tokenizer that was trained here.

    Args:
        network: The network; it is put in eval mode.
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.

    Raises:
        InputError: The images cannot be halved as often as the network does.
    """

    def __init__(self, network: ImageTokenizer, height: int, width: int) -> None:
        self.network = network.eval()
        self.height, self.width, self.channels = height, width, network.channels
        self.grid = network.shape.grid(height, width)
        self.vocabulary = network.shape.vocabulary

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of all weights."""
        return fingerprint(self.network)

    def to(self, device: torch.device) -> None:
        """Move the weights, so that codes and images are computed there."""
        self.network.to(device)

    def encode(self, images: Images) -> Tokens:
        """Codes in raster order, uint8 [N, H, W, C] to int64 [N, L]."""
        device = next(self.network.parameters()).device

        def codes(some: Tensor) -> Tensor:
            return self.network.encode(to_signal(some.to(device))).flatten(1)

        return in_parts(codes, images, math.prod(self.grid))

    def decode(self, codes: Tokens) -> Images:
        """Images, int64 [N, L] to uint8 [N, H, W, C]."""
        device = next(self.network.parameters()).device
        height, width, depth = (*self.grid, 1)[:3]

        def images(some: Tensor) -> Tensor:
            return to_intensities(self.network.decode(some.to(device).view(-1, height, width, depth)))

        return in_parts(images, codes, self.height, self.width, self.channels, dtype=np.uint8)

    def describe(self) -> dict[str, Any]:
        """Return the sizes and the weights."""
        weights = {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        return {**self._sizes(), "weights": weights}

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the weights, and return the sizes."""
        weights = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        return self._sizes()

    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Write a folder of its own: the weights, ``config.json`` and ``metrics.json``. An earlier one is replaced.

        Raises InputError if the folder cannot be written.
        """
        try:
            with whole_folder(folder, replace=True) as unfinished:
                config = {"format": FORMAT, "image_tokenizer": self.write(unfinished)}
                for name, content in (("config.json", config), ("metrics.json", metrics)):
                    (unfinished / name).write_text(json.dumps(content, indent=2) + "\n")
                for path in unfinished.iterdir():
                    path.chmod(0o644)
                unfinished.chmod(0o755)
        except OSError as error:
            raise InputError(f"{folder} cannot be written as a folder: {error.strerror or error}") from error

    @classmethod
    def rebuild(cls, description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Self:
        """Make the tokenizer from plain data and its weights."""
        fields = {**description["shape"], "levels": tuple(description["shape"]["levels"])}
        shape = from_plain(TokenizerShape, fields)
        network = ImageTokenizer(shape, description["channels"])
        network.load_state_dict(dict(weights))
        return cls(network, description["height"], description["width"])

    def _sizes(self) -> dict[str, Any]:
        shape = asdict(self.network.shape)
        return {
            "shape": {**shape, "levels": list(shape["levels"])},
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
        }


def read_tokenizer(reference: str, size: tuple[int, int, int]) -> PixelTokenizer:
    """Read a tokenizer.

    Args:
        reference: A folder that a training of a tokenizer ends with, or ``hf:`` and the folder or name of a Hugging
            Face model.
        size: Height, width and channels of the images.

    Raises:
        InputError: There is no such tokenizer, it is damaged, or it is for images of another size.
    """
    if reference.startswith("hf:"):
        from lightning_bpd.adapters.image_tokenizers import load_image_tokenizer

        return load_image_tokenizer(reference, size)
    folder = Path(reference)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no tokenizer of images (no config.json): give the folder that a training of a tokenizer"
            " ends with, such as runs/tokenizer/tokenizer, or hf:FOLDER"
        )
    config = read_json(folder / "config.json", _REMEDY)
    if "image_tokenizer" not in config:
        known = (
            f"a Hugging Face model: give hf:{folder}" if "model_type" in config else "no tokenizer of images"
        )
        raise InputError(f"{folder} holds {known}")
    if config.get("format") != FORMAT:
        raise InputError(
            f"{folder} is of format {config.get('format')} and this version reads {FORMAT}: update lightning_bpd"
        )
    tokenizer = stored_tokenizer(folder, config["image_tokenizer"])
    own = tokenizer.height, tokenizer.width, tokenizer.channels
    if own != size:
        raise InputError(
            f"the tokenizer in {folder} is for images of {' x '.join(map(str, own))}, and the data has images of"
            f" {' x '.join(map(str, size))} (height x width x channels): set the data's height, width and channels to"
            " the tokenizer's, or train a tokenizer on this data"
        )
    return tokenizer


def stored_tokenizer(folder: Path, description: Mapping[str, Any]) -> PixelTokenizer:
    """The tokenizer whose ``write`` returned ``description``. Raises InputError if its files are damaged."""
    with damaged(f"the tokenizer in {folder}", _REMEDY):
        if "hugging_face" in description:
            return rebuild_tokenizer(description)
        return TrainedTokenizer.rebuild(description, load_file(folder / WEIGHTS))


def rebuild_tokenizer(description: Mapping[str, Any]) -> PixelTokenizer:
    """The tokenizer whose ``describe`` returned ``description``.

    Raises InputError if it is a Hugging Face model that is not there any more, or has changed.
    """
    if "hugging_face" not in description:
        return TrainedTokenizer.rebuild(description, description["weights"])
    reference, expected = description["hugging_face"], description["fingerprint"]
    sizes = description["height"], description["width"], description["channels"]
    found = read_tokenizer(reference, sizes)
    if found.fingerprint != expected:
        raise InputError(
            f"the tokenizer {reference} has changed: its fingerprint is {found.fingerprint} and was {expected}; give"
            " back the one that the model was trained with"
        )
    return found


def in_parts(
    compute: Callable[[Tensor], Tensor], rows: np.ndarray, *shape: int, dtype: Any = np.int64
) -> np.ndarray:
    """Apply ``compute`` to a few rows at a time, without gradients; of no row, [0, *shape]."""
    with torch.no_grad():
        parts = [
            compute(torch.from_numpy(np.array(rows[first : first + _TOGETHER]))).cpu().numpy()
            for first in range(0, len(rows), _TOGETHER)
        ]
    return np.concatenate(parts) if parts else np.zeros((0, *shape), dtype)
