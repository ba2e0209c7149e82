"""Forgetting rejected tokens in a batch whose rows accept blocks of different sizes: three ways, timed.

python benchmarks/hugging_face_rewinding.py
python benchmarks/hugging_face_rewinding.py --batch_sizes '[4,64]' --mean_accepted 2.5 --length 200

``ours`` writes each row's entries at the row's own positions (lightning_bpd/adapters/cache.py). The others use the
library's own cache, which knows one length for all rows: ``cropped`` cuts it to the slowest row and feeds what the
faster ones had more once again; ``masked`` leaves rejected entries behind a mask, which works where a family takes
``position_ids``, and cuts off what no row accepted.

All run the same blockwise loop on the same models of random weights. Proposals are greedy's own tokens with a
probability from which the mean accepted block size follows, and wrong ones otherwise.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from blockwise_speed import Agreeing
from jsonargparse import auto_cli
from timing import interleaved_seconds, machine, markdown, write_json
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from lightning_bpd.adapters import CausalAdapter, ModelAdapter, Seq2SeqAdapter
from lightning_bpd.decoding import Exact, blockwise, greedy
from lightning_bpd.interfaces import (
    DecodeResult,
    InputError,
    Memory,
    Proposal,
    Sampler,
    TokenRows,
    VerifiedBlock,
)

Family = Literal["marian", "t5", "llama"]
END, START = 1, 2


class Silent:
    """A drafter that does nothing: what it would propose is put in its place."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size

    def start(self, source: TokenRows, max_length: int, sampler: Sampler, memory: Memory) -> None:
        """Nothing to prepare."""

    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        """Zeros."""
        return Proposal(following.new_zeros(len(following), count))

    def reorder(self, rows: Tensor) -> None:
        """Nothing is remembered."""


class LibraryRows:
    """The library's cache, the source it belongs to, and each row's number of tokens.

    Args:
        adapter: The model.
        source: Sources or prompts, all of one length.
    """

    def __init__(self, adapter: ModelAdapter, source: TokenRows) -> None:
        self.adapter = adapter
        self.memory: Tensor | None = None
        self.cache: Any = DynamicCache()
        self.prompt = 0
        """tokens of the prompt that are in the cache: all but the last, as in CausalAdapter"""
        self.unread: Tensor | None = None
        """the last tokens of prompts, int64 [B, 1], until they are fed in the place of the first of the rows"""
        if isinstance(adapter, Seq2SeqAdapter):
            self.memory, _ = adapter.encode(source)
            self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        else:
            self.prompt = source.tokens.size(1) - 1
            self.feed(source.tokens[:, :-1])
            self.unread = source.tokens[:, -1:]
        self.counts = [self.prompt] * len(source.tokens)

    def feed(self, tokens: Tensor, **places: Tensor) -> Tensor:
        """Hidden states [B, T, D] of tokens (int64 [B, T]) that come after what the cache holds."""
        if self.memory is None:
            decoder, given = self.adapter.model.base_model, dict[str, Any](places)
        else:
            decoder, given = self.adapter.model.get_decoder(), {"encoder_hidden_states": self.memory}
        given[self.adapter.cache_name] = self.cache
        output = decoder(input_ids=tokens, use_cache=True, **given)
        return output.last_hidden_state * self.adapter.projection.scale

    def read(self, tokens: Tensor) -> Tensor:
        """The tokens with the prompts' last in the place of the first, if those were not read yet."""
        if self.unread is None:
            return tokens
        tokens, self.unread = torch.cat((self.unread, tokens[:, 1:]), 1), None
        return tokens

    def keep(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        self.cache.batch_select_indices(rows)
        self.counts = [self.counts[row] for row in rows.tolist()]
        if self.memory is not None:
            self.memory = self.memory[rows]


class CroppedState:
    """All rows' entries up to the slowest row's end; what the others have more is fed again (a DecodeState)."""

    memory = Memory(torch.empty(0, 0, 0), None)  # no drafter of this benchmark looks at it

    def __init__(self, rows: LibraryRows) -> None:
        self.rows = rows
        self.held = rows.prompt
        self.filled = rows.prompt
        self.known: list[list[int]] = [[] for _ in rows.counts]
        """tokens of each row from position ``held`` on"""

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tokens of each row."""
        return torch.tensor(self.rows.counts) - self.rows.prompt

    def rewind(self, lengths: Tensor) -> None:
        """Forget all past ``lengths[b]``."""
        counts = (lengths + self.rows.prompt).tolist()
        slowest = min(counts)
        self.rows.cache.crop(slowest - self.filled)
        self.known = [
            tokens[slowest - self.held : count - self.held]
            for tokens, count in zip(self.known, counts, strict=True)
        ]
        self.rows.counts, self.held, self.filled = counts, slowest, slowest

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        self.known = [self.known[row] for row in rows.tolist()]
        self.rows.keep(rows)


class MaskedState:
    """Entries of all calls one after another, rejected ones hidden (a DecodeState)."""

    memory = Memory(torch.empty(0, 0, 0), None)  # no drafter of this benchmark looks at it

    def __init__(self, rows: LibraryRows) -> None:
        self.rows = rows
        count = len(rows.counts)
        self.positions = torch.arange(rows.prompt).expand(count, -1)
        """int64 [B, entries], the position of each entry in its row"""
        self.seen = torch.ones(count, rows.prompt, dtype=torch.bool)

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tokens of each row."""
        return torch.tensor(self.rows.counts) - self.rows.prompt

    def rewind(self, lengths: Tensor) -> None:
        """Forget all past ``lengths[b]``."""
        counts = lengths + self.rows.prompt
        self.seen = self.seen & (self.positions < counts[:, None])
        used = int(self.seen.any(0).nonzero()[-1]) + 1
        self.rows.cache.crop(used - self.seen.size(1))
        self.seen, self.positions = self.seen[:, :used], self.positions[:, :used]
        self.rows.counts = counts.tolist()

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        self.seen, self.positions = self.seen[rows], self.positions[rows]
        self.rows.keep(rows)


class LibraryModel:
    """A model whose rows share the library's own cache (a SequenceModel). Sources are of one length.

    Args:
        adapter: The model as the project adapts it: encoder, projection and start token are its own.
        masked: Whether rejected entries are masked; else the cache is cropped.
    """

    def __init__(self, adapter: ModelAdapter, masked: bool) -> None:
        self.adapter = adapter
        self.masked = masked
        self.bos_id, self.ends, self.max_length = adapter.bos_id, adapter.ends, adapter.max_length
        self.project = adapter.project

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int) -> CroppedState | MaskedState:
        """Encode each source once (SequenceModel.start); decoded rows are one a source."""
        assert rows is None
        begun = LibraryRows(self.adapter, source)
        return MaskedState(begun) if self.masked else CroppedState(begun)

    def step(self, tokens: Tensor, state: Any) -> Tensor:
        """Append tokens (int64 [B, T]) to each row; returns hidden states [B, T, D] (SequenceModel.step)."""
        tokens = state.rows.read(tokens)
        append = _append_masked if self.masked else _append_cropped
        return append(tokens, state)


