"""The Image Transformer (Parmar et al. 2018) for super-resolution, as a SequenceModel."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lightning_bpd.interfaces import Encode, Grid, InputError, Memory, Reading, TokenRows, Vocabularies
from lightning_bpd.kernels.dropout import dropout
from lightning_bpd.kernels.linear import linear
from lightning_bpd.models.encoder_decoder import (
    Architecture,
    DecoderLayer,
    EncoderLayer,
    sinusoids,
)
from lightning_bpd.models.local_attention import LocalAttention
from lightning_bpd.models.state import EncoderDecoderState, encoded_tensors
from lightning_bpd.network import Network, NetworkShape
from lightning_bpd.rows import Local, Rows, Slots

# Intensities of the largest image: its position vectors fit any memory.
MOST_INTENSITIES = 1 << 22


@dataclass(frozen=True)
class ImageArchitecture(NetworkShape):
    """The shape of images and network. The defaults are those of Stern et al. 2018, ``img2img_transformer_b3``.

    Args:
        height: Rows of pixels of the output.
        width: Pixels of a row of the output.
        channels: Intensities of a pixel, such as 3 for red, green and blue.
        levels: Values of an intensity, 0 to ``levels`` - 1.
        scale: Height and width of the output over those of the input.
        d_model: Width of the residual stream; a multiple of 4.
        heads: Attention heads; divides ``d_model``.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers.
        feed_forward: Hidden width of the feed-forward layers.
        dropout: Probability on embeddings and on each sublayer's output.
        norm: Layer norm before each sublayer (pre) or after each addition (post, as in the paper).
        local_block: Intensities of a local block. An output intensity sees its own block and the block before.

    Raises:
        InputError: The numbers do not fit each other.
    """

    kind: ClassVar[str] = "images"
    height: int = 32
    width: int = 32
    channels: int = 3
    levels: int = 256
    scale: int = 4
    d_model: int = 512
    heads: int = 8
    encoder_layers: int = 4
    decoder_layers: int = 8
    feed_forward: int = 2048
    dropout: float = 0.1
    norm: Literal["pre", "post"] = "post"
    local_block: int = 128

    def __post_init__(self) -> None:
        for name in ("height", "width", "channels", "scale", "d_model", "heads", "encoder_layers",
                     "decoder_layers", "feed_forward", "local_block"):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.output_length > MOST_INTENSITIES:
            raise InputError(
                f"an image of {self.height} x {self.width} x {self.channels} intensities is too large: there may be "
                f"at most {MOST_INTENSITIES:,}"
            )
        if not 2 <= self.levels <= 256:
            raise InputError(f"levels must be 2 to 256, not {self.levels}: images have 8 bits a channel")
        if self.height % self.scale or self.width % self.scale:
            raise InputError(
                f"an image of {self.height} x {self.width} cannot be made {self.scale} times smaller: choose a scale "
                "that divides height and width"
            )
        if self.d_model % 4:
            raise InputError(
                f"d_model must be a multiple of 4, not {self.d_model}: one half holds sines and cosines of the row, "
                "the other half those of column and channel"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be at least 0 and less than 1, not {self.dropout}")
        if self.norm not in ("pre", "post"):
            raise InputError(f"unknown norm {self.norm!r}: choose pre or post")
        self.layer_shape()  # d_model and heads

    @property
    def source_height(self) -> int:
        """Rows of pixels of the input."""
        return self.height // self.scale

    @property
    def source_width(self) -> int:
        """Pixels of a row of the input."""
        return self.width // self.scale

    @property
    def source_length(self) -> int:
        """Intensities of an input."""
        return self.source_height * self.source_width * self.channels

    @property
    def output_length(self) -> int:
        """Intensities of an output."""
        return self.height * self.width * self.channels

    @property
    def vocabularies(self) -> Vocabularies:
        """The tokens of the images: their levels, and the start token."""
        grid = Grid(self.height, self.width, self.channels, self.levels, self.scale)
        return Vocabularies(self.levels, self.levels, self.levels, None, grid)

    @property
    def layers(self) -> int:
        """Encoder and decoder layers together."""
        return self.encoder_layers + self.decoder_layers

    def build(self, vocabularies: Vocabularies) -> ImageTransformer:
        """Make an Image Transformer. Raises InputError if the tokens are of images of another size."""
        assert vocabularies.image is not None
        for name, given in vocabularies.image._asdict().items():
            if getattr(self, name) != given:
                raise InputError(
                    f"the network's {name} is {getattr(self, name)}, and that of the data's images {given}: let "
                    "model.images and data say the same"
                )
        return ImageTransformer(self)

    def layer_shape(self) -> Architecture:
        """Return the shape of the encoder and decoder layers."""
        return Architecture(
            d_model=self.d_model,
            heads=self.heads,
            encoder_layers=self.encoder_layers,
            decoder_layers=self.decoder_layers,
            feed_forward=self.feed_forward,
            dropout=self.dropout,
            norm=self.norm,
        )


class LocalDecoderLayer(DecoderLayer):
    """A decoder layer whose self-attention is local."""

    def __init__(self, architecture: Architecture, local_block: int) -> None:
        super().__init__(architecture)
        self.self_attention = LocalAttention(
            architecture.d_model, architecture.heads, architecture.attention_dropout, local_block
        )


class ImageTransformer(Network):
    """An encoder for small images, and a decoder with local self-attention for large ones.

    Images are rows of int64 tokens in raster order, with a pixel's channels next to each other. A token is an
    intensity. A decoded row starts from ``bos_id``, has no end token, and always has ``max_length`` tokens.

    Embeddings are those of the paper (section 3.1): the input has one table for each channel, and all channels of the
    output share one table. Position vectors are sines and cosines. Half of the dimensions hold the row, the other half
    hold column and channel, counted as one coordinate.

    Args:
        architecture: The shape of images and network.
    """

    compiles = True
    output_bias = None
    source_positions: Tensor
    target_positions: Tensor

    def __init__(self, architecture: ImageArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.vocabularies = architecture.vocabularies
        self.bos_id = architecture.levels
        self.ends: frozenset[int] = frozenset()
        width, channels, shape = architecture.d_model, architecture.channels, architecture.layer_shape()
        self.source_embedding = nn.Embedding(channels * architecture.levels, width)
        self.target_embedding = nn.Embedding(architecture.levels + 1, width)  # and the start token
        self.output = nn.Linear(width, architecture.levels, bias=False)
        for matrix in (self.source_embedding, self.target_embedding, self.output):
            nn.init.normal_(matrix.weight, std=width**-0.5)
        small = image_positions(architecture.source_height, architecture.source_width * channels, width)
        large = image_positions(architecture.height, architecture.width * channels, width)
        self.register_buffer("source_positions", small, persistent=False)
        self.register_buffer("target_positions", large, persistent=False)
        # Typed by their elements, because a ModuleList does not tell them.
        self.encoder: Iterable[EncoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            EncoderLayer(shape) for _ in range(architecture.encoder_layers)
        )
        self.decoder: Iterable[LocalDecoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            LocalDecoderLayer(shape, architecture.local_block) for _ in range(architecture.decoder_layers)
        )
        self.returnable_layers = architecture.decoder_layers
        pre = architecture.norm == "pre"
        self.encoder_norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(width) if pre else nn.Identity()

    @property
    def output_weight(self) -> Tensor:
        """The projection to intensities, [V, D]."""
        return self.output.weight

    @property
    def max_length(self) -> int:
        """The length of every decoded row, in tokens."""
        return self.architecture.output_length

    def _embed(self, vectors: Tensor, positions: Tensor) -> Tensor:
        # Add the scaled embeddings and the positions in one pass.
        summed = torch.add(positions, vectors, alpha=math.sqrt(self.architecture.d_model))
        return dropout(summed, self.architecture.dropout, self.training)

    def _check(self, source: TokenRows) -> None:
        tokens, lengths = source
        shape = self.architecture
        # Reading lengths on a GPU would make the host wait.
        shortest = int(lengths.min()) if lengths.device.type == "cpu" else tokens.size(1)
        if not shortest == tokens.size(1) == shape.source_length:
            raise InputError(
                f"an input of {min(shortest, tokens.size(1))} tokens is not an image of {shape.source_height} x "
                f"{shape.source_width} x {shape.channels}: give {shape.source_length} tokens, or train a model for it"
            )

    def encode(self, tokens: Tensor) -> Tensor:
        """Encode small images, int64 [B, S], to [B, S, D]; they need no mask, because all have one length."""
        shape, length = self.architecture, tokens.size(1)
        channel = torch.arange(length, device=tokens.device) % shape.channels
        x = self._embed(
            self.source_embedding(tokens + channel * shape.levels), self.source_positions[:length]
        )
        for layer in self.encoder:
            x = layer(x, None)
        return self.encoder_norm(x)

    def read(self, source: TokenRows, target: Tensor) -> Reading:
        """Compute what ``forward`` returns, and the encoded source. T may be less than the length of an image.

        Raises:
            InputError: The inputs are longer than an image, or the source is not an image.
        """
        self._check(source)
        memory = self.encode(source.tokens)
        length = target.size(1)
        if length > self.max_length:
            raise InputError(
                f"a target row of {length} tokens is longer than an image, {self.max_length} tokens"
            )
        x = self._embed(self.target_embedding(target), self.target_positions[:length])
        outputs = []
        for layer in self.decoder:
            x = layer(x, memory, None)
            outputs.append(x)
        return Reading(self.with_layers(self.decoder_norm(x), outputs), Memory(memory, None))

    def encoded(self, source: TokenRows) -> list[Tensor]:
        """Encode small images, for attention to them as well (StaticModel.encoded)."""
        return encoded_tensors(
            self.encode(source.tokens), None, (each.cross_attention for each in self.decoder)
        )

    def start(
        self, source: TokenRows, rows: Tensor | None, max_length: int, encode: Encode | None = None
    ) -> EncoderDecoderState:
        """Encode each source once and preallocate a cache of a window (SequenceModel.start, StaticModel.start).

        Blocks extend past the end of an image by ``max_length`` minus the length of the image. Rows can be rewound by
        this number of tokens, and at least by a local block.

        Raises:
            InputError: The source is not an image.
        """
        self._check(source)
        encoded = self.encoded(source) if encode is None else encode(self, source)
        block = self.architecture.local_block
        cached = Rows(
            len(source.lengths) if rows is None else len(rows),
            max_length,
            source.tokens.device,
            Local(block),
            capacity=2 * block + max(block, max_length - self.max_length),
            reach=2 * block,
        )
        return EncoderDecoderState.of_source(encoded, cached, rows)

    def step(self, tokens: Tensor, state: EncoderDecoderState) -> Tensor:
        """Append tokens (int64 [B, T]) to each row; return hidden states [B, T, D] (SequenceModel.step).

        More tokens than a local block are fed in parts.
        """
        parts = [self._step(part, state) for part in tokens.split(self.architecture.local_block, 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _step(self, tokens: Tensor, state: EncoderDecoderState) -> Tensor:
        slots, mask = state.cache.slots(tokens.size(1))
        x = self._embed(self.target_embedding(tokens), self._positions(slots))
        outputs = []
        for index, layer in enumerate(self.decoder):
            x = layer.step(x, state, index, slots, mask)
            outputs.append(x)
        state.cache.rows.append(tokens.size(1))
        return self.with_layers(self.decoder_norm(x), outputs)

    def _positions(self, slots: Slots) -> Tensor:
        """Return position vectors of one call's tokens, [T, D] or [B, T, D]."""
        if slots.start is not None and (end := slots.start + slots.tokens) <= self.max_length:
            return self.target_positions[slots.start : end]
        # Decoding drops tokens past the end of the image, so they may have any position.
        return self.target_positions[slots.positions.clamp(max=self.max_length - 1)]

    def project(self, hidden: Tensor) -> Tensor:
        """Project hidden states [..., D] to logits [..., V]."""
        return linear(hidden[..., : self.architecture.d_model], self.output_weight)


def image_positions(height: int, row_length: int, width: int) -> Tensor:
    """Make position vectors of an image in raster order, float32 [height * row_length, width].

    The first half of the dimensions holds the row, the second half the position within it.
    """
    rows = sinusoids(height, width // 2)[:, None].expand(-1, row_length, -1)
    columns = sinusoids(row_length, width // 2)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), 2).flatten(0, 1)
