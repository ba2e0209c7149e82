"""The arguments that transformers' ``generate`` passes to a ``custom_generate``, as a SequenceModel, and its output.

Honoured: any batch, attention masks, ``decoder_input_ids``, ``max_length``, ``max_new_tokens``, any number of end
tokens, ``forced_bos_token_id``, ``forced_eos_token_id``, ``suppress_tokens``, ``bad_words_ids`` of one token each,
``renormalize_logits``, which changes no order, ``do_sample`` with ``temperature``, ``top_k`` and ``top_p``, and
``return_dict_in_generate``. Every other argument that could change the tokens is refused by name. A streamer is
refused, too, if it arrives: transformers 5.23 does not pass it on, and gives it the prompt only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.generation import (
    EosTokenCriteria,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitNormalization,
    MaxLengthCriteria,
    NoBadWordsLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import ModelOutput

from lightning_bpd.adapters.base import RowState
from lightning_bpd.adapters.decoder_only import CausalAdapter
from lightning_bpd.adapters.encoder_decoder import Seq2SeqAdapter, hiding
from lightning_bpd.adapters.generation import in_vocabulary, setting
from lightning_bpd.adapters.loading import ModelAdapter
from lightning_bpd.adapters.projection import family
from lightning_bpd.interfaces import DecodeResult, InputError, TokenRows

# Arguments for the model's forward that are used here, or that hold nothing new.
_KNOWN = {
    "attention_mask",
    "cache",
    "encoder_outputs",
    "logits_to_keep",
    "output_attentions",
    "output_hidden_states",
    "past_key_values",
    "position_ids",
    "use_cache",
}


@dataclass
class BlockwiseOutput(ModelOutput):
    """The output of ``generate(return_dict_in_generate=True)``."""

    sequences: Tensor | None = None
    """int64 [B, L], the given and the generated tokens, padded at the right"""
    calls: Tensor | None = None
    """int64 [B], decoder calls that each row took part in, without the reading of the prompt"""
    accepted: Tensor | None = None
    """int64 [B, I], the accepted block size of each iteration; 0 after a row's last one"""


def adopt(model: Any) -> ModelAdapter:
    """Return an adapter of a model that transformers has loaded, without copying its weights.

    Raises:
        InputError: The model is not from transformers, is in training mode, or cannot be decoded exactly.
    """
    if not isinstance(model, transformers.PreTrainedModel):
        raise InputError(
            f"a {type(model).__name__} is not a model of transformers: pass a model that from_pretrained returned"
        )
    _check_mode(model)
    # Each call of generate names its end tokens and its rules anew.
    ends = setting(model, "eos_token_id")
    first = ends[0] if isinstance(ends, list | tuple) else ends
    kind = Seq2SeqAdapter if model.config.is_encoder_decoder else CausalAdapter
    return kind(model, eos_id=-1 if first is None else int(first))


class Continuation:
    """Rows that continue given tokens: a SequenceModel for one decoding, which encodes nothing.

    Args:
        adapter: The model.
        begin: Makes the state that has read all given tokens but the last of each row.
        last: int64 [B], the last given token. It replaces the first token that decoding feeds.
        suppressed: Tokens that are never generated.
        ends: Tokens that end a row.
        max_length: The most tokens of a row.
    """

    bos_id = 0

    def __init__(
        self,
        adapter: ModelAdapter,
        begin: Callable[[int], RowState],
        last: Tensor,
        suppressed: list[int],
        ends: Iterable[int],
        max_length: int,
    ) -> None:
        self.adapter = adapter
        self.begin = begin
        self.last: Tensor | None = last
        self.suppressed = torch.tensor(suppressed, dtype=torch.long, device=last.device)
        self.ends = frozenset(ends)
        self.max_length = max_length

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> RowState:
        """Return the state of all rows; ``source`` is not read (SequenceModel.start)."""
        return self.begin(max_length)

    def step(self, tokens: Tensor, state: RowState) -> Tensor:
        """Append tokens (int64 [B, T]) to each row; return hidden states [B, T, D] (SequenceModel.step)."""
        if self.last is not None:
            tokens, self.last = torch.cat((self.last[:, None], tokens[:, 1:]), 1), None
        model: Any = self.adapter
        return model.step(tokens, state)

    def project(self, hidden: Tensor) -> Tensor:
        """Project hidden states [..., D] to the model's logits [..., V], with -inf for suppressed tokens."""
        return self.adapter.plain_logits(hidden).index_fill(-1, self.suppressed, -torch.inf)