def _append_masked(tokens: Tensor, state: MaskedState) -> Tensor:
    rows = state.rows
    positions = torch.tensor(rows.counts)[:, None] + torch.arange(tokens.size(1))
    state.positions = torch.cat((state.positions, positions), 1)
    state.seen = torch.cat((state.seen, torch.ones_like(tokens, dtype=torch.bool)), 1)
    hidden = rows.feed(tokens, position_ids=positions, attention_mask=state.seen.long())
    rows.counts = [count + tokens.size(1) for count in rows.counts]
    return hidden


def _append_cropped(tokens: Tensor, state: CroppedState) -> Tensor:
    rows = state.rows
    again = torch.tensor([len(known) for known in state.known])
    state.known = [known + new for known, new in zip(state.known, tokens.tolist(), strict=True)]
    # Causal attention hides what is right of a row's end, and the next rewind forgets it.
    hidden = rows.feed(pad_sequence([torch.tensor(known) for known in state.known], batch_first=True))
    state.filled = state.held + hidden.size(1)
    rows.counts = [state.held + len(known) for known in state.known]
    places = again[:, None] + torch.arange(tokens.size(1))
    return hidden[torch.arange(len(tokens))[:, None], places]


def random_model(family: Family, width: int, vocabulary: int, positions: int) -> ModelAdapter:
    """An adapter of random weights: 3 layers, or Llama's 4. Its end token is suppressed, so that rows are all full."""
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "eos_token_id": END, "decoder_start_token_id": START}
    heads, inner = 4, 4 * width
    if family == "t5":
        config = transformers.T5Config(
            vocab_size=vocabulary, d_model=width, d_kv=width // heads, d_ff=inner, num_layers=3, num_heads=heads, **ids
        )  # fmt: skip
        model = transformers.T5ForConditionalGeneration(config)
    elif family == "marian":
        config = transformers.MarianConfig(
            vocab_size=vocabulary, decoder_vocab_size=vocabulary, d_model=width, encoder_layers=3, decoder_layers=3,
            encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=inner,
            decoder_ffn_dim=inner, max_position_embeddings=positions, init_std=0.05, scale_embedding=True, **ids,
        )  # fmt: skip
        model = transformers.MarianMTModel(config)
    else:
        config = transformers.LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=4,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=2 * positions,
            initializer_range=0.1, bos_token_id=START, eos_token_id=END,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
    # An output layer of its own: with a tied one random weights predict the token that they read, for ever.
    model.get_output_embeddings().weight = torch.nn.Parameter(torch.randn(vocabulary, width))
    model.generation_config.suppress_tokens = [END]
    model.generation_config.forced_eos_token_id = None
    model.eval()
    return Seq2SeqAdapter(model) if config.is_encoder_decoder else CausalAdapter(model)


