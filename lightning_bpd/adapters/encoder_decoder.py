"""Encoder-decoder models of Hugging Face (AutoModelForSeq2SeqLM) as SequenceModels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from lightning_bpd.adapters.base import Adapter, RowState, readable
from lightning_bpd.adapters.cache import RowCache, cache_name
from lightning_bpd.adapters.examination import check_histories, examined, random_tokens
from lightning_bpd.adapters.generation import setting
from lightning_bpd.adapters.positions import RowPositions, position_limit
from lightning_bpd.adapters.projection import family, find_projection
from lightning_bpd.interfaces import InputError, Memory, Reading, TokenRows
from lightning_bpd.rows import Causal

TESTED = frozenset({"bart", "blenderbot", "m2m_100", "marian", "mbart", "mt5", "pegasus", "plbart", "t5"})
"""families (model_type) for which the test suite holds blockwise = greedy = generate"""


class Seq2SeqState(RowState):
    """Cached self-attention of each row, and the encoded source that the row attends to (a DecodeState)."""

    def __init__(
        self, cache: RowCache, prefix: list[int], memory: Tensor, mask: Tensor | None, rows: Tensor | None
    ) -> None:
        super().__init__(cache, prefix)
        self.memory = _memory(memory, mask)
        self.encoded, self.encoded_mask = memory, mask
        self.both = EncoderDecoderCache(cache, DynamicCache())
        self._sources = list(range(len(memory)))
        if rows is not None:
            self._look_at(rows)

    def reorder(self, rows: Tensor) -> None:
        """Replace row i by row ``rows[i]`` (int64 [B'])."""
        super().reorder(rows)
        self._look_at(rows)

    def _look_at(self, rows: Tensor) -> None:
        sources = [self._sources[row] for row in rows.tolist()]
        # Beams mostly swap rows within one source, which changes nothing here.
        if sources == self._sources:
            return
        self._sources = sources
        self.encoded = self.encoded.index_select(0, rows)
        if self.encoded_mask is not None:
            self.encoded_mask = self.encoded_mask.index_select(0, rows)
        self.both.cross_attention_cache.batch_select_indices(rows)


class Seq2SeqAdapter(Adapter):
    """An encoder-decoder model of Hugging Face as a SequenceModel.

    Sources are rows that the model's tokenizer makes, with their end token. Decoding feeds ``decoder_start_token_id``
    first. If ``generate`` forces a first token (``forced_bos_token_id``, such as the target language of mBART and
    NLLB), the decoder reads both tokens: ``start`` and ``forward`` feed the start token as a hidden prefix, and the
    forced token is ``bos_id``. Rows and targets begin after the forced token and do not contain it.

    Hidden states are multiplied by the scale that the family applies before its projection (T5). So their product with
    ``output_weight`` gives the logits, except for ``output_bias`` and a cap.

    Args:
        model: A model that ``AutoModelForSeq2SeqLM`` loads, with its ``generation_config``.
        eos_id: The token that ends a row; by default the model's own.

    Attributes:
        tested: Whether the test suite covers the family. Other families passed only the check of the constructor:
            logits with the cache, after feeding, rewinding and reordering ragged rows of random tokens, equal logits
            without a cache.

    Raises:
        InputError: The model cannot be decoded exactly; the message says what is missing.
    """

    def __init__(self, model: Any, eos_id: int | None = None) -> None:
        if not model.config.is_encoder_decoder:
            raise InputError(f"{family(model)} is not an encoder-decoder: use CausalAdapter")
        super().__init__(model, eos_id)
        self.tested = model.config.model_type in TESTED
        start = setting(model, "decoder_start_token_id")
        start = setting(model, "bos_token_id") if start is None else start
        if start is None:
            raise InputError(
                f"{family(model)} does not name the token that its decoder starts from: set "
                "model.generation_config.decoder_start_token_id"
            )
        forced = model.generation_config.forced_bos_token_id
        self.prefix = [] if forced is None else [int(start)]
        self.bos_id = int(start if forced is None else forced)
        padding = setting(model, "pad_token_id")
        self.filler = 0 if padding is None else int(padding)
        self.positions = RowPositions(model.get_decoder())
        self.cache_name = cache_name(model.get_decoder())
        if not self.positions.known:
            raise InputError(
                f"{family(model)} cannot be a base: its decoder has neither a table of positions (embed_positions) "
                "nor a relative bias that lightning_bpd/adapters/positions.py knows"
            )
        with examined(model):
            self._examine()

    @property
    def max_length(self) -> int | None:
        """The longest row that the model can decode, in tokens; None for no limit."""
        limit = self.positions.limit
        return None if limit is None else limit - len(self.prefix)

    @property
    def longest_source(self) -> int | None:
        """The longest source, in tokens; None for no limit."""
        return position_limit(self.model.get_encoder())

    def encode(self, source: TokenRows) -> tuple[Tensor, Tensor | None]:
        """Encode sources to [B, S, D]; return them with an additive mask that hides padding, [B, 1, 1, S] or None.

        Raises:
            InputError: A source is longer than the encoder's positions.
        """
        length = source.tokens.size(1)
        encoder = self.model.get_encoder()
        limit = self.longest_source
        if limit is not None and length > limit:
            raise InputError(
                f"a source of {length} tokens is longer than the model's {limit} positions: shorten it"
            )
        tokens, inside = readable(source, length, self.filler)
        seen = torch.ones_like(tokens) if inside is None else inside.long()
        memory = encoder(input_ids=tokens, attention_mask=seen).last_hidden_state
        return memory, None if inside is None else hiding(inside, memory.dtype)

    def read(self, source: TokenRows, target: Tensor) -> Reading:
        """Compute what ``forward`` returns, and the encoded source.

        Padding at the right end of ``target`` needs no mask: no earlier position can see it.
        """
        memory, mask = self.encode(source)
        prefix = target.new_tensor(self.prefix).expand(len(target), -1)
        outputs = self.model.get_decoder()(
            input_ids=torch.cat((prefix, target), 1),
            encoder_hidden_states=memory,
            encoder_attention_mask=_for_each_token(mask, len(self.prefix) + target.size(1)),
            use_cache=False,
            output_hidden_states=bool(self.returned_layers),
        )
        return Reading(self.hidden_states(outputs)[:, len(self.prefix) :], _memory(memory, mask))

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> Seq2SeqState:
        """Encode each source once, and preallocate the cache (SequenceModel.start)."""
        memory, mask = self.encode(source)
        count = len(memory) if rows is None else len(rows)
        prefix = torch.tensor([self.prefix], dtype=torch.long, device=memory.device).expand(count, -1)
        return self.begin(memory, mask, rows, prefix, max_length)

    def begin(
        self, memory: Tensor, mask: Tensor | None, rows: Tensor | None, prefix: Tensor, max_length: int
    ) -> Seq2SeqState:
        """Make the state of rows that attend to an encoded source (see ``encode``) and have read ``prefix``.

        Args:
            memory: [S, L, D].
            mask: [S, 1, 1, L] or None.
            rows: int64 [B], the source of each row; one row for each source if None.
            prefix: int64 [B, P], hidden tokens before each row; P may be 0.
            max_length: Tokens that the cache holds for each row, besides the prefix.
        """
        count, length = prefix.shape
        cache = RowCache(count, max_length + length, memory.device)
        state = Seq2SeqState(cache, [0] * count, memory, mask, rows)
        if length:
            self.step(prefix, state)
            state.prefix = [length] * count
        return state

    def step(self, tokens: Tensor, state: Seq2SeqState) -> Tensor:
        """Append tokens (int64 [B, T]) to each row; return hidden states [B, T, D] (SequenceModel.step)."""
        rows, length = tokens.shape
        call = state.cache.begin(length)
        decoder = self.model.get_decoder()
        with self.positions.of(decoder, tokens, call):
            outputs = decoder(
                input_ids=tokens,
                attention_mask=call.mask(Causal(), state.encoded.dtype).expand(rows, -1, -1, -1),
                encoder_hidden_states=state.encoded,
                encoder_attention_mask=_for_each_token(state.encoded_mask, length),
                use_cache=True,
                output_hidden_states=bool(self.returned_layers),
                **{self.cache_name: state.both},
            )
        state.cache.end(length)
        return self.hidden_states(outputs)

    def _examine(self) -> None:
        """Learn the projection, and compare logits with and without the cache.

        Raises:
            InputError: The model cannot be decoded exactly.
        """
        known = self.model.get_encoder().get_input_embeddings().num_embeddings
        source = TokenRows(
            random_tokens(2, 5, known, self.filler, self.device), torch.tensor([3, 5], device=self.device)
        )
        target = random_tokens(2, 6, len(self.output_weight), self.filler, self.device)
        target[:, 0] = self.bos_id
        prefix = target.new_tensor(self.prefix).expand(len(target), -1)
        seen = torch.arange(5, device=self.device) < source.lengths[:, None]
        logits = self.model(
            input_ids=source.tokens,
            attention_mask=seen.long(),
            decoder_input_ids=torch.cat((prefix, target), 1),
            use_cache=False,
        ).logits[:, len(prefix[0]) :]
        self.projection = find_projection(self.model, self(source, target), logits)
        check_histories(self, source, target, logits)


def hiding(inside: Tensor, dtype: torch.dtype) -> Tensor:
    """Make an additive attention mask, [B, 1, 1, S], that hides all tokens not ``inside`` (bool [B, S])."""
    hidden = torch.zeros(inside.shape, dtype=dtype, device=inside.device)
    return hidden.masked_fill_(~inside, -torch.inf)[:, None, None]


def _memory(states: Tensor, mask: Tensor | None) -> Memory:
    """States [B, S, D] with the additive mask that hides their padding, [B, 1, 1, S] or None."""
    return Memory(states, None if mask is None else mask[:, 0, 0] == 0)


def _for_each_token(mask: Tensor | None, length: int) -> Tensor | None:
    # Some families check that the mask has a row for each token.
    return None if mask is None else mask.expand(-1, -1, length, -1)
