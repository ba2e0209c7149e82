"""Load an adapter from a reference: configuration, weights from safetensors, languages, the end token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor
from transformers.utils import GENERATION_CONFIG_NAME

from lightning_bpd.adapters.decoder_only import CausalAdapter
from lightning_bpd.adapters.encoder_decoder import Seq2SeqAdapter
from lightning_bpd.adapters.generation import (
    DECODERS_OWN,
    choose_end,
    given_languages,
    greedy_rules,
    plain_rules,
    refuse_unknown,
    setting,
    warn_once,
)
from lightning_bpd.adapters.low_rank import add_low_rank, merge_low_rank
from lightning_bpd.adapters.projection import family
from lightning_bpd.adapters.reference import Reference, caused_by, explained, from_pretrained, quiet
from lightning_bpd.adapters.tokenizer import RowSettings, load_tokenizer, vocabulary_size
from lightning_bpd.files import path_inside
from lightning_bpd.interfaces import InputError

ModelAdapter = Seq2SeqAdapter | CausalAdapter

# The module in which transformers puts classes of code that comes with a model.
DYNAMIC_MODULES = "transformers_modules"


def load_config(reference: Reference) -> Any:
    """Load the model's configuration.

    Raises:
        InputError: There is no such model, it needs code of its own, or it is not a language model.
    """
    folder = reference.folder
    if folder is not None and not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no Hugging Face model (no config.json): name a folder that save_pretrained wrote"
        )
    return from_pretrained(transformers.AutoConfig, reference)


def load_generation(reference: Reference, config: Any, tokenizer: Any) -> Any:
    """Load the model's generation_config, with the reference's target language and one end token.

    Raises:
        InputError: The file is damaged; the model needs a target language and none is named, or it knows none; or it
            has several end tokens and none is chosen.
    """
    generation = _stored_generation(reference)
    greedy_rules(generation)
    if reference.plain:
        plain_rules(generation)
    given_languages(generation, tokenizer, reference)
    choose_end(generation, config, tokenizer, reference)
    return generation


def _stored_generation(reference: Reference) -> Any:
    """Load the model's generation_config, or else the settings of generate in its config.json."""
    folder = reference.folder
    if folder is None or (folder / GENERATION_CONFIG_NAME).is_file():
        try:
            return from_pretrained(transformers.GenerationConfig, reference)
        except InputError as error:
            if folder is None and caused_by(error, LocalEntryNotFoundError):
                warn_once(
                    f"{reference}: there is no {GENERATION_CONFIG_NAME} in the local cache, and the hub cannot be "
                    "reached: rows begin and end as its config.json says"
                )
            elif folder is not None or "does not appear to have a file named" not in str(error.__cause__):
                raise
    # Read from the file, as transformers does, because a loaded configuration has lost these settings.
    return from_pretrained(
        transformers.GenerationConfig, reference, config_file_name="config.json", _from_model_config=True
    )


def row_settings(reference: Reference, config: Any, generation: Any) -> RowSettings:
    """Return the settings that make rows from text, for a model that generates by ``generation``.

    Raises:
        InputError: The model has no end token.
    """
    if generation.eos_token_id is None:
        raise InputError(
            f"{reference} has no end token, but rows need one: choose it by {reference},eos=TOKEN"
        )
    return RowSettings(
        generation.eos_token_id,
        generation.forced_bos_token_id,
        not config.is_encoder_decoder,
        reference.src_lang,
        reference.tgt_lang,
    )


def load_adapter(reference: Reference) -> ModelAdapter:
    """Load the model as a SequenceModel, in eval mode, on the CPU.

    Raises:
        InputError: There is no such model, some of its weights are missing or not in safetensors, its tokenizer has
            tokens that the model does not know, or it cannot be decoded exactly.
    """
    config = load_config(reference)
    tokenizer = load_tokenizer(reference)
    _check_weights(reference)
    model, report = from_pretrained(
        _kind(config),
        reference,
        config=config,
        use_safetensors=True,
        dtype=getattr(torch, reference.dtype),
        output_loading_info=True,
    )
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"the weights of {reference} are incomplete, {len(missing)} are missing: {', '.join(missing[:3])}"
        )
    rows = model.get_input_embeddings().weight.size(0)
    # Many embeddings have more rows than tokens, which suits the hardware, but not twice as many.
    if (tokens := vocabulary_size(tokenizer)) > rows or 2 * tokens < rows:
        raise InputError(
            f"the tokenizer of {reference} has {tokens} tokens and the model knows {rows}: they do not belong "
            "together; give the tokenizer that the model was trained with"
        )
    _fix_parameters(model, config)
    ends = setting(model, "eos_token_id")
    model.generation_config = load_generation(reference, config, tokenizer)
    adapter = adapt(model, reference.longest_prompt)
    if not adapter.tested:
        warn_once(
            f"{family(model)} is of an untested family: it loads, and its logits with a cache equal those without, "
            "but no test checks that it decodes as generate does: compare on your own text, and run certify"
        )
    model_ends = ends if isinstance(ends, list | tuple) else [] if ends is None else [ends]
    adapter.ends = frozenset((*model_ends, adapter.eos_id))
    return adapter