def agreement_for(mean: float, block_size: int) -> float:
    """The probability of a right proposal at which blocks of ``block_size`` have this mean accepted size."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        too_small = sum(middle**place for place in range(block_size)) < mean
        low, high = (middle, high) if too_small else (low, middle)
    return (low + high) / 2


def measure(
    adapter: ModelAdapter,
    batch_size: int,
    block_size: int,
    agreement: float,
    source_length: int,
    length: int,
    repeats: int,
    seed: int,
) -> list[dict[str, Any]]:
    """One entry a way of forgetting."""
    vocabulary = len(adapter.output_weight)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(START + 1, vocabulary, (batch_size, source_length), generator=generator)
    source = TokenRows(tokens, torch.full((batch_size,), source_length))
    extra = length - source_length
    known = greedy(adapter, source, extra)
    models: dict[str, Any] = {"ours": adapter, "cropped": LibraryModel(adapter, masked=False)}
    if isinstance(adapter, CausalAdapter):
        models["masked"] = LibraryModel(adapter, masked=True)
    results: dict[str, DecodeResult] = {}

    def decode(name: str) -> None:
        drafter = Agreeing(Silent(block_size), known, agreement, vocabulary, seed)
        results[name] = blockwise(models[name], drafter, source, block_size, Exact(), extra)

    arms = {name: partial(decode, name) for name in models}
    seconds = interleaved_seconds(arms, repeats, torch.device("cpu"))
    entries = []
    for name, result in results.items():
        assert result.accepted is not None
        entries.append(
            {
                "way": name,
                "batch size": batch_size,
                "seconds": seconds[name],
                "times as long as ours": statistics.median(
                    own / ours for own, ours in zip(seconds[name], seconds["ours"], strict=True)
                ),
                "mean accepted block size": int(result.lengths.sum()) / int((result.accepted > 0).sum()),
                "rows equal to greedy": sum(map(list.__eq__, result.rows(), known.rows())),
            }
        )
    return entries


def main(
    families: Sequence[Family] = ("marian", "t5", "llama"),
    batch_sizes: Sequence[int] = (1, 16),
    block_size: int = 5,
    mean_accepted: float = 3.0,
    source_length: int = 24,
    length: int = 128,
    width: int = 256,
    vocabulary: int = 4000,
    threads: int = 1,
    repeats: int = 5,
    seed: int = 1,
    json: Path | None = None,
) -> None:
    """Time three ways of forgetting rejected tokens, in float32 on the CPU.

    Args:
        families: Models of 3 layers, Llama of 4.
        batch_sizes: Rows decoded together.
        block_size: Tokens verified in one call.
        mean_accepted: Tokens that a block adds on average, 1 to ``block_size``.
        source_length: Tokens of each source or prompt.
        length: Tokens of each decoded row, at least ``source_length``.
        width: Of hidden states.
        vocabulary: Tokens.
        threads: CPU threads.
        repeats: Timed runs of each way.
        seed: Decides sources and which proposals are right.
        json: Where to write the numbers as well.
    """
    if not 1 <= mean_accepted <= block_size or length < source_length:
        raise InputError(
            f"mean_accepted must be 1 to block_size and length at least source_length, not {mean_accepted} of "
            f"{block_size} and {length} of {source_length}"
        )
    torch.set_num_threads(threads)
    agreement = agreement_for(mean_accepted, block_size)
    results = []
    for family in families:
        adapter = random_model(family, width, vocabulary, 2 * (length + block_size))
        for batch_size in batch_sizes:
            entries = measure(
                adapter, batch_size, block_size, agreement, source_length, length, repeats, seed
            )
            results += [{"model": family, **entry} for entry in entries]
    print(f"{machine(torch.device('cpu'))}, rows of {length} tokens, k = {block_size}, {repeats} repeats\n")
    header = [name for name in results[0] if name != "seconds"]
    print(markdown([*header, "seconds (median)"], [_cells(entry, header) for entry in results]))
    settings = {"block_size": block_size, "mean_accepted": mean_accepted, "length": length, "width": width}
    write_json(json, {"machine": machine(torch.device("cpu")), **settings, "results": results})


def _cells(entry: dict[str, Any], header: Sequence[str]) -> list[str]:
    cells = [f"{entry[name]:.2f}" if isinstance(entry[name], float) else str(entry[name]) for name in header]
    return [*cells, f"{statistics.median(entry['seconds']):.3f}"]


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
