"""generate-images: images of classes, by any plan that a finished model can follow."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lightning_bpd.cli.translate import find_device
from lightning_bpd.codecs.images import to_png
from lightning_bpd.decoding import make_sampler
from lightning_bpd.files import path_inside, write_atomically
from lightning_bpd.interfaces import InputError, check_range
from lightning_bpd.measuring.generation import OWN, animation, draw_plans, generate
from lightning_bpd.models import TokenShape
from lightning_bpd.progress import progress_bar
from lightning_bpd.saved.finished_model import read_folder

logger = logging.getLogger(__name__)


def generate_images(
    model: str,
    output: str,
    classes: str = "all",
    count: int = 1,
    plan: str = "own",
    guidance: float = 1.0,
    sample: bool = True,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    files: bool = True,
    gif: bool = False,
    device: str = "auto",
) -> None:
    """Generate images of classes with a finished model.

    Args:
        model: Folder of the finished model, such as runs/digits_generation/model.
        output: Folder to write: grid.png, and an image of each as CLASS_NUMBER.png.
        classes: Names or labels of classes, with commas between them, or all.
        count: Images of each class.
        plan: Which tokens are predicted together. own is the order that a model was trained for; a model with position
            queries follows raster, regions-N, consecutive-N, random-P, halton-P and locality-P, with P passes; one of a
            token a pass also jacobi-W: speculative Jacobi decoding with blocks of W, the same images in fewer calls.
        guidance: Scale of classifier-free guidance; 1 is none, and more follows the class more closely.
        sample: Whether tokens are drawn at random; if not, the most probable ones are taken.
        temperature: Divides the logits.
        top_k: Draw from the k most probable tokens only.
        top_p: Draw from the smallest set of most probable tokens that has this probability.
        seed: Selects the noise; the same seed gives the same images.
        batch_size: Images generated together.
        files: Whether each image is written to a file of its own, too.
        gif: Whether filling.gif shows how the images are filled, pass by pass.
        device: Such as cpu, cuda or cuda:1; auto takes a GPU if there is one.
    """
    check_range(1, count=count, batch_size=batch_size)
    sampler = make_sampler(sample, temperature, top_k, top_p, seed)
    found = read_folder(model).to(find_device(device))
    network: Any = found.network
    codec = found.codec
    if codec.kind != TokenShape.kind:
        raise InputError(
            f"{model} does not generate images of classes: give a model that ImageGeneration trained"
        )
    names = codec.classes
    labels = find_labels(classes, names)
    wanted = [label for _ in range(count) for label in labels]
    batches = -(-len(wanted) // batch_size)
    with progress_bar("Generating", "passes") as report:
        made = generate(network, codec, wanted, plan, sampler, guidance, batch_size, report)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        columns = len(labels) if len(labels) > 1 else min(count, 10)
        draw_plans([made], folder / "grid.png", columns, f"guidance {guidance:g}, seed {seed}")
        if gif:
            write_atomically(folder / "filling.gif", animation(made, codec, columns), durable=False)
        if files:
            for number, (label, image) in enumerate(zip(wanted, made.images, strict=True)):
                path = path_inside(folder, f"{names[label]}_{number // len(labels)}.png")
                write_atomically(path, to_png(image), durable=False)
    except OSError as error:
        raise InputError(f"--output {output} cannot be written: {error.strerror}") from error
    logger.info(
        "%d images in %s: %s, %d batches of %.4g passes, %.2f s",
        len(wanted),
        output,
        plan if plan != OWN else "the model's own plan",
        batches,
        made.passes,
        made.seconds,
    )


def find_labels(classes: str, names: tuple[str, ...]) -> list[int]:
    """The labels of classes that are given by name or label. Raises InputError for a class that is not there."""
    if classes == "all":
        return list(range(len(names)))
    labels = []
    for name in (each.strip() for each in classes.split(",")):
        if name in names:
            labels.append(names.index(name))
        elif name.isdecimal() and int(name) < len(names):
            labels.append(int(name))
        else:
            known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise InputError(
                f"there is no class {name!r}: choose from {known}, or labels 0 to {len(names) - 1}"
            )
    return labels