def adapt(model: Any, longest_prompt: int | None = None) -> ModelAdapter:
    """Make the adapter for a model, and put the model into eval mode.

    Raises:
        InputError: The model generates by rules that depend on earlier tokens, or cannot be decoded exactly.
    """
    refuse_unknown(model)
    model.eval()
    if model.config.is_encoder_decoder:
        return Seq2SeqAdapter(model)
    return CausalAdapter(model, longest_prompt=longest_prompt)


def describe_adapter(adapter: ModelAdapter) -> dict[str, Any]:
    """Return the plain data from which ``rebuild_adapter`` makes the adapter again, without its weights."""
    model = adapter.model
    prompt = adapter.longest_prompt if isinstance(adapter, CausalAdapter) else None
    return {
        "config": model.config.to_dict(),
        "generation_config": model.generation_config.to_dict(),
        "longest_prompt": prompt,
        "low_rank": adapter.low_rank,
        "dtype": str(adapter.output_weight.dtype).removeprefix("torch."),
    }


def rebuild_adapter(
    description: Mapping[str, Any], weights: Mapping[str, Tensor], where: str
) -> ModelAdapter:
    """Make an adapter from its description, and merge its low-rank updates.

    Args:
        description: The output of ``describe_adapter``.
        weights: The adapter's state dict.
        where: Names the origin of both in messages.

    Raises:
        InputError: The weights do not fit the description.
    """
    settings = dict(description["config"])
    with explained(Reference(where)):
        config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
        rules = description["generation_config"]
        generation = transformers.GenerationConfig(
            **{name: value for name, value in rules.items() if name not in DECODERS_OWN}
        )
        model = _kind(config).from_config(config, dtype=getattr(torch, description["dtype"]))
        parameters = dict(model.named_parameters())
        trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
        fixed = {name: each.clone() for name, each in parameters.items() if not each.requires_grad}
        if description["low_rank"] is not None:
            add_low_rank(model, *description["low_rank"])
        model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
    merge_low_rank(model)
    for name in trained:
        model.get_parameter(name).requires_grad_(True)
    for name, values in fixed.items():
        # Sinusoids: weight averaging rounds them, and save_pretrained does not write them.
        parameter = model.get_parameter(name)
        if torch.allclose(parameter, values, atol=1e-5):
            parameter.data.copy_(values)
    model.generation_config = generation
    return adapt(model, description["longest_prompt"])


def refuse_own_code(adapter: ModelAdapter, tokenizer: Any, reference: str) -> None:
    """Raise InputError if a model needs code of its own, because a finished model's folder may not run code."""
    parts = (adapter.model, adapter.model.config, tokenizer)
    if names := [type(part).__name__ for part in parts if type(part).__module__.startswith(DYNAMIC_MODULES)]:
        raise InputError(
            f"{reference} needs code of its own ({', '.join(names)}), so a model trained from it could not be loaded: "
            "train heads on the base as it is, with FrozenBaseHeadDistillation"
        )


def save_adapter(adapter: ModelAdapter, folder: Path) -> None:
    """Write the model by ``save_pretrained``, with its weights as safetensors."""
    with quiet():
        adapter.model.save_pretrained(folder)


def _kind(config: Any) -> Any:
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


def _fix_parameters(model: Any, config: Any) -> None:
    """Freeze sinusoids again, because from_pretrained makes them trainable."""
    with torch.device("meta"):
        fresh = _kind(config).from_config(config)
    for name, parameter in fresh.named_parameters():
        model.get_parameter(name).requires_grad_(parameter.requires_grad)


def _check_weights(reference: Reference) -> None:
    folder = reference.folder
    if folder is None:
        return
    with explained(reference):
        for index in folder.glob("*.safetensors.index.json"):
            for name in set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()):
                path_inside(folder, name)
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")):
        raise InputError(
            f"{folder} holds its weights as pickles only (*.bin), which may run code when they are read: if you trust "
            "them, load the model with transformers and save it by save_pretrained, which writes safetensors"
        )
    raise InputError(f"{folder} holds a config.json but no weights (no *.safetensors): copy them there")
