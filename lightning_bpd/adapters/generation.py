"""The rules of a model's generation_config: respected, refused and ignored ones.

- Respected: ``decoder_start_token_id``, ``forced_bos_token_id``, ``eos_token_id``, ``suppress_tokens``, and
  ``bad_words_ids`` of one token each.
- Refused: the settings in ``REFUSED``, because they make the next token depend on more than the last hidden state.
- Ignored: ``max_length``, ``max_new_tokens`` and ``forced_eos_token_id``, which acts at ``max_length`` only, because
  decoding has its own limit.
- Removed by ``greedy_rules``: settings of sampling, beams and caches, which the decoder chooses.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from typing import Any

from lightning_bpd.adapters.projection import family, output_layer
from lightning_bpd.adapters.reference import Reference
from lightning_bpd.adapters.tokenizer import surroundings
from lightning_bpd.interfaces import InputError

logger = logging.getLogger(__name__)

REFUSED = {
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1,
    "exponential_decay_length_penalty": None,
    "begin_suppress_tokens": None,
    "forced_decoder_ids": None,
    "sequence_bias": None,
    "stop_strings": None,
    "watermarking_config": None,
}
"""settings of generate that no adapter can respect, with the values at which they have no effect"""

DECODERS_OWN = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "num_beams", "early_stopping", "length_penalty", "num_return_sequences", "cache_implementation", "cache_config",
    "max_cache_len", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
)  # fmt: skip
"""settings of generate's search and its outputs; with some of them together, a generation_config cannot be saved"""


def refuse_unknown(model: Any) -> None:
    """Refuse a model that generates by rules which an adapter cannot follow.

    Raises:
        InputError: The model has a setting of ``REFUSED``, or a bad word of several tokens.
    """
    for name, harmless in REFUSED.items():
        value = getattr(model.generation_config, name, None)
        if value is not None and value != harmless and value != []:
            raise InputError(
                f"{family(model)} generates with {name} = {value!r}, which depends on more than the last hidden "
                f"state: set model.generation_config.{name} = {harmless!r} to decode without it, or name the model "
                "with ,plain=true"
            )
    if longer := [word for word in model.generation_config.bad_words_ids or [] if len(word) != 1]:
        raise InputError(
            f"{family(model)} forbids words of several tokens (bad_words_ids {longer[:3]}), which depends on more "
            "than the last hidden state: set model.generation_config.bad_words_ids = None to decode without it, or "
            "name the model with ,plain=true"
        )
    if model.generation_config.forced_bos_token_id is not None and not model.config.is_encoder_decoder:
        raise InputError(
            f"{family(model)} generates with forced_bos_token_id, which is for encoder-decoders: set "
            "model.generation_config.forced_bos_token_id = None"
        )


def greedy_rules(generation: Any) -> None:
    """Remove the settings from a generation_config that the decoder chooses: the rest describes greedy decoding."""
    for name in DECODERS_OWN:
        setattr(generation, name, None)


def plain_rules(generation: Any) -> None:
    """Remove the settings from a generation_config that no adapter can respect."""
    for name, harmless in REFUSED.items():
        setattr(generation, name, harmless)
    generation.bad_words_ids = [word for word in generation.bad_words_ids or [] if len(word) == 1] or None


def setting(model: Any, name: str) -> Any:
    """Read a token id from the model's generation configuration, or else from its configuration."""
    value = getattr(model.generation_config, name, None)
    return getattr(model.config, name, None) if value is None else value


def end_token(model: Any, chosen: int | None) -> int:
    """Return the token that ends a row.

    Raises:
        InputError: The model has no end token, or several, and none was chosen.
    """
    if chosen is not None:
        return chosen
    value = setting(model, "eos_token_id")
    known = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if len(set(known)) != 1:
        several = f"{len(known)} end tokens, {known}" if known else "no end token"
        raise InputError(
            f"{family(model)} has {several}, but decoding needs exactly one: choose it by eos_id"
        )
    return int(known[0])


