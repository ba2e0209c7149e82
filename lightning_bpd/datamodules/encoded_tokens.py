"""Tokens of images, encoded once into a memory-mapped array that is keyed by images and codec (floor 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_bpd.codecs.images import Images, Tokens
from lightning_bpd.codecs.labelled_images import LabelledImageCodec
from lightning_bpd.datamodules.caches import MappedArray, cached, content_key
from lightning_bpd.progress import progress_bar

# Part of the key: raise it when what is stored changes, so that older caches are no longer found.
_FORMAT = 1
_CHUNK_IMAGES = 256

Variants = Literal["none", "flips", "ten_crops"]
"""the images that are made of each training image: itself; also its mirror image; five crops and their mirror images"""


def encode_tokens(
    images: Images, codec: LabelledImageCodec, variants: Variants, key: str, cache: Path, description: str
) -> NDArray[np.unsignedinteger]:
    """Encode images, or find them encoded in ``cache`` by an earlier call. Memory stays bounded.

    Args:
        images: uint8 [N, H, W, C]. Of larger images than the codec's, the centre is encoded, or ten crops.
        codec: Encodes them.
        variants: What to encode of each image.
        key: A hash of the content of ``images``.
        cache: Folder for encoded images, made if it is missing.
        description: The name of the images in messages, such as "train".

    Returns:
        The tokens in raster order, unsigned [V * N, L], memory-mapped, read only: row v * N + n is variant v of image
        n, and variant 0 is the centre of the image.

    Raises:
        InputError: Images are smaller than the codec's, or the cache cannot be written or is damaged.
    """
    views = image_variants(images.shape[1:3], codec, variants)
    dtype = token_type(codec.vocabulary)
    shape = (len(views) * len(images), codec.length)
    folder = cache / f"tokens-{content_key(_FORMAT, 'tokens', key, dict(codec.parts()), variants)}"

    def make(made: Path) -> dict[str, Any]:
        with (
            progress_bar(f"Encoding {description}", "images", shape[0]) as report,
            (made / "tokens").open("wb") as handle,
        ):
            for tokens in encode_views(images, codec, variants):
                handle.write(tokens.astype(dtype).tobytes())
                report(len(tokens))
        return {"shape": shape, "dtype": dtype.str}

    def read(about: dict[str, Any]) -> NDArray[np.unsignedinteger]:
        if (folder / "tokens").stat().st_size != shape[0] * shape[1] * dtype.itemsize:
            raise ValueError(f"it does not have the size of {shape[0]} rows of {shape[1]} tokens")
        return MappedArray(folder / "tokens", dtype, "r", shape=shape)

    return cached(folder, make, read)


def encode_views(images: Images, codec: LabelledImageCodec, variants: Variants) -> Iterator[Tokens]:
    """The tokens of all variants, in the order of ``encode_tokens``, in parts: int64 [some, L]."""
    for view in image_variants(images.shape[1:3], codec, variants):
        for first in range(0, len(images), _CHUNK_IMAGES):
            yield codec.encode(view(np.asarray(images[first : first + _CHUNK_IMAGES])))


def image_variants(
    size: tuple[int, ...], codec: LabelledImageCodec, variants: Variants
) -> list[Callable[[Images], Images]]:
    """The functions that make each variant, at the codec's size, of images of ``size``; the first is the centre."""
    height, width = codec.height, codec.width
    bottom, right = size[0] - height, size[1] - width
    corners = [(bottom // 2, right // 2)]
    if variants == "ten_crops":
        corners += [(0, 0), (0, right), (bottom, 0), (bottom, right)]

    def crop(top: int, left: int, mirrored: bool) -> Callable[[Images], Images]:
        def view(images: Images) -> Images:
            part = images[:, top : top + height, left : left + width]
            return np.ascontiguousarray(part[:, :, ::-1] if mirrored else part)

        return view

    mirrors = (False,) if variants == "none" else (False, True)
    return [crop(*corner, mirrored) for mirrored in mirrors for corner in corners]


def token_type(vocabulary: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds every token."""
    return np.dtype(np.min_scalar_type(vocabulary - 1))
