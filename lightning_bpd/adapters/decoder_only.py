"""Decoder-only models of Hugging Face (AutoModelForCausalLM) as SequenceModels: the prompt is the source."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from lightning_bpd.adapters.base import Adapter, RowState, readable
from lightning_bpd.adapters.cache import RowCache, cache_name
from lightning_bpd.adapters.examination import check_histories, examined, random_tokens
from lightning_bpd.adapters.generation import setting
from lightning_bpd.adapters.projection import family, find_projection
from lightning_bpd.interfaces import InputError, Memory, Reading, TokenRows
from lightning_bpd.rows import Causal, Rows, Slots, Visible, Window, inside

TESTED = frozenset(
    {
        "cohere",
        "gemma2",
        "gpt2",
        "gpt_neox",
        "gptj",
        "granite",
        "llama",
        "mistral",
        "opt",
        "phi",
        "qwen2",
        "qwen3",
    }
)
"""families (model_type) for which the test suite holds blockwise = greedy = generate"""


class PromptState(RowState):
    """Cached self-attention of each row, with its prompt up to the last token but one (a DecodeState)."""

    def __init__(self, cache: RowCache, prefix: list[int], last: Tensor, memory: Memory) -> None:
        super().__init__(cache, prefix)
        self.last, self.memory = last, memory

    def reorder(self, rows: Tensor) -> None:
        """Replace row i by row ``rows[i]`` (int64 [B'])."""
        super().reorder(rows)
        self.last = self.last.index_select(0, rows)


class CausalAdapter(Adapter):
    """A decoder-only model of Hugging Face as a SequenceModel. Sources are prompts, and rows are their completions.

    ``start`` feeds each prompt but its last token. The model reads the last token of the prompt instead of the first
    token of the row, ``bos_id``, which it never reads. So the first call predicts the token after the prompt, and a
    row's length counts from there, as in any other model.

    Prompt and row share the model's positions. All rows have one length limit, so the positions are divided once:
    prompts longer than ``longest_prompt`` are refused, and rows may fill the remaining positions.

    Hidden states are multiplied by the scale that the family applies to its logits (Granite, Cohere). So their product
    with ``output_weight`` gives the logits, except for ``output_bias`` and a cap.

    Args:
        model: A model that ``AutoModelForCausalLM`` loads, with its ``generation_config``.
        eos_id: The token that ends a row; by default the model's own.
        longest_prompt: The longest prompt, in tokens; by default half of the model's positions.

    Attributes:
        tested: Whether the test suite covers the family. Other families passed only the check of the constructor:
            logits with the cache, after feeding, rewinding and reordering ragged rows of random tokens, equal logits
            without a cache.

    Raises:
        InputError: The model cannot be decoded exactly; the message says what is missing.
    """

    def __init__(self, model: Any, eos_id: int | None = None, longest_prompt: int | None = None) -> None:
        if model.config.is_encoder_decoder:
            raise InputError(f"{family(model)} is an encoder-decoder: use Seq2SeqAdapter")
        super().__init__(model, eos_id)
        self.tested = model.config.model_type in TESTED
        start = setting(model, "bos_token_id")
        self.bos_id = self.eos_id if start is None else int(start)
        if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
            raise InputError(
                f"{family(model)} cannot be a base: it takes no position_ids, which rows of different lengths need"
            )
        self.cache_name = cache_name(model.base_model)
        config = model.config.get_text_config(decoder=True)
        self.visible = _visible(model, config)
        self.positions = _position_limit(config)
        if longest_prompt is None and self.positions is not None:
            longest_prompt = max(1, self.positions // 2)
        if longest_prompt is not None and not 1 <= longest_prompt <= (self.positions or longest_prompt):
            raise InputError(
                f"longest_prompt must be 1 to the {self.positions} positions of {family(model)}, not {longest_prompt}"
            )
        self.longest_prompt = longest_prompt
        with examined(model):
            self._examine()

    @property
    def max_length(self) -> int | None:
        """The longest row that the model can decode, in tokens; None for no limit."""
        if self.positions is None or self.longest_prompt is None:
            return None
        # The last token of the prompt is fed as the row's first, and the row's last is never fed.
        return self.positions - self.longest_prompt + 1

    @property
    def longest_source(self) -> int | None:
        """The longest prompt, in tokens; None for no limit."""
        return self.longest_prompt

    @torch.no_grad()
    def bytes_per_token(self) -> int:
        """Compute the bytes that a token of one row takes in the cache."""
        prompt = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        return self.begin(TokenRows(prompt, prompt[:, 0] + 2), None, 1).cache.bytes_per_token

    def read(self, source: TokenRows, target: Tensor) -> Reading:
        """Compute what ``forward`` returns, and the hidden states of the prompts.

        The first input of each row is not read.

        Padding at the right end of ``target`` needs no mask: no earlier position can see it.
        """
        self._check_prompts(source)
        lengths = source.lengths[:, None]
        width = source.tokens.size(1)
        # Each target follows its prompt directly, so all padding is at the right end.
        positions = torch.arange(width + target.size(1) - 1, device=target.device)
        after = (positions - lengths + 1).clamp(min=0, max=target.size(1) - 1)
        prompts = torch.nn.functional.pad(source.tokens, (0, target.size(1) - 1))
        tokens = torch.where(positions < lengths, prompts, target.gather(1, after))
        slots = Rows(len(tokens), len(positions), positions.device).take(len(positions))
        hidden = self._body(tokens, slots, None)
        rows = torch.arange(len(target), device=target.device)[:, None]
        of_target = hidden[rows, lengths - 1 + torch.arange(target.size(1), device=target.device)]
        return Reading(of_target, _memory(hidden[:, : width - 1], source))

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> PromptState:
        """Preallocate the cache, and read each prompt once but for its last token (SequenceModel.start)."""
        self._check_prompts(source)
        return self.begin(source, rows, max_length)

    def begin(self, source: TokenRows, rows: Tensor | None, max_length: int) -> PromptState:
        """Do as ``start``, for prompts of any length."""
        tokens, lengths = source
        read = int(lengths.max()) - 1
        cache = RowCache(len(tokens), read + max_length, tokens.device)
        weight = self.output_weight
        hidden = weight.new_zeros(len(tokens), 0, weight.size(1) * (1 + len(self.returned_layers)))
        if read:
            filled, _ = readable(TokenRows(tokens, lengths - 1), read, 0)
            hidden = self._body(filled, cache.begin(read), cache)
            cache.end(read)
        prefix = (lengths - 1).tolist()
        cache.rows.rewind(prefix)
        state = PromptState(
            cache, prefix, tokens.gather(1, lengths[:, None] - 1)[:, 0], _memory(hidden, source)
        )
        if rows is not None:
            state.reorder(rows)
        return state

    def step(self, tokens: Tensor, state: PromptState) -> Tensor:
        """Append tokens (int64 [B, T]) to each row; return hidden states [B, T, D] (SequenceModel.step)."""
        unread = [count == 0 for count in state.counts]
        if any(unread):
            begins = torch.tensor(unread, device=tokens.device)
            first = torch.where(begins, state.last, tokens[:, 0])
            tokens = torch.cat((first[:, None], tokens[:, 1:]), 1)
        hidden = self._body(tokens, state.cache.begin(tokens.size(1)), state.cache)
        state.cache.end(tokens.size(1))
        return hidden

    def _body(self, tokens: Tensor, call: Slots, cache: RowCache | None) -> Tensor:
        dtype, rows = self.output_weight.dtype, len(tokens)
        masks = {
            kind: call.mask(visible, dtype).expand(rows, -1, -1, -1) for kind, visible in self.visible.items()
        }
        # A block may extend past the last position. Decoding drops these tokens, so they may have any position.
        positions = call.positions if self.positions is None else call.positions.clamp(max=self.positions - 1)
        outputs = self.model.base_model(
            input_ids=tokens,
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            position_ids=positions.expand(rows, -1),
            use_cache=cache is not None,
            output_hidden_states=bool(self.returned_layers),
            **{self.cache_name: cache},
        )
        return self.hidden_states(outputs)

    def _check_prompts(self, source: TokenRows) -> None:
        if self.longest_prompt is None or source.tokens.size(1) <= self.longest_prompt:
            return
        if (longest := int(source.lengths.max())) > self.longest_prompt:
            raise InputError(
                f"a prompt of {longest} tokens is longer than longest_prompt = {self.longest_prompt}: shorten it, or "
                f"give more of the model's {self.positions} positions to prompts"
            )

    def _examine(self) -> None:
        """Learn the projection, and compare logits with and without the cache.

        Raises:
            InputError: The model cannot be decoded exactly.
        """
        vocabulary = len(self.output_weight)
        lengths = torch.tensor([3, 5], device=self.device)
        if self.longest_prompt is not None:
            lengths = lengths.clamp(max=self.longest_prompt)
        source = TokenRows(random_tokens(2, int(lengths.max()), vocabulary, 0, self.device), lengths)
        target = random_tokens(2, 6, vocabulary, 1, self.device)
        logits, hidden = [], []
        for row, length in enumerate(lengths.tolist()):
            whole = torch.cat((source.tokens[row, :length], target[row, 1:]))[None]
            # One row without padding, mask and cache: the model's own behaviour.
            hidden.append(
                self.model.base_model(input_ids=whole, use_cache=False).last_hidden_state[0, length - 1 :]
            )
            logits.append(self.model(input_ids=whole, use_cache=False).logits[0, length - 1 :])
        self.projection = find_projection(self.model, torch.stack(hidden), torch.stack(logits))
        check_histories(self, source, target, torch.stack(logits))


def _memory(hidden: Tensor, source: TokenRows) -> Memory:
    """The hidden states [B, S, D] of prompts, without the last token of each, and the tokens after them."""
    states = hidden.size(1)
    present = inside(source.lengths - 1, states)
    return Memory(hidden, present, source.tokens[:, 1 : states + 1].masked_fill(~present, 0))


def _visible(model: Any, config: Any) -> dict[str, Visible]:
    """The positions that each kind of layer may see."""
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    visible = {
        "full_attention": Causal(),
        "sliding_attention": Causal() if window is None else Window(window),
    }
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return {"": visible["sliding_attention"]}
    if unknown := sorted(set(kinds) - set(visible)):
        raise InputError(
            f"{family(model)} cannot be a base: it has layers of {', '.join(unknown)}, whose state cannot be "
            "rewound row by row"
        )
    return {kind: visible[kind] for kind in sorted(set(kinds))}


def _position_limit(config: Any) -> int | None:
    """The number of positions whose encoding does not depend on the length of the row; None for no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    rotary = getattr(config, "rope_parameters", None) or {}
    # Beyond the original length, other frequencies apply to the whole batch.
    original = getattr(config, "original_max_position_embeddings", None) or (
        rotary.get("original_max_position_embeddings")
    )
    if rotary.get("rope_type") in ("longrope", "dynamic") and original is not None:
        return int(original) if limit is None else min(limit, int(original))
    return limit