class Request:
    """One call of ``generate``, up to its decoding loop.

    Args:
        adapter: The model.
        input_ids: int64 [B, P], the first tokens of every row: padded prompts, or the decoder's first tokens.
        logits_processor: As ``generate`` has prepared them.
        stopping_criteria: Likewise.
        generation_config: Likewise.
        given: Likewise, the arguments for the model's forward.

    Attributes:
        ends: Tokens that end a row.
        sample: Whether tokens are drawn at random.
        sampling: Temperature, top_k and top_p, if they are given.
        room: Tokens that a row may have after the given and forced ones; 0 if nothing is left to decode.

    Raises:
        InputError: The call asks for something that blockwise decoding does not do.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        input_ids: Tensor,
        logits_processor: Iterable[Any],
        stopping_criteria: Iterable[Any],
        generation_config: Any,
        given: Mapping[str, Any],
    ) -> None:
        _check_mode(adapter.model)
        _check_settings(generation_config)
        _check_given(given)
        self.adapter, self.given = adapter, given
        self.home = input_ids.device
        self.rows = input_ids.to(adapter.device)
        self.limit, self.ends = _limits(stopping_criteria)
        self.sample = bool(generation_config.do_sample)
        self.sampling: dict[str, Any] = {}
        self.suppressed: list[int] = []
        self.forced_last: int | None = None
        forced = self._rules(logits_processor)
        if forced is not None and input_ids.size(1) == 1:
            if isinstance(adapter, CausalAdapter):
                raise InputError("forced_bos_token_id is for encoder-decoders: leave it out")
            self.rows = torch.cat((self.rows, torch.full_like(self.rows, forced)), 1)
        else:
            forced = None
        self.room = 0 if forced in self.ends else self.limit - self.rows.size(1)
        padding = generation_config.pad_token_id
        self.padding = next(iter(self.ends), 0) if padding is None else int(padding)
        self.full = generation_config.return_dict_in_generate

    def continuation(self) -> Continuation:
        """Return the model that decodes the rest of each row.

        Raises:
            InputError: A row has no tokens, or as many as the model has positions.
        """
        adapter, mask = self.adapter, self.given.get("attention_mask")
        if isinstance(adapter, Seq2SeqAdapter):
            begin, last, positions = self._encoded(adapter, mask)
        else:
            begin, last, positions = self._prompts(adapter, mask)
        if positions is not None and positions < 1:
            raise InputError(f"the prompts fill all positions of {family(adapter.model)}: shorten them")
        room = self.room if positions is None else min(self.room, positions)
        return Continuation(adapter, begin, last, self.suppressed, self.ends, room)

    def output(self, result: DecodeResult | None) -> Tensor | BlockwiseOutput:
        """Make the output of ``generate`` from the decoded rows, which are None if there was no room.

        Raises:
            InputError: A row ran out of the model's positions.
        """
        count = len(self.rows)
        tokens, lengths = self.rows.new_empty(count, 0), self.rows.new_zeros(count)
        calls, accepted = lengths, tokens
        if result is not None:
            tokens, lengths = result.tokens, result.lengths
            assert result.accepted is not None
            # Clones made outside inference mode are ordinary tensors for the caller.
            calls, accepted = result.calls.clone(), result.accepted.clone()
        inside = torch.arange(tokens.size(1), device=tokens.device) < lengths[:, None]
        sequences = torch.cat((self.rows, tokens.masked_fill(~inside, self.padding)), 1)
        at_limit = self.rows.size(1) + lengths == self.limit
        if result is not None and not at_limit.all():
            self._check_ended(tokens.gather(1, lengths[:, None] - 1)[~at_limit])
        if self.forced_last is not None and sequences.size(1) == self.limit:
            sequences[:, -1] = torch.where(at_limit, self.forced_last, sequences[:, -1])
        sequences = sequences.to(self.home)
        if not self.full:
            return sequences
        return BlockwiseOutput(sequences, calls.to(self.home), accepted.to(self.home))

    def _check_ended(self, newest: Tensor) -> None:
        if not set(newest.flatten().tolist()) <= set(self.ends):
            raise InputError(
                f"a row has reached the last position of {family(self.adapter.model)} without an end token: shorten "
                "the prompts, or give a smaller max_new_tokens"
            )

    def _rules(self, processors: Iterable[Any]) -> int | None:
        """Store the rules that change logits; return the token that every row begins with, if there is one."""
        first = None
        suppressed: list[int] = []
        for processor in processors:
            if type(processor) is LogitNormalization:
                # It subtracts one number from all logits of a position.
                continue
            if type(processor) is TemperatureLogitsWarper:
                self.sampling["temperature"] = float(processor.temperature)
            elif type(processor) is TopKLogitsWarper:
                self.sampling["top_k"] = int(processor.top_k)
            elif type(processor) is TopPLogitsWarper:
                self.sampling["top_p"] = float(processor.top_p)
            elif type(processor) is SuppressTokensLogitsProcessor:
                suppressed += torch.as_tensor(processor.suppress_tokens).tolist()
            elif type(processor) is NoBadWordsLogitsProcessor and all(
                len(word) == 1 for word in processor.sequence_bias
            ):
                suppressed += [word[0] for word in processor.sequence_bias]
            elif type(processor) is ForcedBOSTokenLogitsProcessor:
                first = int(processor.bos_token_id)
            elif type(processor) is ForcedEOSTokenLogitsProcessor and processor.max_length >= self.limit:
                if processor.max_length == self.limit:
                    self.forced_last = int(processor.eos_token_id.min())
            else:
                raise InputError(
                    f"generate was asked for {type(processor).__name__}, which depends on more than the last hidden "
                    "state: leave out the argument that asks for it (such as min_length, repetition_penalty, "
                    "no_repeat_ngram_size, logits_processor)"
                )
        self.suppressed = in_vocabulary(suppressed, len(self.adapter.output_weight))
        return first

    def _encoded(
        self, adapter: Seq2SeqAdapter, mask: Tensor | None
    ) -> tuple[Callable[[int], RowState], Tensor, int | None]:
        """For encoded sources: the function that makes the state, the token fed first, and the positions left."""
        memory = self.given["encoder_outputs"][0].to(adapter.device)
        hidden = None
        if mask is not None and not bool((inside := mask.to(adapter.device) != 0).all()):
            _check_rows(inside)
            hidden = hiding(inside, memory.dtype)
        prefix, last = self.rows[:, :-1], self.rows[:, -1]
        limit = adapter.positions.limit
        return (
            lambda length: adapter.begin(memory, hidden, None, prefix, length),
            last,
            None if limit is None else limit - prefix.size(1),
        )

    def _prompts(
        self, adapter: CausalAdapter, mask: Tensor | None
    ) -> tuple[Callable[[int], RowState], Tensor, int | None]:
        """For prompts, padded at any side: the function that makes the state, the token fed first, positions left."""
        inside = torch.ones_like(self.rows) if mask is None else (mask.to(adapter.device) != 0).long()
        _check_rows(inside)
        positions = self.given.get("position_ids")
        expected = (inside.cumsum(1) - 1).masked_fill(inside == 0, 0)
        if positions is not None and not torch.equal(positions.to(expected).expand_as(expected), expected):
            raise InputError(
                "position_ids that differ from those of the attention mask are not supported: leave them out"
            )
        # Move the tokens inside the mask to the left end, in their order.
        packed = self.rows.gather(1, inside.argsort(dim=1, descending=True, stable=True))
        lengths = inside.sum(1)
        longest = int(lengths.max())
        source = TokenRows(packed[:, :longest], lengths)
        return (
            lambda length: adapter.begin(source, None, length),
            packed.gather(1, lengths[:, None] - 1)[:, 0],
            None if adapter.positions is None else adapter.positions - longest + 1,
        )


def _check_mode(model: Any) -> None:
    if model.training:
        raise InputError(f"{family(model)} is in training mode, with dropout: call model.eval() first")


def _check_settings(config: Any) -> None:
    """Refuse settings of generate that ask for another algorithm, or for outputs that blocks do not have."""
    mode = config.get_generation_mode()
    if mode not in ("greedy_search", "sample"):
        raise InputError(
            f"generate was asked for {mode.replace('_', ' ')}, but decoding by blocks is greedy or samples: give "
            "num_beams=1, and leave out the arguments of other decoding methods"
        )
    if (config.num_return_sequences or 1) > 1:
        raise InputError(
            f"num_return_sequences is {config.num_return_sequences}, but decoding by blocks finds one: leave it out, "
            "or repeat the inputs"
        )
    outputs = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
    if config.return_dict_in_generate and (
        requested := [name for name in outputs if getattr(config, name, None)]
    ):
        raise InputError(
            f"{requested[0]} is not available: decoding by blocks has no outputs per token: leave it out"
        )


def _check_given(given: Mapping[str, Any]) -> None:
    """Refuse unknown arguments of the model's forward."""
    for name, value in given.items():
        if name not in _KNOWN and value is not None and value is not False:
            raise InputError(
                f"generate was given {name}, which blockwise decoding does not take: leave it out"
            )
    for name in ("cache", "past_key_values"):  # since transformers 5.24, and before
        if (cache := given.get(name)) is not None and cache.get_seq_length() > 0:
            raise InputError(
                f"{name} is not empty, but decoding by blocks fills a cache of its own: leave it out"
            )


def _check_rows(inside: Tensor) -> None:
    if not bool((inside != 0).any(1).all()):
        raise InputError("attention_mask hides a whole row: leave the row out")


def _limits(criteria: Iterable[Any]) -> tuple[int, tuple[int, ...]]:
    """The longest row in tokens, given ones included; and all tokens that end a row, of which the first one pads."""
    lengths: list[int] = []
    ends: list[int] = []
    for criterion in criteria:
        if type(criterion) is MaxLengthCriteria:
            lengths.append(int(criterion.max_length))
        elif type(criterion) is EosTokenCriteria:
            ends += criterion.eos_token_id.tolist()
        else:
            raise InputError(
                f"generate was asked to stop by {type(criterion).__name__}, which looks at more than length and end "
                "tokens: leave out the argument that asks for it (such as max_time, stop_strings, stopping_criteria)"
            )
    if not lengths:
        raise InputError("generate was given no length limit: give max_new_tokens")
    return min(lengths), tuple(ends)
