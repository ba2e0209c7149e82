"""Our weights in the models that the benchmarks compare with: Hugging Face's and CTranslate2's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from ctranslate2.converters.transformers import BartLoader
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    MarianConfig,
    MarianMTModel,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
)

from lightning_bpd.interfaces import InputError
from lightning_bpd.models import EncoderDecoder
from lightning_bpd.models.encoder_decoder import (
    DecoderLayer,
    EncoderLayer,
    Residual,
    halved_sinusoids,
    sinusoids,
)

POSITIONS = 1024  # more than any row of the benchmarks

# As the project's tokenizers number them. What lies under padding is never looked at.
PAD_ID, UNKNOWN_ID = 0, 1


def hugging_face_model(network: EncoderDecoder, attention: Literal["sdpa", "eager"]) -> PreTrainedModel:
    """A Hugging Face model of the same function and dtype as ``network``, with a copy of its weights.

    It is a Marian model if the network is post-norm. Pegasus is the same code in pre-norm.

    Raises:
        InputError: The network has learned positions or separate embeddings, which these models have not.
    """
    architecture = network.architecture
    if architecture.positions == "learned" or architecture.tie != "all":
        raise InputError(
            "Marian has sinusoidal positions and one matrix for all embeddings; this network has "
            f"positions: {architecture.positions} and tie: {architecture.tie}, choose another to compare"
        )
    settings: dict[str, Any] = {
        "vocab_size": network.target_vocabulary,
        "d_model": architecture.d_model,
        "encoder_layers": architecture.encoder_layers,
        "decoder_layers": architecture.decoder_layers,
        "encoder_attention_heads": architecture.heads,
        "decoder_attention_heads": architecture.heads,
        "encoder_ffn_dim": architecture.feed_forward,
        "decoder_ffn_dim": architecture.feed_forward,
        "dropout": architecture.dropout,
        "attention_dropout": architecture.attention_dropout,
        "activation_dropout": architecture.activation_dropout,
        "activation_function": architecture.activation,
        "scale_embedding": architecture.scale_embedding,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": PAD_ID,
        "bos_token_id": network.bos_id,
        "eos_token_id": network.eos_id,
        "decoder_start_token_id": network.bos_id,
        "forced_eos_token_id": None,
        "attn_implementation": attention,
    }
    model: PreTrainedModel
    if architecture.norm == "post":
        model = MarianMTModel(MarianConfig(**settings))
    else:
        model = PegasusForConditionalGeneration(PegasusConfig(**settings))
    model.load_state_dict(_weights(network))
    model.generation_config = GenerationConfig(
        num_beams=1,
        do_sample=False,
        use_cache=True,
        pad_token_id=PAD_ID,
        eos_token_id=network.eos_id,
        decoder_start_token_id=network.bos_id,
    )
    embedding = network.target_embedding.weight
    nn.Module.to(model, embedding.device, embedding.dtype)
    return model.train(network.training)


def save_for_ctranslate2(network: EncoderDecoder, folder: Path) -> None:
    """Write the network as a CTranslate2 model whose tokens are the ids in decimal.

    CTranslate2's own converter for Marian wants a tokenizer, and a start token of zeros in the last place of the
    vocabulary. Its parts work without either.
    """
    model = hugging_face_model(network, "eager")
    save_model_for_ctranslate2(model, folder, network.architecture.norm == "pre")


def save_model_for_ctranslate2(model: PreTrainedModel, folder: Path, pre_norm: bool) -> None:
    """The same of a Marian model (or, with ``pre_norm``, a Pegasus model) of one vocabulary for both sides."""
    model.config.normalize_before = pre_norm
    model.config.normalize_embedding = False
    specification = BartLoader().get_model_spec(model)
    tokens = [str(id_) for id_ in range(model.config.vocab_size)]
    specification.register_source_vocabulary(tokens)
    specification.register_target_vocabulary(tokens)
    generation = model.generation_config
    register_ids(specification, generation.decoder_start_token_id, generation.eos_token_id)
    specification.config.decoder_start_token = str(generation.decoder_start_token_id)
    specification.validate()
    specification.optimize(quantization="float32")
    folder.mkdir(parents=True, exist_ok=True)
    specification.save(str(folder))


def register_ids(specification: Any, start_id: int, end_id: int) -> None:
    """Tell CTranslate2 the special tokens, ids in decimal."""
    specification.config.unk_token = str(UNKNOWN_ID)
    specification.config.bos_token = str(start_id)
    specification.config.eos_token = str(end_id)


def _weights(network: EncoderDecoder) -> dict[str, Tensor]:
    embedding = network.target_embedding.weight
    halved = network.architecture.positions == "sinusoidal_halves"
    # Ours, not theirs: the halves may be ordered otherwise, and any table will do.
    positions = (halved_sinusoids if halved else sinusoids)(POSITIONS, network.architecture.d_model)
    bias = torch.zeros(network.target_vocabulary) if network.output_bias is None else network.output_bias
    weights = {
        "final_logits_bias": bias[None],
        "lm_head.weight": embedding,
        "model.shared.weight": embedding,
    }
    for side in ("encoder", "decoder"):
        weights[f"model.{side}.embed_tokens.weight"] = embedding
        weights[f"model.{side}.embed_positions.weight"] = positions
    if network.architecture.norm == "pre":
        weights |= _copied("model.encoder.layer_norm", network.encoder_norm)
        weights |= _copied("model.decoder.layer_norm", network.decoder_norm)
    for index, encoder_layer in enumerate(network.encoder):
        prefix = f"model.encoder.layers.{index}"
        attention = encoder_layer.attention
        weights |= _split(f"{prefix}.self_attn", ("q_proj", "k_proj", "v_proj"), attention.query_key_value)
        weights |= _copied(f"{prefix}.self_attn.out_proj", attention.output)
        weights |= _norm(f"{prefix}.self_attn_layer_norm", encoder_layer.attention_residual)
        weights |= _feed_forward(prefix, encoder_layer)
    for index, decoder_layer in enumerate(network.decoder):
        prefix = f"model.decoder.layers.{index}"
        attention, cross = decoder_layer.self_attention, decoder_layer.cross_attention
        weights |= _split(f"{prefix}.self_attn", ("q_proj", "k_proj", "v_proj"), attention.query_key_value)
        weights |= _copied(f"{prefix}.self_attn.out_proj", attention.output)
        weights |= _norm(f"{prefix}.self_attn_layer_norm", decoder_layer.self_residual)
        weights |= _copied(f"{prefix}.encoder_attn.q_proj", cross.query)
        weights |= _split(f"{prefix}.encoder_attn", ("k_proj", "v_proj"), cross.key_value)
        weights |= _copied(f"{prefix}.encoder_attn.out_proj", cross.output)
        weights |= _norm(f"{prefix}.encoder_attn_layer_norm", decoder_layer.cross_residual)
        weights |= _feed_forward(prefix, decoder_layer)
    return weights


def _copied(name: str, layer: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{key}": tensor for key, tensor in layer.state_dict().items()}


def _split(prefix: str, names: tuple[str, ...], fused: nn.Linear) -> dict[str, Tensor]:
    """The matrices that ``fused`` stacks, one by one."""
    weights: dict[str, Tensor] = {}
    for name, weight, bias in zip(
        names, fused.weight.chunk(len(names)), fused.bias.chunk(len(names)), strict=True
    ):
        weights |= {f"{prefix}.{name}.weight": weight, f"{prefix}.{name}.bias": bias}
    return weights


def _norm(name: str, residual: Residual) -> dict[str, Tensor]:
    return _copied(name, residual.norm)


def _feed_forward(prefix: str, layer: EncoderLayer | DecoderLayer) -> dict[str, Tensor]:
    weights = _copied(f"{prefix}.fc1", layer.feed_forward.hidden)
    weights |= _copied(f"{prefix}.fc2", layer.feed_forward.output)
    return weights | _norm(f"{prefix}.final_layer_norm", layer.feed_forward_residual)
