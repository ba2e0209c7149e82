"""Tiny random models of Hugging Face's families, float64, built offline; and what their own generate makes of them."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
import logging
from typing import Any

import torch
import transformers
from torch import Tensor

from lightning_bpd.adapters import CausalAdapter, Seq2SeqAdapter
from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.interfaces import TokenRows

VOCABULARY, EOS = 9, 2
POSITIONS = 40

_BART: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "init_std": 0.3,
    "max_position_embeddings": POSITIONS, "pad_token_id": 1, "bos_token_id": 0, "decoder_start_token_id": 2,
}  # fmt: skip
_T5: dict[str, Any] = {
    "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2,
    "pad_token_id": 0, "decoder_start_token_id": 0, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}  # fmt: skip
_LLAMA: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": POSITIONS, "pad_token_id": 0,
    "bos_token_id": 1, "initializer_range": 0.7,
}  # fmt: skip
_GPT: dict[str, Any] = {
    "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS, "bos_token_id": 1,
    "initializer_range": 0.7,
}  # fmt: skip
_TWO_KINDS = ["sliding_attention", "full_attention"]

SEQ2SEQ: dict[str, dict[str, Any]] = {
    "bart": _BART,
    "blenderbot": _BART,
    "m2m_100": _BART,
    "marian": _BART | {"decoder_vocab_size": VOCABULARY, "decoder_start_token_id": 1},
    "mbart": _BART,
    "mt5": _T5,
    "pegasus": _BART | {"decoder_start_token_id": 1},
    "plbart": _BART,
    "t5": _T5,
}
CAUSAL: dict[str, dict[str, Any]] = {
    "cohere": _LLAMA | {"logit_scale": 0.3},
    "gemma2": _LLAMA | {"sliding_window": 3, "layer_types": _TWO_KINDS, "final_logit_softcapping": 2.0},
    "gpt2": _GPT,
    "gpt_neox": _LLAMA,
    "gptj": _GPT | {"rotary_dim": 4},
    "granite": _LLAMA | {"logits_scaling": 3.0},
    "llama": _LLAMA,
    "mistral": _LLAMA | {"sliding_window": 3},
    "opt": _LLAMA | {"ffn_dim": 16, "word_embed_proj_dim": 12, "init_std": 0.7},
    "phi": _LLAMA,
    "qwen2": _LLAMA
    | {"use_sliding_window": True, "sliding_window": 4, "layer_types": _TWO_KINDS, "max_window_layers": 1},
    "qwen3": _LLAMA,
}
FAMILIES = [*SEQ2SEQ, *CAUSAL]

logging.getLogger("transformers").setLevel(logging.ERROR)


def bare(family: str, seed: int = 0, **settings: Any) -> Any:
    """The Hugging Face model, with random biases, which begin as zeros, and a projection that gives varied rows."""
    torch.manual_seed(seed)
    known = SEQ2SEQ.get(family) or CAUSAL[family]
    settings = {"vocab_size": VOCABULARY, "eos_token_id": EOS, "forced_eos_token_id": None} | known | settings
    if family in CAUSAL:
        del settings["forced_eos_token_id"]
    config = transformers.AutoConfig.for_model(family, **settings)
    kind = transformers.AutoModelForSeq2SeqLM if family in SEQ2SEQ else transformers.AutoModelForCausalLM
    model = kind.from_config(config).double().eval()
    model.generation_config.encoder_no_repeat_ngram_size = None  # Blenderbot's
    with torch.no_grad():
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("bias") and values.is_floating_point():
                values.normal_(std=0.2)
            # T5's own beginnings hardly look back.
            if "relative_attention_bias" in name:
                values.normal_(std=2.0)
            # Of the source less is seen than of the row's own tokens, or every token would be the same.
            if "encoder_attn.out_proj" in name or "EncDecAttention.o" in name:
                values.mul_(0.2)
        _vary(model)
    return model


def _vary(model: Any) -> None:
    """Give the model a projection of its own that does not see what all hidden states have in common.

    Of that is most of a random network's output made, and rows would repeat one token.
    """
    head, seen = model.get_output_embeddings(), []
    handle = head.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].flatten(0, 1)))
    tokens = torch.randint(3, VOCABULARY, (8, 12))
    model(
        input_ids=tokens, **({"decoder_input_ids": tokens.flip(0)} if model.config.is_encoder_decoder else {})
    )
    handle.remove()
    centred = seen[0] - seen[0].mean(0)
    common = torch.nn.functional.normalize(seen[0].mean(0), dim=0)
    weight = torch.randn_like(head.weight) / centred.std()
    head.weight = torch.nn.Parameter(weight - (weight @ common)[:, None] * common)


def adapted(model: Any) -> Seq2SeqAdapter | CausalAdapter:
    return (
        Seq2SeqAdapter(model) if model.config.is_encoder_decoder else CausalAdapter(model, longest_prompt=6)
    )


def sources(rows: int, seed: int, longest: int = 6) -> TokenRows:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)
    return TokenRows(torch.randint(0, VOCABULARY, (rows, int(lengths.max())), generator=generator), lengths)


def row_of(source: TokenRows, row: int) -> TokenRows:
    length = source.lengths[row : row + 1]
    return TokenRows(source.tokens[row : row + 1, : int(length)], length)


def generated(
    adapter: Seq2SeqAdapter | CausalAdapter, source: TokenRows, extra_length: int
) -> list[list[int]]:
    """What the model's own greedy generate gives, row by row, in the adapter's rows."""
    rows = []
    limits = length_limits(adapter, source, extra_length).tolist()
    for row, limit in enumerate(limits):
        tokens = row_of(source, row).tokens
        causal = isinstance(adapter, CausalAdapter)
        hidden = tokens.size(1) if causal else 1 + len(adapter.prefix)
        output = adapter.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            num_beams=1,
            max_new_tokens=limit if causal else limit + len(adapter.prefix),
            pad_token_id=adapter.model.config.pad_token_id or 0,
        )
        rows.append(output[0, hidden:].tolist())
    return rows


def plain_logits(adapter: Seq2SeqAdapter | CausalAdapter, source: TokenRows, target: Tensor) -> Tensor:
    """The model's own logits [T, V] of one row without a cache: of target inputs (int64 [1, T])."""
    if isinstance(adapter, CausalAdapter):
        whole = torch.cat((source.tokens, target[:, 1:]), 1)
        return adapter.model(input_ids=whole, use_cache=False).logits[0, source.tokens.size(1) - 1 :]
    prefix = torch.tensor([adapter.prefix], dtype=torch.long)
    output = adapter.model(
        input_ids=source.tokens, decoder_input_ids=torch.cat((prefix, target), 1), use_cache=False
    )
    return output.logits[0, len(adapter.prefix) :]
