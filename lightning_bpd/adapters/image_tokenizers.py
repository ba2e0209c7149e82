"""Hugging Face models that turn images into codes: JanusVQVAE (LlamaGen's VQ-16), Emu3VQVAE and ChameleonVQVAE.

Shapes: N images, H height, W width, C channels, h x w the grid of codes.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from lightning_bpd.adapters.reference import Reference, explained, from_pretrained, parse_reference, quiet
from lightning_bpd.faults import damaged
from lightning_bpd.interfaces import InputError
from lightning_bpd.network import fingerprint

_FAMILIES = {"janus_vqgan": "JanusVQVAE", "emu3_vqgan": "Emu3VQVAE", "chameleon_vqgan": "ChameleonVQVAE"}
_TOGETHER = 8


class HuggingFaceTokenizer:
    """A tokenizer of images of one size. Its codes are those that the library computes; it stays as it is.

    Args:
        model: A JanusVQVAE, Emu3VQVAE or ChameleonVQVAE, in eval mode.
        reference: Its name in settings, ``hf:FOLDER``.
        size: Height, width and channels of the images.
        mean: What is subtracted from each channel of intensities from 0 to 1, float [C].
        deviation: What each channel is then divided by, float [C].

    Raises:
        InputError: The model cannot encode images of this size.
    """

    def __init__(
        self, model: Any, reference: str, size: tuple[int, int, int], mean: Tensor, deviation: Tensor
    ) -> None:
        self.model, self.reference = model, reference
        self.height, self.width, self.channels = size
        self._mean, self._deviation = mean.view(-1, 1, 1), deviation.view(-1, 1, 1)
        config = model.config
        self._family = config.model_type
        self.vocabulary: int = getattr(config, "num_embeddings", None) or config.codebook_size
        cell = 2 ** (len(config.channel_multiplier) - 1)
        sides = config.num_patches if self._family == "janus_vqgan" else None
        if self.channels != config.in_channels:
            raise InputError(
                f"{reference} encodes images of {config.in_channels} channels, and the data's have {self.channels}: set"
                " the data's channels"
            )
        if self.height % cell or self.width % cell:
            raise InputError(
                f"{reference} needs sides that are multiples of {cell}, and the data's images are {self.height} x"
                f" {self.width}: set the data's height and width"
            )
        self.grid: tuple[int, ...] = (self.height // cell, self.width // cell)
        if sides is not None and self.grid != (sides, sides):
            raise InputError(
                f"{reference} decodes images of {sides * cell} x {sides * cell} pixels only, and the data's are"
                f" {self.height} x {self.width}: set the data's height and width, or num_patches in its config.json"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of all weights."""
        return fingerprint(self.model)

    def to(self, device: torch.device) -> None:
        """Move the weights, so that codes and images are computed there."""
        self.model.to(device)

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> np.ndarray:
        """Codes in raster order, uint8 [N, H, W, C] to int64 [N, h * w]."""
        parts = [np.zeros((0, math.prod(self.grid)), np.int64)]
        for first in range(0, len(images), _TOGETHER):
            some = torch.from_numpy(np.array(images[first : first + _TOGETHER]))
            parts.append(self._codes(some.to(self.model.device)).cpu().numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Images, int64 [N, h * w] to uint8 [N, H, W, C].

        Raises InputError for a ChameleonVQVAE, for which transformers has no decoder.
        """
        if self._family == "chameleon_vqgan":
            raise InputError(
                f"{self.reference} can encode images, but transformers has no decoder of ChameleonVQVAE: to see images,"
                " use a JanusVQVAE or Emu3VQVAE"
            )
        parts = [np.zeros((0, self.height, self.width, self.channels), np.uint8)]
        for first in range(0, len(codes), _TOGETHER):
            some = torch.from_numpy(np.array(codes[first : first + _TOGETHER])).to(self.model.device)
            if self._family == "emu3_vqgan":
                some = some.view(-1, *self.grid)
            pixels = self.model.decode(some).float().cpu() * self._deviation + self._mean
            parts.append((pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
        return np.concatenate(parts)

    def describe(self) -> dict[str, Any]:
        """Return the name and the fingerprint; the weights stay where they are."""
        sizes = {"height": self.height, "width": self.width, "channels": self.channels}
        return {"hugging_face": self.reference, "fingerprint": self.fingerprint, **sizes}

    def write(self, folder: Path) -> dict[str, Any]:
        """Return the name and the fingerprint; write no file."""
        return self.describe()

    def _codes(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float() / 255
        device = pixels.device
        pixels = (pixels - self._mean.to(device)) / self._deviation.to(device)
        pixels = pixels.to(self.model.dtype)
        if self._family == "emu3_vqgan":
            sizes = torch.tensor([[self.height, self.width]] * len(images))
            return torch.stack(self.model.encode(pixels, image_sizes=sizes).image_tokens).flatten(1)
        return self.model.encode(pixels).image_tokens.view(len(images), -1)


def load_image_tokenizer(reference: str, size: tuple[int, int, int]) -> HuggingFaceTokenizer:
    """Load a tokenizer of images, in eval mode, on the CPU.

    Intensities are scaled as its preprocessor_config.json says, or to -1..1 without one.

    Args:
        reference: ``hf:`` and the folder or name of the model, as ``save_pretrained`` of its class wrote it.
        size: Height, width and channels of the images.

    Raises:
        InputError: There is no such model, it is of another family, is incomplete or damaged, or cannot encode images
            of this size.
    """
    parsed = parse_reference(reference)
    if parsed.folder is not None and not (parsed.folder / "config.json").is_file():
        raise InputError(f"{parsed.folder} holds no Hugging Face model (no config.json): give another folder")
    family = _model_type(parsed)
    if family not in _FAMILIES:
        raise InputError(
            f"{reference} is a model of type {family!r}, not a tokenizer of images: give a"
            f" {', '.join(_FAMILIES.values())} of its own, saved by save_pretrained"
        )
    model, report = from_pretrained(
        getattr(transformers, _FAMILIES[family]),
        parsed,
        use_safetensors=True,
        dtype=getattr(torch, parsed.dtype),
        output_loading_info=True,
    )
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"the weights of {reference} are incomplete, {len(missing)} are missing: {', '.join(missing[:3])}"
        )
    mean, deviation = _scaling(parsed, model.config.in_channels)
    return HuggingFaceTokenizer(model.eval(), str(parsed), size, mean, deviation)


def _model_type(reference: Reference) -> str:
    # The configurations of these tokenizers are parts of larger models, so AutoConfig does not know them.
    with explained(reference), quiet():
        config, _ = transformers.PreTrainedConfig.get_config_dict(reference.folder or reference.name)
    return str(config.get("model_type"))


def _scaling(reference: Reference, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of intensities from 0 to 1, float [C] each."""
    half = torch.full((channels,), 0.5)
    path = (reference.folder or Path()) / "preprocessor_config.json"
    if reference.folder is None or not path.is_file():
        return half, half
    with damaged(path, "fetch it again"):
        settings = json.loads(path.read_bytes())
        # An intensity x from 0 to 255 becomes (x * factor - mean) / deviation.
        unit = 255 * float(settings.get("rescale_factor", 1 / 255))
        mean = torch.tensor(settings.get("image_mean", [0.5] * channels), dtype=torch.float32) / unit
        deviation = torch.tensor(settings.get("image_std", [0.5] * channels), dtype=torch.float32) / unit
        if mean.shape != (channels,) or deviation.shape != (channels,) or not (deviation > 0).all():
            raise ValueError(f"image_mean and image_std must be {channels} numbers, deviations above 0")
    return mean, deviation