def choose_end(generation: Any, config: Any, tokenizer: Any, reference: Reference) -> None:
    """Set the one end token of a generation_config.

    It is the token that the reference names, or else the model's. If the model has several, it is the tokenizer's.

    Args:
        generation: The generation_config, which is changed; it gets no end token if the model has none.
        config: The model's configuration.
        tokenizer: The model's tokenizer.
        reference: May name the end token.

    Raises:
        InputError: The tokenizer does not know the named token; or no token is named, the model has several, and the
            tokenizer's end token is not among them.
    """
    known = tokenizer.get_vocab()
    if reference.eos is not None:
        if reference.eos not in known:
            raise InputError(
                f"{reference}: its tokenizer has no token {reference.eos!r}: write eos as in its vocabulary"
            )
        generation.eos_token_id = known[reference.eos]
        return
    ends = generation.eos_token_id
    ends = getattr(config, "eos_token_id", None) if ends is None else ends
    several = sorted(set(ends)) if isinstance(ends, list | tuple) else [ends]
    tokenizer_end = tokenizer.eos_token_id
    if len(several) > 1:
        names = ", ".join(map(str, tokenizer.convert_ids_to_tokens(several)))
        if tokenizer_end not in several:
            raise InputError(
                f"{reference} has several end tokens, {names}, and its tokenizer's end token is not among them: rows "
                f"need exactly one; choose it by {reference},eos=TOKEN"
            )
        warn_once(
            f"{reference} has several end tokens, {names}: each ends a row, and training targets end with "
            f"{tokenizer.eos_token}; choose another by {reference},eos=TOKEN"
        )
        several = [tokenizer_end]
    generation.eos_token_id = next(iter(several), None)


@cache
def warn_once(message: str) -> None:
    """Log a warning once only, because a run opens a model several times."""
    logger.warning("%s", message)


def suppressed_tokens(model: Any, eos_id: int) -> list[int]:
    """Return the tokens that the model's settings forbid: suppressed tokens, and bad words of one token."""
    config = model.generation_config
    # The end token is never a bad word, as in generate.
    words = [word[0] for word in config.bad_words_ids or [] if len(word) == 1 and word != [eos_id]]
    return in_vocabulary([*(config.suppress_tokens or []), *words], len(output_layer(model)[0]))


def in_vocabulary(tokens: Iterable[int], size: int) -> list[int]:
    """Return the distinct tokens below the vocabulary size, sorted; generate ignores the others, too."""
    return sorted({token for token in tokens if 0 <= token < size})


def check_languages(tokenizer: Any, reference: Reference) -> None:
    """Refuse a user's reference that names the target language only; stored references may, and load unchanged.

    Raises:
        InputError: The reference names no source language, but the tokenizer knows source languages.
    """
    if reference.tgt_lang is not None and reference.src_lang is None and hasattr(tokenizer, "src_lang"):
        raise InputError(
            f"{reference} names the target language only, and its tokenizer would take sources for "
            f"{tokenizer.src_lang or 'no language'}: give both, src_lang=CODE,tgt_lang={reference.tgt_lang}"
        )


def given_languages(generation: Any, tokenizer: Any, reference: Reference) -> None:
    """Make a multilingual model begin its rows with the reference's target language.

    Args:
        generation: The generation_config, which is changed.
        tokenizer: The model's tokenizer, with its languages set.
        reference: Names the languages.

    Raises:
        InputError: The model needs a target language and none is named, or the tokenizer does not mark it.
    """
    if reference.tgt_lang is None:
        ordinary = (None, generation.pad_token_id, generation.bos_token_id, generation.eos_token_id)
        unmarked = generation.forced_bos_token_id is None and generation.decoder_start_token_id in ordinary
        if hasattr(tokenizer, "tgt_lang") and unmarked:
            raise InputError(
                f"{reference} is a multilingual model: name its languages by its tokenizer's codes, such as "
                f"eng_Latn or en_XX: hf:{reference.name},src_lang=CODE,tgt_lang=CODE"
            )
        return
    before, after = surroundings(tokenizer, "target")
    if before:
        generation.forced_bos_token_id = before[-1]
    elif len(after) > 1:
        # The first mBART: in training the language ends a row, so the next row starts from it.
        generation.decoder_start_token_id = after[-1]
    else:
        raise InputError(f"{reference}: its tokenizer marks no target language: leave tgt_lang out")
