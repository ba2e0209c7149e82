"""Blockwise decoding of images against our own greedy decoding, as ``blockwise_speed.py`` measures it for text.

python benchmarks/image_speed.py --model runs/digits/model --acceptance distance-1
python benchmarks/image_speed.py --model runs/faces/model --source img_align_celeba.zip --images 4
python benchmarks/image_speed.py --images 2 --agreement 0.8

Without ``--model`` it is the paper's network with random weights and heads, for images of 8 x 8 pixels, and a drafter
that proposes greedy's own tokens as often as ``--agreement`` says (see ``blockwise_speed.py``). All arms take turns,
and ratios are taken within a turn. The limit L_k is the time of one cached call over one token by that of a call over
k, decoder and p_1's projection, no heads: the most efficiency that model and machine allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from blockwise_speed import Subject, measure, print_results, random_heads, subject
from jsonargparse import auto_cli
from timing import machine, write_json

from lightning_bpd.codecs.images import ImageCodec, images_to_tokens
from lightning_bpd.datamodules import Digits
from lightning_bpd.datamodules.image_files import list_images, read_images
from lightning_bpd.decoding import parse_acceptance
from lightning_bpd.drafters import HeadShape
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import ImageArchitecture, ImageTransformer
from lightning_bpd.saved.finished_model import read_folder


def finished_model(folder: Path, source: Path | None, images: int, device: torch.device) -> Subject:
    """A finished model of images with its own heads, and small images to enlarge: the digits' test set by default."""
    parts = read_folder(folder)
    codec = parts.codec
    if not isinstance(codec, ImageCodec) or parts.heads is None:
        raise InputError(f"{folder} is no model of images with block heads")
    if source is None:
        data = Digits()
        if codec != data.codec:
            raise InputError(f"{folder} is of other images than the digits: give --source")
        data.setup("test")
        rows = codec.source_tokens(np.stack(data.references("test")[:images]))
    else:
        names = list_images(source)[:images]
        read = read_images(source, names, *codec.source_shape, lambda *_: None)
        rows = images_to_tokens(np.stack([image for _, image in read]), codec.levels)
    return subject(parts.network.to(device).eval(), parts.heads.to(device).eval(), rows.tolist())


def random_model(shape: HeadShape, images: int, device: torch.device) -> Subject:
    """The paper's network for images of 8 x 8 pixels, and inputs of random intensities."""
    torch.manual_seed(0)
    architecture = ImageArchitecture(height=8, width=8, dropout=0.0)
    network = ImageTransformer(architecture).to(device).eval()
    rows = torch.randint(architecture.levels, (images, architecture.source_length)).tolist()
    return subject(network, random_heads(network, shape), rows)


def main(
    model: Path | None = None,
    source: Path | None = None,
    agreement: float | None = None,
    heads: HeadShape = HeadShape(block_size=6, d_hidden=512),  # noqa: B008  # frozen
    acceptance: str = "exact",
    images: int = 16,
    block_sizes: Sequence[int] = (6,),
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    device: Literal["cpu", "cuda"] = "cpu",
    repeats: int = 9,
    json: Path | None = None,
) -> None:
    """Time blockwise decoding of images against greedy decoding, in float32.

    Args:
        model: A finished model's folder; a random network if not given.
        source: Images for it, as ``upscale`` reads them; the digits' test set if not given.
        agreement: Probability that a proposal is greedy's token; the heads' own proposals if not given.
        heads: Shape of the random heads.
        acceptance: Which proposals stay, such as exact or distance-1.
        images: How many to decode.
        block_sizes: Tokens verified in one call, each at least 2.
        batch_sizes: Images decoded together.
        threads: CPU threads, one round of measurements for each number.
        device: Where to decode.
        repeats: Timed turns.
        json: Where to write the numbers as well.
    """
    place = torch.device(device)
    given = partial(finished_model, model, source) if model is not None else partial(random_model, heads)
    measured = given(images, place)
    rule = parse_acceptance(acceptance)
    results = []
    for number in threads if device == "cpu" else (torch.get_num_threads(),):
        torch.set_num_threads(number)
        for batch_size in batch_sizes:
            entries = measure(measured, batch_size, block_sizes, agreement, 0, repeats, rule)
            results += [{"threads": number, **entry} for entry in entries]
    print(
        f"{machine(place)}, {len(measured.rows)} images, {repeats} repeats, {acceptance}, agreement {agreement}\n"
    )
    print_results(results)
    settled = {"acceptance": acceptance, "agreement": agreement, "machine": machine(place)}
    write_json(json, {**settled, "results": results})


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
