"""A tokenizer of images: a small convolutional encoder and decoder around a quantiser (floor 1).

Shapes: N images, C channels, H height, W width; h and w are H and W over ``2 ** halvings``; Z codes at a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_bpd.interfaces import InputError, check_range

Quantiser = Literal["vq", "fsq", "residual_vq"]


@dataclass(frozen=True)
class TokenizerShape:
    """The shape of an ImageTokenizer. Raises InputError if a value is out of range.

    Args:
        quantiser: How the encoder's output becomes codes. "vq": the nearest vector of a codebook that follows the
            data (van den Oord et al. 2017). "fsq": each of a few numbers is rounded to one of its levels, and there is
            no codebook to learn (Mentzer et al. 2023). "residual_vq": several codebooks, each for what the ones
            before it left (Lee et al. 2022); a cell has a code of each.
        width: Channels of the convolutions.
        halvings: How often height and width are halved; a cell of the grid is 2 ** halvings pixels wide.
        blocks: Residual blocks at each size.
        codebook_size: Codes of "vq", and of each codebook of "residual_vq".
        code_width: Numbers that are quantised together, of "vq" and "residual_vq".
        codebooks: Codes at a cell, of "residual_vq".
        levels: Levels of each number of "fsq"; their product is the number of codes.
    """

    quantiser: Quantiser = "fsq"
    width: int = 64
    halvings: int = 2
    blocks: int = 1
    codebook_size: int = 512
    code_width: int = 8
    codebooks: int = 4
    levels: tuple[int, ...] = (8, 8, 8)

    def __post_init__(self) -> None:
        check_range(1, 4096, width=self.width, blocks=self.blocks, code_width=self.code_width)
        check_range(0, 8, halvings=self.halvings)
        check_range(2, 1 << 20, codebook_size=self.codebook_size)
        check_range(1, 64, codebooks=self.codebooks)
        if not self.levels or min(self.levels) < 2:
            raise InputError(f"levels is {list(self.levels)}: give at least one number, each at least 2")

    @property
    def depth(self) -> int:
        """Z, the codes at a cell."""
        return self.codebooks if self.quantiser == "residual_vq" else 1

    @property
    def vocabulary(self) -> int:
        """The number of different codes."""
        return int(torch.tensor(self.levels).prod()) if self.quantiser == "fsq" else self.codebook_size

    def grid(self, height: int, width: int) -> tuple[int, ...]:
        """The sides of the grid of codes: h and w, and Z if a cell has several.

        Raises InputError for images that cannot be halved as often.
        """
        cell = 2**self.halvings
        if height % cell or width % cell:
            raise InputError(
                f"images of {height} x {width} pixels cannot be halved {self.halvings} times: choose sides that are"
                f" multiples of {cell}, or fewer halvings"
            )
        return (height // cell, width // cell, *([self.depth] if self.depth > 1 else []))


class Reconstruction(NamedTuple):
    """What a tokenizer made of images."""

    images: Tensor
    """[N, C, H, W], white is 1 and black is -1"""
    codes: Tensor
    """int64 [N, h, w, Z]"""
    commitment: Tensor
    """scalar, how far the encoder's output is from its codes, weighted; 0 for FSQ"""


