"""The common parts of both adapters: the state of rows, and the projection."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_bpd.adapters.cache import RowCache
from lightning_bpd.adapters.generation import end_token, suppressed_tokens
from lightning_bpd.adapters.low_rank import add_low_rank
from lightning_bpd.adapters.projection import Projection, family, output_layer
from lightning_bpd.interfaces import InputError, Memory, TokenRows
from lightning_bpd.network import Network


class RowState:
    """Cached self-attention of each row (a DecodeState). A row may begin with a prefix that decoding does not see.

    Args:
        cache: Keys and values, the prefix included.
        prefix: Tokens of each row's prefix.
    """

    memory: Memory

    def __init__(self, cache: RowCache, prefix: list[int]) -> None:
        self.cache = cache
        self.prefix = prefix

    @property
    def counts(self) -> list[int]:
        """Tokens of each row, without its prefix."""
        return [count - prefix for count, prefix in zip(self.cache.rows.counts, self.prefix, strict=True)]

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tokens of each row, without its prefix."""
        return torch.tensor(self.counts, dtype=torch.long, device=self.cache.rows.device)

    def rewind(self, lengths: Tensor) -> None:
        """Forget the tokens of each row past ``lengths[b]`` (int64 [B], best on the CPU), without copying."""
        counts = lengths.tolist()
        if len(counts) != len(self.prefix) or min(counts) < 0:
            raise ValueError(f"cannot rewind rows of lengths {self.counts} to {counts}")
        self.cache.rows.rewind([length + prefix for length, prefix in zip(counts, self.prefix, strict=True)])

    def reorder(self, rows: Tensor) -> None:
        """Replace row i by row ``rows[i]`` (int64 [B'])."""
        self.cache.reorder(rows)
        self.prefix = [self.prefix[row] for row in rows.tolist()]


class Widths(NamedTuple):
    """The widths of a model, from which the shape of its heads follows."""

    d_model: int
    """width of the hidden states"""
    feed_forward: int
    """hidden units of the model's feed-forward layers"""


class Adapter(Network):
    """A Hugging Face model whose vocabulary projection is known.

    The adapter ignores generation_config rules that need more than the last hidden state. The code that loads the
    model refuses them (``generation.refuse_unknown``).

    Args:
        model: The model, with a language modelling head.
        eos_id: The token that ends a row; by default the model's own.

    Attributes:
        eos_id: The end token of training targets.
        ends: Tokens at which the model's own ``generate`` ends a row, including ``eos_id``.
        suppressed: Tokens that the model's generation_config forbids; their logits are -inf.
        low_rank: Rank and alpha of the low-rank updates, if they are trained instead of the model's matrices.

    Raises:
        InputError: The model has several end tokens or none, or its attention takes no masks.
    """

    of_hugging_face = True
    _forbidden: Tensor

    def __init__(self, model: Any, eos_id: int | None) -> None:
        super().__init__()
        attention = model.config._attn_implementation
        if attention not in ("sdpa", "eager"):
            raise InputError(
                f"{family(model)} was loaded with {attention} attention, which takes no masks of single rows: load "
                "it with attn_implementation='sdpa'"
            )
        self.model = model
        self.eos_id = end_token(model, eos_id)
        self.ends = frozenset((self.eos_id,))
        self.suppressed = suppressed_tokens(model, self.eos_id)
        # A mask and not a list of tokens: weight averaging includes buffers and would round token ids.
        forbidden = torch.zeros(len(self.output_weight), dtype=torch.bool, device=self.device)
        forbidden[self.suppressed] = True
        self.register_buffer("_forbidden", forbidden, persistent=False)
        self.projection = Projection(1.0, None)
        self.low_rank: tuple[int, float] | None = None
        config = _decoder_config(model)
        names = ("decoder_layers", "num_decoder_layers", "num_hidden_layers")
        layers = next((getattr(config, name) for name in names if hasattr(config, name)), 1)
        # Families differ in whether the library normalises the output of the last layer.
        self.returnable_layers = layers - 1

    @property
    def output_weight(self) -> Tensor:
        """The vocabulary projection, [V, D]."""
        return output_layer(self.model)[0]

    @property
    def architecture(self) -> Widths:
        """The widths of the model; four times ``d_model`` if the configuration has no feed-forward width."""
        width = self.output_weight.size(1)
        config = _decoder_config(self.model)
        names = ("decoder_ffn_dim", "d_ff", "intermediate_size", "ffn_dim", "n_inner")
        known = (getattr(config, name, None) for name in names)
        return Widths(width, next((int(value) for value in known if value), 4 * width))

    @property
    def output_bias(self) -> Tensor | None:  # type: ignore[override]
        """The bias that ``project`` adds to the logits, [V], or None.

        It is -inf for suppressed tokens, so that heads neither propose these tokens nor train on them.
        """
        weight, bias = output_layer(self.model)
        if not self.suppressed:
            return bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        return bias.masked_fill(self._forbidden, -torch.inf)

    @property
    def logit_cap(self) -> float | None:
        """The model's cap on its logits, or None."""
        return self.projection.cap

    def keep_layers(self) -> None:
        """Turn off layerdrop, with which each process would train other layers."""
        for module in self.model.modules():
            if hasattr(module, "layerdrop"):
                module.layerdrop = 0.0

    def train_low_rank(self, rank: int, alpha: float) -> None:
        """Freeze the model and train low-rank updates only; ``rebuild_adapter`` merges them."""
        add_low_rank(self.model, rank, alpha)
        self.low_rank = (rank, alpha)

    def hidden_states(self, outputs: Any) -> Tensor:
        """Return the hidden states of a call, [B, T, D], scaled as ``project`` needs them, and the returned layers."""
        # The first of the library's hidden states is the embedding, and the last is normalised.
        return self.with_layers(
            outputs.last_hidden_state * self.projection.scale, (outputs.hidden_states or ())[1:]
        )

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.output_weight.device

    def project(self, hidden: Tensor) -> Tensor:
        """Project hidden states [..., D] to the model's logits [..., V], with -inf for suppressed tokens."""
        logits = self.plain_logits(hidden)
        if self.suppressed:
            logits = logits.masked_fill(self._forbidden, -torch.inf)
        return logits

    def plain_logits(self, hidden: Tensor) -> Tensor:
        """Project hidden states [..., D] to the model's logits [..., V], suppressed tokens included."""
        weight, bias = output_layer(self.model)
        return self.projection.logits(hidden[..., : weight.size(1)], weight, bias)


def _decoder_config(model: Any) -> Any:
    config = model.config
    return config if config.is_encoder_decoder else config.get_text_config(decoder=True)


def readable(rows: TokenRows, length: int, filler: int) -> tuple[Tensor, Tensor | None]:
    """Return tokens [B, length] with ``filler`` past each row's end, and a mask of the tokens inside, bool [B, length].

    The mask is None if all rows are known to be full. Rows may hold any values past their end.
    """
    tokens, lengths = rows.tokens[:, :length], rows.lengths
    if tokens.device.type == "cpu" and int(lengths.min()) >= length:
        return tokens, None
    inside = torch.arange(length, device=tokens.device) < lengths[:, None]
    return tokens.masked_fill(~inside, filler), inside
