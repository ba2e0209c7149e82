"""The Image Transformer (Parmar et al. 2018) for super-resolution, as a SequenceModel."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.kernels.dropout import dropout
from lightning_bpd.kernels.linear import linear
from lightning_bpd.models.attention import KeyValueCache
from lightning_bpd.models.encoder_decoder import (
    Architecture,
    DecoderLayer,
    EncoderDecoderState,
    EncoderLayer,
    sinusoids,
)
from lightning_bpd.models.local_attention import LocalAttention
from lightning_bpd.rows import Local, Rows, Slots

# Of an image: what is computed for each position fits any memory.
MOST_INTENSITIES = 1 << 22


@dataclass(frozen=True)
class ImageArchitecture:
    """The shape of images and network. The defaults are Stern et al. 2018's, ``img2img_transformer_b3``.

    Args:
        height: Rows of pixels of the output.
        width: Pixels of a row of the output.
        channels: Intensities of a pixel, such as 3 for red, green and blue.
        levels: Values of an intensity, 0 to ``levels`` - 1.
        scale: How many times the input's height and width go into the output's.
        d_model: Width of the residual stream; a multiple of 4.
        heads: Attention heads; divides ``d_model``.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers.
        feed_forward: Hidden width of the feed-forward layers.
        dropout: Probability on embeddings and on each sublayer's output.
        norm: Layer norm before each sublayer (pre) or after each addition (post, as in the paper).
        local_block: Intensities of a local block. One of the output sees its own block and the one before.

    Raises:
        InputError: The numbers do not fit each other.
    """

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
                f"{MOST_INTENSITIES:,}"
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
                f"d_model must be a multiple of 4, not {self.d_model}: half of it holds sines and cosines of the row, "
                "half those of column and channel"
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

    def layer_shape(self) -> Architecture:
        """The same, as encoder and decoder layers read it."""
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


class ImageTransformer(nn.Module):
    """Encoder over the intensities of a small image, decoder with local self-attention over those of a large one.

    Both are rows of int64 tokens in raster order, a pixel's channels next to each other; a token is an intensity. A
    decoded row starts from ``bos_id``, has no end token and always
    ``max_length`` tokens. Embeddings are the paper's (section 3.1): the input has vectors of its own for each
    channel, the output shares one set among its channels; positions are sines and cosines, in half of the dimensions
    of the row, in the other half of column and channel, counted through as one coordinate.

    Args:
        architecture: The shape of images and network.
    """

    source_positions: Tensor
    target_positions: Tensor

    def __init__(self, architecture: ImageArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.source_vocabulary = self.target_vocabulary = architecture.levels
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
        # Typed by what they hold: a ModuleList does not tell.
        self.encoder: Iterable[EncoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            EncoderLayer(shape) for _ in range(architecture.encoder_layers)
        )
        self.decoder: Iterable[LocalDecoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            LocalDecoderLayer(shape, architecture.local_block) for _ in range(architecture.decoder_layers)
        )
        pre = architecture.norm == "pre"
        self.encoder_norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(width) if pre else nn.Identity()

    @property
    def output_weight(self) -> Tensor:
        """The projection to intensities, [V, D]."""
        return self.output.weight

    @property
    def output_bias(self) -> None:
        """Nothing is added to the logits."""
        return None

    @property
    def max_length(self) -> int:
        """The length of every decoded row, in tokens."""
        return self.architecture.output_length

    def _embed(self, vectors: Tensor, positions: Tensor) -> Tensor:
        # Sums the scaled embeddings and the positions in one pass.
        summed = torch.add(positions, vectors, alpha=math.sqrt(self.architecture.d_model))
        return dropout(summed, self.architecture.dropout, self.training)

    def encode(self, source: TokenRows) -> tuple[Tensor, None]:
        """Encoded source [B, S, D], and the mask that it does not need: inputs are of one length.

        Raises:
            InputError: They are of another length.
        """
        tokens, lengths = source
        shape = self.architecture
        # The lengths of rows on a GPU would have to be waited for.
        shortest = int(lengths.min()) if lengths.device.type == "cpu" else tokens.size(1)
        if not shortest == tokens.size(1) == shape.source_length:
            raise InputError(
                f"an input of {min(shortest, tokens.size(1))} tokens is not an image of {shape.source_height} x "
                f"{shape.source_width} x {shape.channels}: make it {shape.source_length} long, or train a model for it"
            )
        channel = torch.arange(shape.source_length, device=tokens.device) % shape.channels
        x = self._embed(self.source_embedding(tokens + channel * shape.levels), self.source_positions)
        for layer in self.encoder:
            x = layer(x, None)
        return self.encoder_norm(x), None

    def forward(self, source: TokenRows, target: Tensor) -> Tensor:
        """Hidden states [B, T, D] for whole decoder inputs (int64 [B, T], starting with the start token).

        T may be less than a whole image.

        Raises:
            InputError: The inputs are longer than an image, or the source is not one.
        """
        memory, _ = self.encode(source)
        length = target.size(1)
        if length > self.max_length:
            raise InputError(f"a target row of {length} tokens is longer than an image, {self.max_length}")
        x = self._embed(self.target_embedding(target), self.target_positions[:length])
        for layer in self.decoder:
            x = layer(x, memory, None)
        return self.decoder_norm(x)

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> EncoderDecoderState:
        """Encode each source once and preallocate a cache of a window (SequenceModel.start).

        By as much as ``max_length`` exceeds the length of an image, blocks stick out over its end, and by as much may
        be rewound; in any case by a local block.
        """
        memory, mask = self.encode(source)
        shape = self.architecture
        keys_values = [layer.cross_attention.source(memory) for layer in self.decoder]
        block = shape.local_block
        places = Rows(
            len(source.lengths) if rows is None else len(rows),
            max_length,
            memory.device,
            Local(block),
            capacity=2 * block + max(block, max_length - self.max_length),
            reach=2 * block,
        )
        like = keys_values[0][0]  # under autocast narrower than the residual stream
        cache = KeyValueCache(shape.decoder_layers, places, shape.heads, shape.d_model // shape.heads, like)
        return EncoderDecoderState(cache, keys_values, mask, rows)

    def step(self, tokens: Tensor, state: EncoderDecoderState) -> Tensor:
        """Append tokens (int64 [B, T]) to each row; returns hidden states [B, T, D] (SequenceModel.step).

        More than a local block of tokens go through in parts.
        """
        parts = [self._step(part, state) for part in tokens.split(self.architecture.local_block, 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _step(self, tokens: Tensor, state: EncoderDecoderState) -> Tensor:
        slots, mask = state.cache.slots(tokens.size(1))
        x = self._embed(self.target_embedding(tokens), self._positions(slots))
        for index, layer in enumerate(self.decoder):
            x = layer.step(x, state, index, slots, mask)
        state.cache.rows.append(tokens.size(1))
        return self.decoder_norm(x)

    def _positions(self, slots: Slots) -> Tensor:
        """Position vectors of one call's tokens, [T, D] or [B, T, D]."""
        if slots.start is not None and (end := slots.start + slots.tokens) <= self.max_length:
            return self.target_positions[slots.start : end]
        # Tokens of a block past the end of the image are dropped, so they may have any position.
        return self.target_positions[slots.positions.clamp(max=self.max_length - 1)]

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to logits [..., V]."""
        return linear(hidden, self.output_weight)


def image_positions(height: int, row_length: int, width: int) -> Tensor:
    """Position vectors of an image in raster order, float32 [height * row_length, width].

    The first half of the dimensions says the row, the second half the place in it.
    """
    rows = sinusoids(height, width // 2)[:, None].expand(-1, row_length, -1)
    places = sinusoids(row_length, width // 2)[None].expand(height, -1, -1)
    return torch.cat((rows, places), 2).flatten(0, 1)
