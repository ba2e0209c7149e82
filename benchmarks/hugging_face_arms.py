"""The ways of decoding a Hugging Face base that hugging_face_speed.py measures, each as a function of a batch."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ctranslate2
import torch
from ctranslate2.converters.transformers import _MODEL_LOADERS
from decoding_speed import text_rows, until
from marian import register_ids, save_model_for_ctranslate2

import lightning_bpd
from lightning_bpd.adapters import CausalAdapter, ModelAdapter, parse_reference
from lightning_bpd.decoding import DecodingOptions, Exact, blockwise, greedy
from lightning_bpd.decoding.limits import length_limits
from lightning_bpd.drafters import BlockHeads
from lightning_bpd.interfaces import Drafter, InputError, SequenceModel, TokenRows
from lightning_bpd.saved.finished_model import GenerativeModel
from lightning_bpd.saved.marian import SUPPRESSED, read_marian
from lightning_bpd.saved.translation import Translator

GENERATE = "transformers: generate"
LOOKUP, ASSISTED = "transformers: prompt lookup", "transformers: draft model"
ENGINE = "CTranslate2 float32: greedy"
OURS, CONVERTED = "ours", "ours, converted"


class Decoded(NamedTuple):
    """What an arm makes of one batch."""

    rows: list[list[int]]
    """tokens of each row, its end token included"""
    iterations: int
    """how many times tokens were appended to a row, over all rows"""


Decode = Callable[[TokenRows], Decoded]


@dataclass(frozen=True)
class Arm:
    """A way of decoding."""

    name: str
    decode: Decode
    one_row: bool = False
    """whether it takes no larger batch than of one row"""


@torch.inference_mode()
def generated(network: ModelAdapter, lengths: DecodingOptions, batch: TokenRows, **options: Any) -> Decoded:
    """By ``generate``, whose limit is that of the longest row of a batch, for all its rows.

    Args:
        network: The adapter, whose model generates.
        lengths: Limits the length of each row.
        batch: Sources or prompts.
        options: Of ``generate``; with any, the batch is one row, and each call of the model is an iteration.
    """
    tokens, mask = batch.tokens, torch.arange(batch.tokens.size(1), device=network.device)
    forced = 0
    if isinstance(network, CausalAdapter):
        # Prompts end where generation goes on: padding is on the left.
        places = mask - (tokens.size(1) - batch.lengths)[:, None]
        tokens, inside = tokens.gather(1, places.clamp(min=0)), places >= 0
        before = tokens.size(1)
    else:
        inside, forced = mask < batch.lengths[:, None], len(network.prefix)
        before = 1 + forced
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = network.model.register_forward_hook(count)
    try:
        output = network.model.generate(
            input_ids=tokens,
            attention_mask=inside.long(),
            max_new_tokens=int(length_limits(network, batch, lengths.extra(batch)).max()) + forced,
            **options,
        )
    finally:
        handle.remove()
    rows = [until(row, network.eos_id) for row in output[:, before:].tolist()]
    return Decoded(rows, calls if options else sum(map(len, rows)))


def plain_greedy(model: Any) -> None:
    """Let a model's ``generate`` be greedy, whatever its folder says of beams and sampling.

    The token that it forces at the length limit is left out: it would not be the model's own choice.
    """
    settings = model.generation_config
    settings.num_beams, settings.do_sample, settings.use_cache = 1, False, True
    settings.temperature = settings.top_p = settings.top_k = None
    settings.forced_eos_token_id = None
    if settings.pad_token_id is None:
        settings.pad_token_id = settings.eos_token_id


def engine(translator: Translator, lengths: DecodingOptions, threads: int) -> Decode:
    """Greedy decoding by CTranslate2 with the same weights, one worker of ``threads`` threads.

    Raises:
        InputError: The benchmark or CTranslate2 does not convert such a model; the message is the reason.
    """
    network: Any = translator.network
    # Its converter takes models to pieces.
    model, kind = copy.deepcopy(network.model), network.model.config.model_type
    settings = {
        "device": network.device.type,
        "compute_type": "float32",
        "inter_threads": 1,
        "intra_threads": threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        if kind == "marian":
            model.final_logits_bias[:, network.suppressed] = SUPPRESSED
            save_model_for_ctranslate2(model, Path(folder), pre_norm=False)
            opened = ctranslate2.Translator(folder, **settings)
        elif isinstance(network, CausalAdapter):
            if network.suppressed:
                raise InputError(f"its generation_config forbids tokens ({network.suppressed[:3]})")
            _save_decoder_for_ctranslate2(model, translator.codec.target.tokenizer, Path(folder))
            opened = ctranslate2.Generator(folder, **settings)
        else:
            raise InputError(f"of encoder-decoders this benchmark converts Marian alone, not {kind}")

    def decode(batch: TokenRows) -> Decoded:
        texts, limit = text_rows(batch), int(length_limits(network, batch, lengths.extra(batch)).max())
        if kind == "marian":
            # Its own rule would let no row end at once.
            found = opened.translate_batch(
                texts, beam_size=1, min_decoding_length=0, max_decoding_length=limit, return_end_token=True
            )
            tokens = [result.hypotheses[0] for result in found]
        else:
            found = opened.generate_batch(
                texts, beam_size=1, max_length=limit, return_end_token=True, include_prompt_in_result=False
            )
            tokens = [result.sequences[0] for result in found]
        rows = [until(list(map(int, row)), network.eos_id) for row in tokens]
        return Decoded(rows, sum(map(len, rows)))

    return decode


def _save_decoder_for_ctranslate2(model: Any, tokenizer: Any, folder: Path) -> None:
    loader = _MODEL_LOADERS.get(type(model.config).__name__)
    if loader is None:
        raise InputError(f"CTranslate2 has no converter for {type(model.config).__name__}")
    size, start, end = (
        model.config.vocab_size,
        model.config.bos_token_id,
        model.generation_config.eos_token_id,
    )
    try:
        with torch.no_grad():
            specification = loader.get_model_spec(model)
            loader.set_config(specification.config, model, tokenizer)
            specification.register_vocabulary(list(map(str, range(size))))
            register_ids(specification, end if start is None else start, end)
            specification.validate()
            specification.optimize(quantization="float32")
            specification.save(str(folder))
    except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise InputError(f"CTranslate2's converter fails: {type(error).__name__}: {error}") from error


def decoded_greedily(model: SequenceModel[Any], lengths: DecodingOptions, batch: TokenRows) -> Decoded:
    """By our own greedy decoding."""
    result = greedy(model, batch, lengths.extra(batch))
    return Decoded(result.rows(), int(result.lengths.sum()))


def decoded_blockwise(
    model: SequenceModel[Any], drafter: Drafter, block_size: int, lengths: DecodingOptions, batch: TokenRows
) -> Decoded:
    """By blocks, with the exact rule."""
    result = blockwise(model, drafter, batch, block_size, Exact(), lengths.extra(batch))
    assert result.accepted is not None
    return Decoded(result.rows(), int((result.accepted > 0).sum()))


def our_arms(
    name: str, network: Any, heads: BlockHeads, block_sizes: Sequence[int], lengths: DecodingOptions
) -> list[Arm]:
    """Greedy decoding and blockwise decoding of a network with heads."""
    model = GenerativeModel(network, None, heads)
    assert model.drafter is not None
    arms = [Arm(f"{name}: greedy", partial(decoded_greedily, model.model, lengths))]
    for size in block_sizes:
        decode = partial(decoded_blockwise, model.model, model.drafter, size, lengths)
        arms.append(Arm(f"{name}: blockwise, k = {size}", decode))
    return arms


def draft_model(folder: Path, translator: Translator) -> Any:
    """A small model for assisted generation.

    Raises:
        InputError: It has another tokenizer, or cannot be loaded.
    """
    draft = lightning_bpd.load(f"hf:{folder}", translator.device)
    own, other = (each.codec.target.tokenizer.get_vocab() for each in (translator, draft))
    if own != other:
        raise InputError(
            f"the draft model in {folder} has another vocabulary than the base: make it with the base's tokenizer"
        )
    model = draft.network.model
    plain_greedy(model)
    return model


def carried_network(reference: str, device: torch.device) -> Any:
    """A Marian base as our own network, on which heads that were trained on the base are right unchanged.

    Raises:
        InputError: The base is not a folder with a Marian model; the message is the reason.
    """
    folder = parse_reference(reference).folder
    if folder is None:
        raise InputError("the base is not a folder on this machine")
    return read_marian(folder).network.to(device)


def all_arms(
    translator: Translator,
    reference: str,
    draft: Any,
    block_sizes: Sequence[int],
    lengths: DecodingOptions,
    lookup_tokens: int,
    threads: int,
) -> tuple[list[Arm], dict[str, str]]:
    """What can be measured, the yardstick first; and why the others cannot."""
    network: Any = translator.network
    assert translator.heads is not None
    by_generate = partial(generated, network, lengths)
    arms = [
        Arm(GENERATE, by_generate),
        Arm(LOOKUP, partial(by_generate, prompt_lookup_num_tokens=lookup_tokens), one_row=True),
    ]
    missing = {}
    if draft is None:
        missing[ASSISTED] = "no draft model was given (--draft)"
    else:
        arms.append(Arm(ASSISTED, partial(by_generate, assistant_model=draft), one_row=True))
    try:
        arms.append(Arm(ENGINE, engine(translator, lengths, threads)))
    except InputError as error:
        missing[ENGINE] = str(error)
    arms += our_arms(OURS, network, translator.heads, block_sizes, lengths)
    try:
        converted = carried_network(reference, translator.device)
        arms += our_arms(CONVERTED, converted, translator.heads, block_sizes, lengths)
    except InputError as error:
        missing[CONVERTED] = str(error)
    return arms, missing
