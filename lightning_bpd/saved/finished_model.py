"""What a trained model is on disk: a folder of its own, and what a checkpoint says of it. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_bpd.codecs import hugging_face
from lightning_bpd.codecs.codec import Codec, check_decoding
from lightning_bpd.codecs.hugging_face import HuggingFaceCodec
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.decoding import Compile, DecodingOptions, compiling, decode
from lightning_bpd.drafters import TrainedDrafter
from lightning_bpd.faults import damaged, named_class, read_json
from lightning_bpd.files import whole_folder
from lightning_bpd.interfaces import DecodeResult, Drafter, InputError, SequenceModel, TokenRows
from lightning_bpd.network import Network, fingerprint
from lightning_bpd.saved.drafter import describe_heads, rebuild_heads
from lightning_bpd.saved.model_card import model_card
from lightning_bpd.saved.network import build_network, check_tokens, network_config

if TYPE_CHECKING:
    from lightning_bpd.adapters import ModelAdapter

FORMAT = 1
REMEDY = "export it again, or fetch it again"
# What a checkpoint holds beside the training state, so that a finished model can be made of it alone.
CHECKPOINT_KEY = "lightning_bpd"


@dataclass(frozen=True, eq=False)
class GenerativeModel:
    """A network, what its tokens mean and, if it has them, the heads that propose blocks of tokens.

    Making one changes none of its parts; ``to`` makes them ready to decode.
    """

    network: Network
    codec: Any
    """what the tokens mean: a Codec"""
    heads: TrainedDrafter | None = None
    """the parameters of its drafter, on the network's device"""
    origin: str | None = None
    """the Hugging Face model that the network is, unchanged; None for any other network"""

    @classmethod
    def of(cls, model: GenerativeModel) -> Self:
        """The same model, seen as this class. Raises InputError if its tokens mean something else."""
        return cls(model.network, model.codec, model.heads, model.origin)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.output_weight.device

    @property
    def block_size(self) -> int | None:
        """The largest block that the heads propose; None without heads."""
        return None if self.heads is None else self.heads.block_size

    @cached_property
    def model(self) -> SequenceModel[Any]:
        """p_1: the network, through the first head if that was learned."""
        return self.network if self.heads is None else self.heads.model(self.network)

    @cached_property
    def drafter(self) -> Drafter | None:
        """Proposes blocks; None without heads."""
        return None if self.heads is None else self.heads.drafter(self.network)

    def to(self, device: str | torch.device) -> Self:
        """Move network and heads there, in eval mode."""
        for part in (self.network, self.heads):
            if part is not None:
                part.to(device).eval()
        return self

    def check(self, options: DecodingOptions) -> DecodingOptions:
        """The options, if tokens and heads allow them; otherwise raises InputError (see ``check_decoding``)."""
        return check_decoding(options, self.block_size, self.codec)

    def compiling(self, options: DecodingOptions, when: Compile, batches: float) -> DecodingOptions:
        """The options, compiled if ``when`` says so (see ``decoding.compiling``); auto is for CPUs."""
        if when == "auto" and self.device.type != "cpu":
            return options
        return compiling(options, when, self.model, self.drafter, batches)

    def batches(self, sources: Any, batch_size: int) -> Iterator[tuple[list[int], TokenRows]]:
        """All sources, ``batch_size`` together, ready to decode, with the index of each row in ``sources``."""
        raise NotImplementedError(f"what sources are is for a face of {self.codec.kind} to say")

    def decode(
        self, rows: TokenRows, options: DecodingOptions, numbers: Tensor | None = None
    ) -> DecodeResult:
        """Decode a batch.

        Args:
            rows: Sources, on the model's device.
            options: How; ``check`` tells whether the model can be decoded so.
            numbers: int64 [B], the numbers of the rows that a sampler draws noise for.
        """
        return decode(self.model, rows, options, self.drafter, numbers)

    def save(self, folder: str | Path, metrics: Mapping[str, Any]) -> None:
        """Write ``model.safetensors``, ``config.json``, tokenizer(s), ``metrics.json`` and any ``heads.safetensors``.

        Of a Hugging Face model that is as its author left it, weights and tokenizer stay where they are and are
        named; one that was trained here is in the subfolder ``base``, as ``save_pretrained`` writes it. Both have a
        ``README.md``.

        The folder appears whole, and a finished model that is there already makes way at the last moment; a folder of
        anything else is refused.

        Raises:
            InputError: The folder holds something that is not a finished model, or cannot be written.
        """
        folder = Path(folder)
        try:
            if folder.exists() and any(folder.iterdir()) and not is_finished(folder):
                raise InputError(f"{folder} is not empty and holds no finished model: choose another folder")
            with whole_folder(folder, replace=True) as unfinished:
                _write(self, unfinished, metrics)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{folder} cannot be written as a folder: {reason}") from error