class ImageTokenizer(nn.Module):
    """Turns images into a grid of codes, and codes into images.

    Args:
        shape: The shape.
        channels: Channels of the images.

    Raises:
        InputError: The package vector-quantize-pytorch is not installed.
    """

    def __init__(self, shape: TokenizerShape, channels: int) -> None:
        super().__init__()
        self.shape, self.channels = shape, channels
        width = shape.width
        code_width = len(shape.levels) if shape.quantiser == "fsq" else shape.code_width
        steps: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        for _ in range(shape.halvings):
            steps += [*_blocks(shape), nn.Conv2d(width, width, 4, stride=2, padding=1)]
        self.encoder = nn.Sequential(*steps, *_blocks(shape), *_norm(width), nn.Conv2d(width, code_width, 1))
        steps = [nn.Conv2d(code_width, width, 1), *_blocks(shape)]
        for _ in range(shape.halvings):
            steps += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), *_blocks(shape)]
        self.decoder = nn.Sequential(*steps, *_norm(width), nn.Conv2d(width, channels, 3, padding=1))
        self.quantiser = _quantiser(shape, code_width)

    def forward(self, images: Tensor) -> Reconstruction:
        """Encode, quantise and decode images, [N, C, H, W] from -1 to 1. In training mode codebooks follow the data."""
        cells = self.encoder(images).permute(0, 2, 3, 1)
        rows = cells.flatten(1, 2)
        if self.shape.quantiser == "fsq":
            quantised, codes = self.quantiser(rows)
            commitment = rows.new_zeros(())
        else:
            quantised, codes, commitment = self.quantiser(rows)
        decoded = self.decoder(quantised.view(cells.shape).permute(0, 3, 1, 2))
        return Reconstruction(decoded, codes.view(*cells.shape[:3], -1).long(), commitment.sum())

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The codes of images [N, C, H, W], int64 [N, h, w, Z]. The module must be in eval mode."""
        cells = self.encoder(images).permute(0, 2, 3, 1)
        codes = self.quantiser(cells.flatten(1, 2))[1]
        return codes.view(*cells.shape[:3], -1).long()

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """The images of codes, int64 [N, h, w, Z] to [N, C, H, W], clamped to -1..1."""
        number, height, width, depth = codes.shape
        rows = codes.reshape(number, height * width, depth)
        if self.shape.quantiser == "fsq":
            quantised = self.quantiser.indices_to_codes(rows[..., 0])
        elif self.shape.quantiser == "vq":
            quantised = self.quantiser.get_output_from_indices(rows[..., 0])
        else:
            quantised = self.quantiser.get_output_from_indices(rows)
        # FSQ looks codes up in float32, whatever the weights are.
        cells = (
            quantised.view(number, height, width, -1)
            .permute(0, 3, 1, 2)
            .to(next(self.decoder.parameters()).dtype)
        )
        return self.decoder(cells).clamp(-1, 1)


class _Block(nn.Module):
    """x + f(x), of two 3 x 3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *_norm(width),
            nn.Conv2d(width, width, 3, padding=1),
            *_norm(width),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


def _blocks(shape: TokenizerShape) -> list[nn.Module]:
    return [_Block(shape.width) for _ in range(shape.blocks)]


def _norm(width: int) -> list[nn.Module]:
    # Groups of at least four channels, as many as divide the width, at most 8.
    groups = next(number for number in (8, 4, 2, 1) if width % number == 0)
    return [nn.GroupNorm(groups, width), nn.SiLU()]


def _quantiser(shape: TokenizerShape, code_width: int) -> Any:
    if find_spec("vector_quantize_pytorch") is None:
        raise InputError(
            "tokenizers of images need the package vector-quantize-pytorch, which is not installed: pip install"
            " 'lightning_bpd[images]'"
        )
    from vector_quantize_pytorch import FSQ, ResidualVQ, VectorQuantize

    if shape.quantiser == "fsq":
        return FSQ(list(shape.levels))
    # Codebooks follow a moving average of the cells that chose them. A code that is hardly chosen any more moves to a
    # cell of the batch: without this most codes of a small codebook are lost in the first steps.
    settings = {
        "dim": code_width,
        "codebook_size": shape.codebook_size,
        "decay": 0.99,
        "commitment_weight": 0.25,
        "threshold_ema_dead_code": 1,
    }
    if shape.quantiser == "vq":
        return VectorQuantize(**settings)
    return ResidualVQ(num_quantizers=shape.codebooks, **settings)


def to_signal(images: Tensor) -> Tensor:
    """Intensities, uint8 [N, H, W, C], as the input of a tokenizer: float32 [N, C, H, W] from -1 to 1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_intensities(signal: Tensor) -> Tensor:
    """The inverse of ``to_signal``, rounded: [N, C, H, W] to uint8 [N, H, W, C]."""
    return ((signal + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def reconstruction_loss(output: Tensor, images: Tensor) -> Tensor:
    """The squared difference, summed over all intensities; minimising it maximises PSNR."""
    return F.mse_loss(output, images, reduction="sum")
