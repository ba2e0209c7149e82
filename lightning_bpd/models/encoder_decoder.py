"""The encoder-decoder Transformer (Vaswani et al. 2017) as a SequenceModel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_bpd.interfaces import Encode, InputError, Reading, TokenRows, Vocabularies
from lightning_bpd.kernels.dropout import add_dropped, dropout
from lightning_bpd.kernels.linear import Linear, linear
from lightning_bpd.models.attention import Attention
from lightning_bpd.models.positions import halved_sinusoids, sinusoids
from lightning_bpd.models.state import EncoderDecoderState, encoded_tensors, memory_of
from lightning_bpd.network import Network, NetworkShape
from lightning_bpd.rows import Rows, Slots


@dataclass(frozen=True)
class Architecture(NetworkShape):
    """The shape of the network.

    Args:
        d_model: Width of the residual stream.
        heads: Attention heads; divides ``d_model``.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers.
        feed_forward: Hidden width of the feed-forward layers.
        dropout: Probability on embeddings and on each sublayer's output.
        attention_dropout: Probability on attention weights. Slow on a CPU.
        activation_dropout: Probability on the feed-forward layers' hidden units.
        norm: Layer norm before each sublayer (pre) or after each addition (post, as Vaswani et al. 2017).
        activation: Activation function of the feed-forward layers; gelu is the exact one.
        positions: Fixed sinusoids for any length, with sines and cosines in turns (sinusoidal) or all sines first
            (sinusoidal_halves, as in Marian); or learned vectors.
        max_length: Longest row for learned positions, in tokens.
        scale_embedding: Whether embeddings are multiplied by the square root of ``d_model``.
        tie: Vocabulary matrices that are one: source, target and output (all), target and output (output), none.
        output_bias: Whether the logits get a bias, which is zero at first and never trained.
    """

    d_model: int = 512
    heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    feed_forward: int = 2048
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    norm: Literal["pre", "post"] = "post"
    activation: Literal["relu", "gelu", "swish"] = "relu"
    positions: Literal["sinusoidal", "sinusoidal_halves", "learned"] = "sinusoidal"
    max_length: int = 1024
    scale_embedding: bool = True
    tie: Literal["all", "output", "none"] = "all"
    output_bias: bool = False

    def __post_init__(self) -> None:
        if self.d_model % self.heads:
            raise InputError(
                f"d_model {self.d_model} is not a multiple of heads {self.heads}: change one of them"
            )
        if self.positions != "learned" and self.d_model % 2:
            raise InputError(
                f"sinusoidal positions need an even d_model, not {self.d_model}: change it, or use learned"
            )

    @property
    def layers(self) -> int:
        """Encoder and decoder layers together."""
        return self.encoder_layers + self.decoder_layers

    def build(self, vocabularies: Vocabularies) -> EncoderDecoder:
        """Make an encoder-decoder for text."""
        assert vocabularies.eos_id is not None
        source, target = vocabularies.source_vocabulary, vocabularies.target_vocabulary
        return EncoderDecoder(self, source, target, vocabularies.bos_id, vocabularies.eos_id)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "swish": F.silu}


class FeedForward(nn.Module):
    """Two linear maps with an activation function between them."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.hidden = Linear(architecture.d_model, architecture.feed_forward)
        self.output = Linear(architecture.feed_forward, architecture.d_model)
        self.activation = _ACTIVATIONS[architecture.activation]
        self.dropout = architecture.activation_dropout
        for layer in (self.hidden, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.output(dropout(self.activation(self.hidden(x)), self.dropout, self.training))


class Residual(nn.Module):
    """The addition around one sublayer, with layer norm before (pre) or after (post) it."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(architecture.d_model)
        self.pre = architecture.norm == "pre"
        self.dropout = architecture.dropout

    def before(self, x: Tensor) -> Tensor:
        """Compute the sublayer's input from the residual stream [..., D]."""
        return self.norm(x) if self.pre else x

    def after(self, x: Tensor, sublayer: Tensor) -> Tensor:
        """Add the sublayer's output to the residual stream."""
        x = add_dropped(x, sublayer, self.dropout, self.training)
        return x if self.pre else self.norm(x)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward layer."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.attention = Attention(
            architecture.d_model, architecture.heads, architecture.attention_dropout, cross=False
        )
        self.attention_residual = Residual(architecture)
        self.feed_forward = FeedForward(architecture)
        self.feed_forward_residual = Residual(architecture)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map x [B, S, D] to [B, S, D]; mask bool [B, 1, 1, S] or None."""
        around = self.attention_residual
        x = around.after(x, self.attention(around.before(x), mask, causal=False))
        around = self.feed_forward_residual
        return around.after(x, self.feed_forward(around.before(x)))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the source, and a feed-forward layer."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, heads, attention_dropout = (
            architecture.d_model,
            architecture.heads,
            architecture.attention_dropout,
        )
        self.self_attention = Attention(width, heads, attention_dropout, cross=False)
        self.self_residual = Residual(architecture)
        self.cross_attention = Attention(width, heads, attention_dropout, cross=True)
        self.cross_residual = Residual(architecture)
        self.feed_forward = FeedForward(architecture)
        self.feed_forward_residual = Residual(architecture)

    def forward(self, x: Tensor, memory: Tensor, source_mask: Tensor | None) -> Tensor:
        """Map whole target rows x [B, T, D], which attend to the encoded source [B, S, D]."""
        around = self.self_residual
        x = around.after(x, self.self_attention(around.before(x), None, causal=True))
        return self._rest(x, *self.cross_attention.source(memory), source_mask)

    def step(
        self, x: Tensor, state: EncoderDecoderState, layer: int, slots: Slots, mask: Tensor | None
    ) -> Tensor:
        """Map new tokens x [B, T, D], which attend to the cache."""
        around = self.self_residual
        x = around.after(x, self.self_attention.step(around.before(x), state.cache, layer, slots, mask))
        return self._rest(x, *state.row_source[layer], state.row_mask)

    def _rest(self, x: Tensor, key: Tensor, value: Tensor, source_mask: Tensor | None) -> Tensor:
        around = self.cross_residual
        x = around.after(x, self.cross_attention.cross(around.before(x), key, value, source_mask))
        around = self.feed_forward_residual
        return around.after(x, self.feed_forward(around.before(x)))


class EncoderDecoder(Network):
    """Encoder-decoder Transformer with a shared vocabulary projection.

    Args:
        architecture: The network's shape.
        source_vocabulary: Number of source tokens.
        target_vocabulary: Number of target tokens.
        bos_id: Token that every decoded row starts from.
        eos_id: Token that ends a row.

    Raises:
        InputError: ``tie: all`` with two vocabularies of different size.
    """

    compiles = True

    def __init__(
        self,
        architecture: Architecture,
        source_vocabulary: int,
        target_vocabulary: int,
        bos_id: int,
        eos_id: int,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.source_vocabulary, self.target_vocabulary = source_vocabulary, target_vocabulary
        self.bos_id, self.eos_id, self.ends = bos_id, eos_id, frozenset((eos_id,))
        self.vocabularies = Vocabularies(source_vocabulary, target_vocabulary, bos_id, eos_id)
        width = architecture.d_model
        if architecture.tie == "all" and source_vocabulary != target_vocabulary:
            raise InputError(
                f"tie: all needs one vocabulary for both languages, not {source_vocabulary} source and "
                f"{target_vocabulary} target tokens: use a joint vocabulary or tie: output"
            )
        self.target_embedding = _embedding(target_vocabulary, width)
        self.source_embedding = None if architecture.tie == "all" else _embedding(source_vocabulary, width)
        self.output = nn.Linear(width, target_vocabulary, bias=False) if architecture.tie == "none" else None
        self.output_bias: Tensor | None
        self.register_buffer(
            "output_bias", torch.zeros(target_vocabulary) if architecture.output_bias else None
        )
        if architecture.positions == "learned":
            self.source_positions = nn.Parameter(torch.randn(architecture.max_length, width) * width**-0.5)
            self.target_positions = nn.Parameter(torch.randn(architecture.max_length, width) * width**-0.5)
        else:
            # Neither parameter nor buffer: weight averaging and DDP do not support a table that grows.
            self._sinusoids = self._sinusoid_table(1024)
        # Typed by their elements, because a ModuleList does not tell them.
        self.encoder: Iterable[EncoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            EncoderLayer(architecture) for _ in range(architecture.encoder_layers)
        )
        self.decoder: Iterable[DecoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            DecoderLayer(architecture) for _ in range(architecture.decoder_layers)
        )
        self.returnable_layers = architecture.decoder_layers
        pre = architecture.norm == "pre"
        self.encoder_norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(width) if pre else nn.Identity()

    @property
    def output_weight(self) -> Tensor:
        """The vocabulary projection, [V, D]."""
        return self.target_embedding.weight if self.output is None else self.output.weight

    def _sinusoid_table(self, length: int) -> Tensor:
        layout = halved_sinusoids if self.architecture.positions == "sinusoidal_halves" else sinusoids
        return layout(length, self.architecture.d_model)

    @property
    def max_length(self) -> int | None:
        """The longest row, source or target, in tokens; None for no limit."""
        return self.architecture.max_length if self.architecture.positions == "learned" else None

    def _positions(self, side: Literal["source", "target"], length: int) -> Tensor:
        """Return position vectors of at least ``length`` positions, [>= length, D]."""
        if self.architecture.positions == "learned":
            if length > self.architecture.max_length:
                raise InputError(
                    f"a {side} row of {length} tokens is longer than this model's learned positions, "
                    f"{self.architecture.max_length}: shorten it, or train with a larger max_length"
                )
            return self.source_positions if side == "source" else self.target_positions
        weight = self.target_embedding.weight
        if length > len(self._sinusoids):
            # Training uses a table made while decoding, too, but refuses inference tensors.
            with torch.inference_mode(False):
                # Of few different lengths, because compiled code knows the length.
                self._sinusoids = self._sinusoid_table(1 << length.bit_length())
        if (self._sinusoids.device, self._sinusoids.dtype) != (weight.device, weight.dtype):
            with torch.inference_mode(False):
                self._sinusoids = self._sinusoids.to(weight)
        return self._sinusoids

    def _positions_of(self, slots: Slots) -> Tensor:
        """Return position vectors of one call's tokens, [T, D] or [B, T, D].

        A block may extend past the last learned position. Decoding drops these tokens, so they may have any position:
        here the last one.
        """
        table = self._positions("target", 1)  # ``start`` made it long enough
        if slots.start is not None and slots.extent <= len(table):
            return table[slots.start : slots.extent]
        return table[slots.positions.clamp(max=len(table) - 1)]

    def _embed(self, embedding: nn.Embedding, tokens: Tensor, positions: Tensor) -> Tensor:
        # Add the scaled embedding and the positions in one pass.
        scale = math.sqrt(self.architecture.d_model) if self.architecture.scale_embedding else 1.0
        summed = torch.add(positions, embedding(tokens), alpha=scale)
        return dropout(summed, self.architecture.dropout, self.training)

    def encode(self, source: TokenRows) -> tuple[Tensor, Tensor | None]:
        """Encode sources to [B, S, D]; return them with their mask, bool [B, 1, 1, S], or None if no row is padded."""
        tokens, lengths = source
        length = tokens.size(1)
        embedding = self.target_embedding if self.source_embedding is None else self.source_embedding
        x = self._embed(embedding, tokens, self._positions("source", length)[:length])
        mask = None
        # Without padding, attention needs no mask and is faster. Asking a GPU would make the host wait.
        if torch.compiler.is_compiling():
            padded = tokens.size(0) > 1
        else:
            padded = tokens.device.type != "cpu" or int(lengths.min()) < length
        if padded:
            mask = (torch.arange(length, device=tokens.device) < lengths[:, None])[:, None, None]
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x), mask

    def read(self, source: TokenRows, target: Tensor) -> Reading:
        """Compute what ``forward`` returns, and the encoded source.

        Padding at the right end of ``target`` needs no mask: no earlier position can see it.
        """
        memory, mask = self.encode(source)
        length = target.size(1)
        x = self._embed(self.target_embedding, target, self._positions("target", length)[:length])
        outputs = []
        for layer in self.decoder:
            x = layer(x, memory, mask)
            outputs.append(x)
        return Reading(self.with_layers(self.decoder_norm(x), outputs), memory_of(memory, mask))

    def encoded(self, source: TokenRows) -> list[Tensor]:
        """Encode sources, for attention to them as well (StaticModel.encoded)."""
        memory, mask = self.encode(source)
        return encoded_tensors(memory, mask, (layer.cross_attention for layer in self.decoder))

    def start(
        self, source: TokenRows, rows: Tensor | None, max_length: int, encode: Encode | None = None
    ) -> EncoderDecoderState:
        """Encode each source once and preallocate the cache (SequenceModel.start, StaticModel.start)."""
        self._positions("source", source.tokens.size(1))
        self._positions("target", min(max_length, self.max_length or max_length))
        encoded = self.encoded(source) if encode is None else encode(self, source)
        count = len(source.lengths) if rows is None else len(rows)
        held = Rows(count, max_length, encoded[0].device)
        return EncoderDecoderState.of_source(encoded, held, rows)

    def step(self, tokens: Tensor, state: EncoderDecoderState) -> Tensor:
        """Append tokens (int64 [B, T]) to each row; return hidden states [B, T, D] (SequenceModel.step)."""
        slots, mask = state.cache.slots(tokens.size(1))
        x = self._embed(self.target_embedding, tokens, self._positions_of(slots))
        outputs = []
        for index, layer in enumerate(self.decoder):
            x = layer.step(x, state, index, slots, mask)
            outputs.append(x)
        state.cache.rows.append(tokens.size(1))
        return self.with_layers(self.decoder_norm(x), outputs)

    def project(self, hidden: Tensor) -> Tensor:
        """Project hidden states [..., D] to logits [..., V]."""
        return linear(hidden[..., : self.architecture.d_model], self.output_weight, self.output_bias)


def _embedding(vocabulary: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(vocabulary, width)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    return embedding