def check_base(wanted: str, found: str, where: str, remedy: str) -> None:
    """Raise InputError, naming both, unless heads meet the base that they were trained on."""
    if wanted != found:
        raise InputError(
            f"the block heads were trained on a base with fingerprint {wanted}, and {where} is {found}: {remedy}"
        )


def _write(model: GenerativeModel, folder: Path, metrics: Mapping[str, Any]) -> None:
    """The files of ``GenerativeModel.save``, into a folder that is there and empty."""
    config: dict[str, Any] = {"format": FORMAT}
    own = fingerprint(model.network)
    if model.network.of_hugging_face:
        network: Any = model.network
        config |= hugging_face.write_base(network, model.codec, model.origin, own, folder)
    else:
        save_file(model.network.state_dict(), folder / "model.safetensors")
        config |= {"network": network_config(model.network), **model.codec.write(folder)}
    if model.heads is not None:
        save_file(model.heads.state_dict(), folder / "heads.safetensors")
        config["heads"] = {**describe_heads(model.heads), "base": own}
    if "base" in config:
        (folder / "README.md").write_text(model_card(config, metrics), encoding="utf-8")
    _write_json(folder / "config.json", config)
    _write_json(folder / "metrics.json", metrics)
    # safetensors' files are for their owner alone; a finished model is not.
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def read_folder(folder: str | Path, base: str | None = None) -> GenerativeModel:
    """The inverse of ``GenerativeModel.save``.

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
        codec = _codec(config, str(folder)).read(folder, config)
        check_tokens(network, codec, str(folder))
        heads = None
        if "heads" in config:
            remedy = "one of its files was replaced; export the model again"
            check_base(
                config["heads"]["base"], fingerprint(network), str(folder / "model.safetensors"), remedy
            )
            heads = rebuild_heads(
                config["heads"], network, load_file(folder / "heads.safetensors"), str(folder)
            )
    return GenerativeModel(network, codec, heads)


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
        return _codec(config, str(folder)).read(folder, config)


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


def _read_hugging_face(folder: Path, config: Mapping[str, Any], base: str | None) -> GenerativeModel:
    where = hugging_face.base_reference(folder, config, base)
    codec = hugging_face.read_codec(folder, config, where)
    network = hugging_face.open_network(where)
    remedy = "name the one that they were trained on, hf:NAME_OR_FOLDER, as base"
    check_base(config["base"]["fingerprint"], fingerprint(network), where, remedy)
    heads = None
    if "heads" in config:
        heads = rebuild_heads(config["heads"], network, load_file(folder / "heads.safetensors"), str(folder))
    inside = config["base"]["inside"] and base is None
    return GenerativeModel(network, codec, heads, None if inside else where)


def read_heads(folder: str | Path, network: ModelAdapter) -> TrainedDrafter:
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
        return rebuild_heads(config["heads"], network, load_file(folder / "heads.safetensors"), str(folder))


def describe(model: GenerativeModel, base: tuple[str, str] | None = None) -> dict[str, Any]:
    """What rebuilds a model, weights aside: plain data and tensors of bytes, fit for a checkpoint.

    Args:
        model: The model.
        base: Path and fingerprint of the base, where the checkpoint holds its heads alone.
    """
    description: dict[str, Any] = {
        "network": network_config(model.network),
        **model.codec.describe(),
    }
    if model.heads is not None:
        description["heads"] = describe_heads(model.heads)
        if base is not None:
            description["heads"] |= {"path": base[0], "base": base[1]}
    return description


def read_checkpoint(path: str | Path, base: str | Path | None = None) -> GenerativeModel:
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
                found = read_base(where)
                network, origin = found.network, found.origin
            remedy = "name the one that they were trained on with --base"
            check_base(description["heads"]["base"], fingerprint(network), str(where), remedy)
        else:
            network = build_network(description["network"], _under("network.", weights), str(path))
        heads = None
        if "heads" in description:
            heads = rebuild_heads(description["heads"], network, _under("heads.", weights), str(path))
        return GenerativeModel(
            network, _codec(description, str(path)).from_description(description), heads, origin
        )


def read_base(path: str | Path) -> GenerativeModel:
    """A model to start from: a finished model's folder, a checkpoint, or ``hf:NAME_OR_FOLDER``."""
    if hugging_face.is_reference(path):
        where = str(path)
        codec = hugging_face.open_codec(where)
        return GenerativeModel(hugging_face.open_network(where), codec, None, where)
    return read_checkpoint(path) if Path(path).is_file() else read_folder(path)


def _codec(config: Mapping[str, Any], where: str) -> Any:
    """The class of the codec that is described in ``where``."""
    if "codec" in config:
        return named_class(config["codec"]["class_path"], Codec, where)
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
