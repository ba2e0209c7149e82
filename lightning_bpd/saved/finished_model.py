"""What a trained model is on disk: a folder of its own, and what a checkpoint says of it. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_bpd.codecs import hugging_face
from lightning_bpd.codecs.codec import Codec
from lightning_bpd.codecs.hugging_face import HuggingFaceCodec
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.faults import damaged, from_plain, read_json
from lightning_bpd.files import whole_folder
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, EncoderDecoder, ImageArchitecture, ImageTransformer
from lightning_bpd.saved.model_card import model_card
from lightning_bpd.saved.network import build

if TYPE_CHECKING:
    from lightning_bpd.adapters import ModelAdapter
    from lightning_bpd.saved.network import Network

FORMAT = 1
REMEDY = "export it again, or fetch it again"
# What a checkpoint holds beside the training state, so that a finished model can be made of it alone.
CHECKPOINT_KEY = "lightning_bpd"


class Parts(NamedTuple):
    """What a model consists of."""

    network: Network
    codec: Codec
    """what its tokens mean"""
    heads: BlockHeads | None = None
    """what proposes blocks, if the model has it"""
    origin: str | None = None
    """the Hugging Face model that the network is, unchanged; None for any other network"""


def fingerprint(network: nn.Module, types: Mapping[torch.dtype, torch.dtype] | None = None) -> str:
    """Twelve hexadecimal digits that tell networks apart: of the names, shapes and values of all weights.

    Weights of a type in ``types`` count as if they were of the type that it names.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        tensor = tensor.to((types or {}).get(tensor.dtype, tensor.dtype))
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def check_base(wanted: str, found: str, where: str, remedy: str) -> None:
    """Raise InputError, naming both, unless heads meet the base that they were trained on."""
    if wanted != found:
        raise InputError(
            f"the block heads were trained on a base with fingerprint {wanted}, and {where} is {found}: {remedy}"
        )


