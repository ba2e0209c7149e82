"""What a model's generation_config asks of greedy decoding, and what of it can be done.

Respected: ``decoder_start_token_id``, ``forced_bos_token_id``, ``eos_token_id``, ``suppress_tokens``, and
``bad_words_ids`` of one token each. Refused, for it makes the next token depend on more than the last hidden state:
all in ``REFUSED``. Ignored: what concerns lengths at the other end (``max_length``, ``max_new_tokens`` and
``forced_eos_token_id``, which acts at ``max_length`` alone), for decoding has its own limit; and, taken out by
``greedy_rules``, sampling, beams and caches, which are the decoder's own affair.
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
"""settings of generate that no adapter can respect, and the values at which they do nothing"""

DECODERS_OWN = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "num_beams", "early_stopping", "length_penalty", "num_return_sequences", "cache_implementation", "cache_config",
    "max_cache_len", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
)  # fmt: skip
"""settings of how generate searches and what it returns; of some together it refuses to be saved"""


def refuse_unknown(model: Any) -> None:
    """Refuse a model that generates by rules which an adapter cannot follow.

    Raises:
        InputError: There is such a setting, or a bad word of several tokens.
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
    """Take out of a generation_config what is the decoder's own affair: then it says what is done here."""
    for name in DECODERS_OWN:
        setattr(generation, name, None)


def plain_rules(generation: Any) -> None:
    """Take out of a generation_config what no adapter can respect."""
    for name, harmless in REFUSED.items():
        setattr(generation, name, harmless)
    generation.bad_words_ids = [word for word in generation.bad_words_ids or [] if len(word) == 1] or None


def setting(model: Any, name: str) -> Any:
    """A token id of the generation configuration, or else of the model's."""
    value = getattr(model.generation_config, name, None)
    return getattr(model.config, name, None) if value is None else value


def end_token(model: Any, chosen: int | None) -> int:
    """The token that ends a row.

    Raises:
        InputError: The model has none, or several and none was chosen.
    """
    if chosen is not None:
        return chosen
    value = setting(model, "eos_token_id")
    known = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if len(set(known)) != 1:
        several = f"{len(known)} end tokens, {known}" if known else "no end token"
        raise InputError(
            f"{family(model)} has {several}, and decoding knows exactly one: choose it by eos_id, and rows end with "
            "that alone"
        )
    return int(known[0])


def choose_end(generation: Any, config: Any, tokenizer: Any, reference: Reference) -> None:
    """Let a generation_config have one end token: the reference's, or the model's, of several the tokenizer's own.

    Args:
        generation: The generation_config, which is changed; it keeps none where the model has none.
        config: The model's configuration.
        tokenizer: The model's tokenizer.
        reference: What may name the token.

    Raises:
        InputError: The tokenizer does not know the token that is named; or none is, and the tokenizer's own is none of
            several.
    """
    known = tokenizer.get_vocab()
    if reference.eos is not None:
        if reference.eos not in known:
            raise InputError(
                f"{reference}: its tokenizer has no token {reference.eos!r}: give eos as it stands in its vocabulary"
            )
        generation.eos_token_id = known[reference.eos]
        return
    ends = generation.eos_token_id
    ends = getattr(config, "eos_token_id", None) if ends is None else ends
    several = sorted(set(ends)) if isinstance(ends, list | tuple) else [ends]
    own = tokenizer.eos_token_id
    if len(several) > 1:
        names = ", ".join(map(str, tokenizer.convert_ids_to_tokens(several)))
        if own not in several:
            raise InputError(
                f"{reference} has several end tokens, {names}, and its tokenizer's own is none of them: rows need "
                f"exactly one; choose it by {reference},eos=TOKEN"
            )
        warn_once(
            f"{reference} has several end tokens, {names}: rows end with {tokenizer.eos_token} alone; choose another "
            f"by {reference},eos=TOKEN"
        )
        several = [own]
    generation.eos_token_id = next(iter(several), None)


@cache
def warn_once(message: str) -> None:
    """Log a warning that has not been logged before: a model is opened several times in a run."""
    logger.warning("%s", message)


def suppressed_tokens(model: Any, eos_id: int) -> list[int]:
    """Tokens that are never generated, by the model's own settings: bad words of one token, and suppressed ones."""
    config = model.generation_config
    # As generate does: the end token is never a bad word.
    words = [word[0] for word in config.bad_words_ids or [] if len(word) == 1 and word != [eos_id]]
    return in_vocabulary([*(config.suppress_tokens or []), *words], len(output_layer(model)[0]))


def in_vocabulary(tokens: Iterable[int], size: int) -> list[int]:
    """The different tokens that a vocabulary of a size has, in order; generate passes over others too."""
    return sorted({token for token in tokens if 0 <= token < size})


def check_languages(tokenizer: Any, reference: Reference) -> None:
    """Refuse a user's reference that names the target language alone; stored ones may, and are read as they were.

    Raises:
        InputError: It does, and the tokenizer knows source languages.
    """
    if reference.tgt_lang is not None and reference.src_lang is None and hasattr(tokenizer, "src_lang"):
        raise InputError(
            f"{reference} names the target language alone, and its tokenizer would take sources for "
            f"{tokenizer.src_lang or 'no language'}: give both, src_lang=CODE,tgt_lang={reference.tgt_lang}"
        )


def given_languages(generation: Any, tokenizer: Any, reference: Reference) -> None:
    """Let a multilingual model begin its rows with the reference's target language.

    Args:
        generation: The generation_config, which is changed.
        tokenizer: The model's tokenizer, its languages set.
        reference: What names the languages.

    Raises:
        InputError: A target language is needed and not named, or named and not known.
    """
    if reference.tgt_lang is None:
        ordinary = (None, generation.pad_token_id, generation.bos_token_id, generation.eos_token_id)
        unsaid = generation.forced_bos_token_id is None and generation.decoder_start_token_id in ordinary
        if hasattr(tokenizer, "tgt_lang") and unsaid:
            raise InputError(
                f"{reference} is a multilingual model: name its languages in its tokenizer's own codes, such as "
                f"eng_Latn or en_XX: hf:{reference.name},src_lang=CODE,tgt_lang=CODE"
            )
        return
    before, after = surroundings(tokenizer, "target")
    if before:
        generation.forced_bos_token_id = before[-1]
    elif len(after) > 1:
        # mBART's first kind: the language ends a row in training, and so is what the next begins from.
        generation.decoder_start_token_id = after[-1]
    else:
        raise InputError(f"{reference}: its tokenizer marks no target language: leave tgt_lang out")
