"""From a reference to an adapter: configuration, weights from safetensors, languages, the end token."""

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

# Where the library puts classes of code that comes with a model.
DYNAMIC_MODULES = "transformers_modules"


def load_config(reference: Reference) -> Any:
    """The model's configuration.

    Raises:
        InputError: There is no such model, it needs code of its own, or it is no language model.
    """
    folder = reference.folder
    if folder is not None and not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no Hugging Face model (no config.json): name a folder that save_pretrained wrote"
        )
    return from_pretrained(transformers.AutoConfig, reference)


def load_generation(reference: Reference, config: Any, tokenizer: Any) -> Any:
    """How the model generates: its own generation_config, with the reference's target language and one end token.

    Raises:
        InputError: The file is damaged; the model needs a target language that is not named, or knows none; or it is
            not said which of several tokens ends a row.
    """
    generation = _stored_generation(reference)
    greedy_rules(generation)
    if reference.plain:
        plain_rules(generation)
    given_languages(generation, tokenizer, reference)
    choose_end(generation, config, tokenizer, reference)
    return generation


def _stored_generation(reference: Reference) -> Any:
    """The model's generation_config, or what the config.json of a model without it says of generating."""
    folder = reference.folder
    if folder is None or (folder / GENERATION_CONFIG_NAME).is_file():
        try:
            return from_pretrained(transformers.GenerationConfig, reference)
        except InputError as error:
            if folder is None and caused_by(error, LocalEntryNotFoundError):
                warn_once(
                    f"{reference}: there is no {GENERATION_CONFIG_NAME} in the local cache, and the hub cannot be "
                    "asked: rows begin and end as its config.json says"
                )
            elif folder is not None or "does not appear to have a file named" not in str(error.__cause__):
                raise
    # From the file, as transformers does: the configuration that it makes of it has lost these settings.
    return from_pretrained(
        transformers.GenerationConfig, reference, config_file_name="config.json", _from_model_config=True
    )


def row_settings(reference: Reference, config: Any, generation: Any) -> RowSettings:
    """How text becomes rows of a model that generates by ``generation``.

    Raises:
        InputError: It has no end token.
    """
    if generation.eos_token_id is None:
        raise InputError(
            f"{reference} has no end token, and rows need one: choose it by {reference},eos=TOKEN"
        )
    return RowSettings(
        generation.eos_token_id,
        generation.forced_bos_token_id,
        not config.is_encoder_decoder,
        reference.src_lang,
        reference.tgt_lang,
    )


def load_adapter(reference: Reference) -> ModelAdapter:
    """The model as a SequenceModel, in eval mode, on the CPU.

    Raises:
        InputError: There is no such model, it has no weights in safetensors or not all of them, its tokenizer has
            tokens that it does not know, or it cannot be decoded exactly.
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
            f"the weights of {reference} are not all there, {len(missing)} are missing: {', '.join(missing[:3])}"
        )
    rows = model.get_input_embeddings().weight.size(0)
    # Many models have more rows than tokens, for the hardware's sake, but not twice as many.
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
            f"{family(model)} is of an untested family: it loads, and its logits with a cache are those without, but "
            "no test holds that it decodes as generate does: compare on your own text, and run certify"
        )
    own = ends if isinstance(ends, list | tuple) else [] if ends is None else [ends]
    adapter.ends = frozenset((*own, adapter.eos_id))
    return adapter


def adapt(model: Any, longest_prompt: int | None = None) -> ModelAdapter:
    """The adapter for a model, which is put into eval mode.

    Raises:
        InputError: It generates by rules that depend on earlier tokens, or cannot be decoded exactly.
    """
    refuse_unknown(model)
    model.eval()
    if model.config.is_encoder_decoder:
        return Seq2SeqAdapter(model)
    return CausalAdapter(model, longest_prompt=longest_prompt)


def describe_adapter(adapter: ModelAdapter) -> dict[str, Any]:
    """What rebuilds an adapter, weights aside, as plain data."""
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
    """The inverse of ``describe_adapter``, low-rank updates merged.

    Args:
        description: What that gave.
        weights: The adapter's state dict.
        where: What messages call the place that both are from.

    Raises:
        InputError: The weights are not those of such a model.
    """
    settings = dict(description["config"])
    with explained(Reference(where)):
        config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
        rules = description["generation_config"]
        generation = transformers.GenerationConfig(
            **{name: value for name, value in rules.items() if name not in DECODERS_OWN}
        )
        model = _kind(config).from_config(config, dtype=getattr(torch, description["dtype"]))
        trained = [name for name, each in model.named_parameters() if each.requires_grad]
        fixed = {name: each.clone() for name, each in model.named_parameters() if not each.requires_grad}
        if description["low_rank"] is not None:
            add_low_rank(model, *description["low_rank"])
        model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
    merge_low_rank(model)
    for name in trained:
        model.get_parameter(name).requires_grad_(True)
    for name, values in fixed.items():
        # Sinusoids, which averaging of weights rounds and save_pretrained does not write.
        parameter = model.get_parameter(name)
        if torch.allclose(parameter, values, atol=1e-5):
            parameter.data.copy_(values)
    model.generation_config = generation
    return adapt(model, description["longest_prompt"])


def refuse_own_code(adapter: ModelAdapter, tokenizer: Any, reference: str) -> None:
    """Raise InputError if a model needs code of its own, which no finished model's folder gives leave to run."""
    parts = (adapter.model, adapter.model.config, tokenizer)
    if own := [type(each).__name__ for each in parts if type(each).__module__.startswith(DYNAMIC_MODULES)]:
        raise InputError(
            f"{reference} needs code of its own ({', '.join(own)}), and what is trained of it could not be read again: "
            "train heads on the base as it is, with FrozenBaseHeadDistillation"
        )


def save_adapter(adapter: ModelAdapter, folder: Path) -> None:
    """Write the model as ``save_pretrained`` does, its weights as safetensors."""
    with quiet():
        adapter.model.save_pretrained(folder)


def _kind(config: Any) -> Any:
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


def _fix_parameters(model: Any, config: Any) -> None:
    """Let sinusoids not be trained, which from_pretrained forgets."""
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
            f"{folder} holds its weights pickled alone (*.bin), which may run code when they are read: where you trust "
            "them, load the model with transformers and write it once more by save_pretrained, which makes safetensors"
        )
    raise InputError(f"{folder} holds a config.json and no weights (no *.safetensors): copy them there too")