def write_folder(parts: Parts, folder: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write ``model.safetensors``, ``config.json``, tokenizer(s), ``metrics.json`` and, if any, ``heads.safetensors``.

    Of a Hugging Face model that is as its author left it, weights and tokenizer stay where they are and are named; one
    that was trained here is in the subfolder ``base``, as ``save_pretrained`` writes it. Both have a ``README.md``.

    It appears whole, and a finished model that is there already makes way at the last moment; a folder of
    anything else is refused.

    Raises:
        InputError: The folder holds something that is not a finished model, or cannot be written.
    """
    folder = Path(folder)
    try:
        if folder.exists() and any(folder.iterdir()) and not is_finished(folder):
            raise InputError(f"{folder} is not empty and holds no finished model: choose another folder")
        with whole_folder(folder, replace=True) as unfinished:
            _write_parts(parts, unfinished, metrics)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder} cannot be written as a folder: {reason}") from error


def _write_parts(parts: Parts, folder: Path, metrics: Mapping[str, Any]) -> None:
    """The files of ``write_folder``, into a folder that is there and empty."""
    config: dict[str, Any] = {"format": FORMAT}
    own = fingerprint(parts.network)
    if isinstance(parts.codec, HuggingFaceCodec):
        network: Any = parts.network
        config |= hugging_face.write_base(network, parts.codec, parts.origin, own, folder)
    else:
        save_file(parts.network.state_dict(), folder / "model.safetensors")
        config |= {"network": network_config(parts.network), **parts.codec.write(folder)}
    if parts.heads is not None:
        save_file(parts.heads.state_dict(), folder / "heads.safetensors")
        config["heads"] = {"shape": dataclasses.asdict(parts.heads.shape), "base": own}
    if "base" in config:
        (folder / "README.md").write_text(model_card(config, metrics), encoding="utf-8")
    _write_json(folder / "config.json", config)
    _write_json(folder / "metrics.json", metrics)
    # safetensors' files are for their owner alone; a finished model is not.
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def read_folder(folder: str | Path, base: str | None = None) -> Parts:
    """The inverse of ``write_folder``.

    Args:
        folder: The finished model.
        base: Where the Hugging Face model is that its heads were trained on, if it has moved: ``hf:NAME_OR_FOLDER``.

    Raises:
        InputError: The folder is not a finished model, is damaged, or is of a newer format; or its heads belong to
            another base.
    """
    folder = Path(folder)
    config = _read_config(folder)
    with damaged(f"the finished model in {folder}", REMEDY):
        if "base" in config:
            return _read_hugging_face(folder, config, base)
        if base is not None:
            raise InputError(f"{folder} holds its own network: leave the base {base} out")
        network = build_network(config["network"], load_file(folder / "model.safetensors"), str(folder))
        codec = _codec(config).read(folder, config)
        check_tokens(network, codec, str(folder))
        heads = None
        if "heads" in config:
            remedy = "one of its files was replaced; export the model again"
            check_base(
                config["heads"]["base"], fingerprint(network), str(folder / "model.safetensors"), remedy
            )
            heads = _heads(config["heads"], network, load_file(folder / "heads.safetensors"), str(folder))
    return Parts(network, codec, heads)


def read_codec(folder: str | Path) -> Any:
    """What the tokens of a finished model mean: its codec, without its weights.

    Raises:
        InputError: As ``read_folder``.
    """
    folder = Path(folder)
    config = _read_config(folder)
    with damaged(f"the finished model in {folder}", REMEDY):
        if "base" in config:
            return hugging_face.read_codec(folder, config)
        return _codec(config).read(folder, config)


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no finished model (no config.json): give the folder that a training run ends with, "
            "such as runs/default/model"
        )
    config = read_json(folder / "config.json", REMEDY)
    known = config.get("format")
    if known is None and "model_type" in config:
        raise InputError(f"{folder} holds a Hugging Face model: give hf:{folder}")
    if not isinstance(known, int):
        raise InputError(f"{folder / 'config.json'} is damaged (it names no format): {REMEDY}")
    if known != FORMAT:
        raise InputError(
            f"{folder} is of format {known} and this version reads {FORMAT}: update lightning_bpd"
        )
    return config


def _read_hugging_face(folder: Path, config: Mapping[str, Any], base: str | None) -> Parts:
    where = hugging_face.base_reference(folder, config, base)
    codec = hugging_face.read_codec(folder, config, where)
    network = hugging_face.open_network(where)
    remedy = "name the one that they were trained on, hf:NAME_OR_FOLDER, as base"
    check_base(config["base"]["fingerprint"], fingerprint(network), where, remedy)
    heads = None
    if "heads" in config:
        heads = _heads(config["heads"], network, load_file(folder / "heads.safetensors"), str(folder))
    inside = config["base"]["inside"] and base is None
    return Parts(network, codec, heads, None if inside else where)


def read_heads(folder: str | Path, network: ModelAdapter) -> BlockHeads:
    """A finished model's block heads, for a Hugging Face base that is loaded already, on the CPU.

    Args:
        folder: The finished model.
        network: Its base. It may be of another type than in training if its weights have the same values there.

    Raises:
        InputError: The folder is not a finished model, is damaged or has no such heads, or they belong to another base.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if "base" not in config or "heads" not in config:
        raise InputError(
            f"{folder} has no block heads of a Hugging Face model: give the folder that a training run with "
            "--model.base hf:NAME ends with"
        )
    with damaged(f"the finished model in {folder}", REMEDY):
        base = hugging_face.base_reference(folder, config)
        trained = hugging_face.weight_type(base)
        own = network.output_weight.dtype
        found = fingerprint(network, {own: trained})
        where = f"the {type(network.model).__name__} that was given, in {own},"
        remedy = f"give {base} as it was then, loaded with dtype={trained}"
        check_base(config["base"]["fingerprint"], found, where, remedy)
        return _heads(config["heads"], network, load_file(folder / "heads.safetensors"), str(folder))


def describe(parts: Parts, base: tuple[str, str] | None = None) -> dict[str, Any]:
    """What rebuilds a model, weights aside: plain data and tensors of bytes, fit for a checkpoint.

    Args:
        parts: The model.
        base: Path and fingerprint of the base, where the checkpoint holds its heads alone.
    """
    description: dict[str, Any] = {
        "network": network_config(parts.network),
        **parts.codec.describe(),
    }
    if parts.heads is not None:
        description["heads"] = {"shape": dataclasses.asdict(parts.heads.shape)}
        if base is not None:
            description["heads"] |= {"path": base[0], "base": base[1]}
    return description


def read_checkpoint(path: str | Path, base: str | Path | None = None) -> Parts:
    """The model that a training checkpoint holds: averaged weights where averaging was on.

    Args:
        path: The checkpoint.
        base: The finished model that its heads were trained on, for a checkpoint of heads alone; by default where it
            was then.

    Raises:
        InputError: The file is no checkpoint of a model of this project, or the base is another one.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint")
    with damaged(path, "it is not a checkpoint of a model of this project; give another file"):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
            raise InputError(f"{path} is not a checkpoint of a model of this project: give another file")
        description = checkpoint[CHECKPOINT_KEY]
        weights: dict[str, Tensor] = checkpoint["state_dict"]
        network: Network
        origin: str | None = None
        heads_only = not any(name.startswith("network.") for name in weights)
        if heads_only:
            stored = description["heads"]["path"]
            where = base or stored
            if hugging_face.is_reference(where) and hugging_face.is_reference(stored):
                where = hugging_face.stored_reference(stored, None if base is None else str(base))
            if hugging_face.is_reference(where):
                # Its tokens are what the checkpoint says.
                network, origin = hugging_face.open_network(str(where)), str(where)
            else:
                network, _, _, origin = read_base(where)
            remedy = "name the one that they were trained on with --base"
            check_base(description["heads"]["base"], fingerprint(network), str(where), remedy)
        else:
            network = build_network(description["network"], _under("network.", weights), str(path))
        heads = None
        if "heads" in description:
            heads = _heads(description["heads"], network, _under("heads.", weights), str(path))
        return Parts(network, _codec(description).from_description(description), heads, origin)


def read_base(path: str | Path) -> Parts:
    """A model to start from: a finished model's folder, a checkpoint, or ``hf:NAME_OR_FOLDER``."""
    if hugging_face.is_reference(path):
        where = str(path)
        codec = hugging_face.open_codec(where)
        return Parts(hugging_face.open_network(where), codec, None, where)
    return read_checkpoint(path) if Path(path).is_file() else read_folder(path)


def network_config(network: Network) -> dict[str, Any]:
    """The network's constructor arguments as plain data."""
    if isinstance(network, ImageTransformer):
        return {"image_architecture": dataclasses.asdict(network.architecture)}
    if not isinstance(network, EncoderDecoder):
        return hugging_face.describe_network(network)
    return {
        "architecture": dataclasses.asdict(network.architecture),
        "source_vocabulary": network.source_vocabulary,
        "target_vocabulary": network.target_vocabulary,
        "bos_id": network.bos_id,
        "eos_id": network.eos_id,
    }


def build_network(config: Mapping[str, Any], weights: dict[str, Tensor], where: str) -> Network:
    """The inverse of ``network_config``, with its weights, which are from ``where``."""
    if "hugging_face" in config:
        return hugging_face.rebuild_network(config, weights, where)
    if "image_architecture" in config:
        shape = from_plain(ImageArchitecture, config["image_architecture"])
        return build(
            lambda: ImageTransformer(shape), shape.encoder_layers + shape.decoder_layers, weights, where
        )
    architecture = from_plain(Architecture, config["architecture"])
    others = {name: value for name, value in config.items() if name != "architecture"}
    layers = architecture.encoder_layers + architecture.decoder_layers
    return build(lambda: EncoderDecoder(architecture, **others), layers, weights, where)


def check_tokens(network: Network, codec: Any, where: str) -> None:
    """Raise InputError unless a network of ours and a codec are of the same tokens."""
    if isinstance(network, EncoderDecoder):
        sizes = (network.source_vocabulary, network.target_vocabulary)
        fits = isinstance(codec, TextCodec) and sizes == (codec.source.vocab_size, codec.target.vocab_size)
        fits = fits and all(0 <= token < sizes[1] for token in (network.bos_id, network.eos_id))
    else:
        shape: Any = network.architecture
        own = (shape.height, shape.width, shape.channels, shape.levels, shape.scale)
        fits = own == tuple(codec.describe().get("images", {}).values())
    if not fits:
        raise InputError(f"the tokens of {where} are not those of its network: {REMEDY}")


def _heads(config: Mapping[str, Any], network: Network, weights: dict[str, Tensor], where: str) -> BlockHeads:
    shape = from_plain(HeadShape, config["shape"])
    return build(lambda: BlockHeads(network.architecture.d_model, shape), 0, weights, where)


def _codec(config: Mapping[str, Any]) -> Any:
    """The class of the codec that is described."""
    if "hugging_face_tokenizer" in config:
        return HuggingFaceCodec
    if "images" not in config:
        return TextCodec
    # Not above: translating would wait for what metrics of images import.
    from lightning_bpd.codecs.images import ImageCodec

    return ImageCodec


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def is_finished(folder: Path) -> bool:
    """Whether a folder's config.json is ours: models of other programs have such a file too."""
    try:
        return "format" in read_json(folder / "config.json", REMEDY)
    except InputError:
        return False


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
