"""upscale: small images in, large images out."""

from __future__ import annotations

import logging
import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_bpd.cli.translate import find_device
from lightning_bpd.codecs.images import to_png
from lightning_bpd.datamodules.image_files import image_members, read_images, summary
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.decoding.options import JACOBI_WINDOW
from lightning_bpd.files import path_inside, write_atomically
from lightning_bpd.interfaces import InputError, check_range
from lightning_bpd.metrics import AcceptedSizes, mean_accepted_block_size
from lightning_bpd.progress import progress_bar
from lightning_bpd.saved.finished_model import read_folder
from lightning_bpd.saved.upscaling import Upscaler

logger = logging.getLogger(__name__)


def upscale(
    model: str,
    input: str,
    output: str,
    decoder: Literal["greedy", "blockwise", "jacobi"] = "greedy",
    block_size: int | None = None,
    acceptance: str = "exact",
    batch_size: int = 16,
    device: str = "auto",
    compile: Literal["auto", "always", "never"] = "auto",
) -> None:
    """Enlarge images with a finished model of images.

    Input of the model's input size is taken as it is; of a larger image the middle is taken and made smaller by area.
    What cannot be read is left out, counted and named. Output has the input's names, as PNG; names that would become
    one file are refused, and so are folders of which one holds the other.

    Args:
        model: Folder of the finished model, such as runs/digits/model.
        input: Folder or archive (.tar, .tar.gz, .zip) of images, or a .npy or .npz file of uint8 arrays.
        output: Folder to write.
        decoder: blockwise gives, by the exact rule, what greedy gives, in fewer calls; jacobi does so without heads.
        block_size: Tokens that a call verifies; by default as many as the heads were trained for, and 8 for jacobi.
        acceptance: Which proposals stay: exact; adaptive (exact, with only as many proposals as pay on this machine);
            distance-N; top-N; or minimum-N (at least N tokens a block).
        batch_size: Images decoded together.
        device: Such as cpu, cuda or cuda:1; auto takes a GPU if there is one.
        compile: Whether calls are compiled by torch: the same output, faster on a CPU, after 15 to 60 seconds of
            compiling, once for a shape of model. auto is if there are enough images, on a CPU.
    """
    place = find_device(device)
    upscaler = Upscaler.of(read_folder(model)).to(place)
    check_range(1, batch_size=batch_size)
    options = DecodingOptions(decoder, block_size=block_size, acceptance=acceptance)
    upscaler.check(options)
    members = image_members(Path(input))
    options = upscaler.compiling(options, compile, len(members) / batch_size)
    paths = output_paths(Path(input), members, Path(output))
    skipped: list[tuple[str, str]] = []
    images = read_images(
        Path(input),
        sorted(members),
        *upscaler.codec.source_shape,
        lambda name, reason: skipped.append((name, reason)),
    )
    # The longest block that is possible: one of Jacobi decoding needs no heads.
    window = options.block_size or JACOBI_WINDOW
    sizes = AcceptedSizes(window if decoder == "jacobi" else upscaler.block_size or 1)
    done = 0
    with progress_bar("Enlarging", "images", len(members)) as count:
        while batch := list(islice(images, batch_size)):
            enlarged, result = upscaler.upscale(np.stack([image for _, image in batch]), options)
            if result.accepted is not None:
                sizes.update(result.accepted)
            _write([paths[name] for name, _ in batch], enlarged)
            done += len(batch)
            count(len(batch))
    if not done:
        raise InputError(f"{input}: no image can be used: {summary(skipped)}")
    mean = mean_accepted_block_size(sizes.sums)
    blocks = "" if math.isnan(mean) else f"; mean accepted block size {mean:.2f}"
    left_out = f"; {summary(skipped)}" if skipped else ""
    logger.info("%d images in %s%s%s", done, output, blocks, left_out)


def output_paths(source: Path, members: Mapping[str, str], output: Path) -> dict[str, Path]:
    """The file that the enlargement of each image becomes, by the image's name.

    Args:
        source: The folder, archive or array file.
        members: What ``image_members`` says of it.
        output: The folder to write.

    Raises:
        InputError: A file would lie outside of ``output``, two images would become one file, here or where case and
            Unicode forms of names do not count, or input and output folders hold one another.
    """
    if source.is_dir():
        folder = Path(os.path.realpath(output))
        files = [Path(os.path.realpath(source / member)) for member in members.values()]
        if folder.is_relative_to(source.resolve()) or any(file.is_relative_to(folder) for file in files):
            raise InputError(
                f"--output {output} and --input {source} hold one another, which would overwrite images: give another "
                "--output"
            )
    paths = {name: path_inside(output, name).with_suffix(".png") for name in members}
    taken: dict[str, set[str]] = {}
    for name, path in paths.items():
        taken.setdefault(_folded(path), set()).add(name)
    for name, path in paths.items():
        # The folder of one image may be called as the file of another.
        for each in (path, *path.parents):
            if others := taken.get(_folded(each), {name}) - {name}:
                raise InputError(
                    f"{source}: {name} and {min(others)} would both be written as {each}: rename one of them"
                )
    return paths


def _folded(path: Path) -> str:
    """What is equal for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", str(path).casefold())


def _write(paths: Sequence[Path], images: Sequence[np.ndarray]) -> None:
    for path, image in zip(paths, images, strict=True):
        try:
            write_atomically(path, to_png(image), durable=False)
        except OSError as error:
            raise InputError(f"--output {path} cannot be written: {error.strerror}") from error
