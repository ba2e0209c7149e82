"""Images on disk, read as a stream from folders, arrays, idx files, and archives without unpacking them (floor 3)."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lightning_bpd.codecs.images import Images, centre_crop
from lightning_bpd.datamodules.caches import file_digest
from lightning_bpd.datamodules.held_out import Part, first_alike
from lightning_bpd.datamodules.idx_files import idx_files, idx_names, is_idx, read_idx_images
from lightning_bpd.datamodules.image_arrays import PART_OF_FOLDER, array_names, is_array_file, read_arrays
from lightning_bpd.faults import damaged
from lightning_bpd.files import path_inside
from lightning_bpd.interfaces import InputError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Formats that Pillow decodes itself. For others, such as EPS, it starts programs that the image could control.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# More bytes than any image within Pillow's limit takes. A member that claims more is not read.
_MOST_BYTES = 1 << 29
_SHOWN = 3

Skip = Callable[[str, str], None]
"""called with the name of each image that is left out, and the reason"""


class _RefusedError(Exception):
    """An image cannot be used; the message says why."""


def list_images(path: Path) -> list[str]:
    """The names of all images of a folder, an archive or an array file, sorted, none of them opened.

    A name is the path inside the folder or archive, with ``/``, also if an archive has backslashes. Outer folders that
    hold all images are left out of the names. Hidden files are skipped. The images of an array are named by number:
    ``000012``, and in an ``.npz`` file ``train/000012``.

    Raises InputError if ``path`` is missing, damaged, of another kind, or without an image, or a name leads out of it.
    """
    return sorted(image_members(path))


def split_names(
    names: Sequence[str],
    validation_share: float,
    test_share: float,
    contents: Callable[[], Mapping[str, bytes]] = dict,
) -> dict[Part, list[str]]:
    """The names of the images of each part, in the order of ``names``.

    If first folders are called ``train``, ``val`` (or ``validation``) and ``test``, they decide, and images in other
    folders belong to no part. Without ``val``, a share of ``train`` is the validation part. If no first folder has
    such a name, validation and test are shares of all images. Whether an image is in a share depends only on its name
    without the part's folder. Images of equal content belong to the part of the first of them.

    Args:
        names: The result of ``list_images``.
        validation_share: At least 0, below 1.
        test_share: At least 0, below 1.
        contents: Gives a hash of each image, as ``content_hashes`` does; called only if shares are taken. By default
            no images count as equal.

    Raises:
        InputError: A share is out of range, or the shares leave no training images.
    """
    for setting, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 <= share < 1:
            raise InputError(f"{setting} is {share}: it must be at least 0 and less than 1")
    if validation_share + test_share >= 1:
        raise InputError(
            "validation_share and test_share leave nothing to train on: their sum must be below 1"
        )
    found, parted = _first_folders(names) & set(PART_OF_FOLDER), is_parted(names)
    parts: dict[Part, list[str]] = {"train": [], "validation": [], "test": []}
    lacks_validation = parted and not found & {"val", "validation"}
    hashes = contents() if lacks_validation or not parted else {}
    first = first_alike(hashes.get(name, f"\0{name}".encode(errors="surrogateescape")) for name in names)
    for name, alike in zip(names, first, strict=True):
        part: Part | None = "train"
        if parted:
            folder, _, own = name.partition("/")
            part = PART_OF_FOLDER.get(folder) if own else None
        leader = names[alike]
        place = _place(leader.partition("/")[2] if parted else leader)
        if part == "train" and (lacks_validation or not parted) and place < validation_share:
            part = "validation"
        elif not parted and validation_share <= place < validation_share + test_share:
            part = "test"
        if part is not None:
            parts[part].append(name)
    return parts


def _first_folders(names: Sequence[str]) -> set[str]:
    """The first folders of the names that have one."""
    return {name.partition("/")[0] for name in names if "/" in name}


def is_parted(names: Sequence[str]) -> bool:
    """Whether the first folders of the names are parts: ``train``, ``val`` (or ``validation``), ``test``."""
    firsts = _first_folders(names)
    found = firsts & set(PART_OF_FOLDER)
    # A class of images may be called train: then the folders beside it are other classes.
    return bool(found) and (firsts == found or ("train" in found and len(found) > 1))


def read_images(
    path: Path, names: Sequence[str], height: int, width: int, channels: int, on_skip: Skip
) -> Iterator[tuple[str, Images]]:
    """The named images as a stream of names and arrays, uint8 [height, width, channels].

    Each image is cropped to the largest centred part with the given proportions, and a larger crop is reduced by
    area averaging. Photographs are turned upright, only the first frame of an animation is read, transparency is
    dropped, and colours are converted to ``channels``. Images that are damaged, smaller than the arrays, or over
    Pillow's limit of pixels are left out.

    The stream has the order of ``names``. For arrays, and for a compressed tar, which is read from front to back, it
    has the order of the file.

    Args:
        path: The folder, archive or array file.
        names: The result of ``list_images``.
        height: Height of the arrays, in pixels.
        width: Width of the arrays, in pixels.
        channels: 1 or 3.
        on_skip: Called for each image that is left out.

    Raises:
        InputError: ``path`` can no longer be read.
    """
    with _explained(path):
        for name, load in _stored_images(path, names):
            try:
                yield name, _fitted(_converted(load, channels), height, width)
            except _RefusedError as refused:
                on_skip(name, str(refused))


def fingerprint(path: Path) -> str:
    """A hash of the bytes of an archive or array, or of a folder's images and their names: 32 hexadecimal digits.

    Raises InputError as ``list_images`` does.
    """
    whole = hashlib.blake2b(digest_size=16)
    if path.is_dir() and is_idx(path):
        files = {prefix: file.name for prefix, file in idx_files(path).items()}
    else:
        files = image_members(path) if path.is_dir() else {"": path.name}
    for name, member in sorted(files.items()):
        whole.update(f"{name}\0".encode(errors="surrogateescape"))
        whole.update(file_digest(path / member if path.is_dir() else path))
    return whole.hexdigest()


def content_hashes(path: Path) -> dict[str, bytes]:
    """A hash of the stored bytes of each image, by the names of ``list_images``; equal files have equal hashes.

    Raises InputError as ``list_images`` does, and if an image cannot be read.
    """
    members = image_members(path)
    with _explained(path):
        if is_idx(path) or is_array_file(path):
            return {name: _hash(pixels.tobytes()) for name, pixels in _stored_arrays(path, members)}
        if path.is_dir():
            return {name: file_digest(path / member) for name, member in members.items()}
        if path.name.endswith(".zip"):
            with zipfile.ZipFile(path) as zipped:
                infos = {name: zipped.getinfo(member) for name, member in members.items()}
            return {name: b"%d %d" % (info.CRC, info.file_size) for name, info in infos.items()}
        with tarfile.open(path) as tar:
            # In the order of the archive, since a compressed tar is read in order. Later members replace earlier ones.
            found = {each.name: _hash(_tar_bytes(tar, each)) for each in tar if each.isfile()}
        return {name: found[member] for name, member in members.items()}


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content).digest()


def summary(skipped: Sequence[tuple[str, str]]) -> str:
    """The number of images left out, and the first of them with the reasons, for messages."""
    first = [f"{name}: {reason}" for name, reason in skipped[:_SHOWN]]
    # File names need not be valid text.
    shown = "; ".join(first).encode(errors="backslashreplace").decode()
    more = "; ..." if len(skipped) > _SHOWN else ""
    return f"{len(skipped)} left out" + (f" ({shown}{more})" if skipped else "")


def _place(name: str) -> float:
    """A number from 0 to 1 that depends only on the name."""
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def image_members(path: Path) -> dict[str, str]:
    """The stored name of each image, by its name in ``list_images``. Raises InputError as ``list_images`` does."""
    with _explained(path):
        if is_idx(path):
            return idx_names(path)
        if path.is_dir():
            members = list(_walk(path))
        elif is_array_file(path):
            return dict.fromkeys(array_names(path), path.name)
        elif path.name.endswith(_TAR_SUFFIXES):
            with tarfile.open(path) as tar:
                members = [member.name for member in tar if member.isfile()]
        elif path.name.endswith(".zip"):
            with zipfile.ZipFile(path) as zipped:
                members = [member.filename for member in zipped.infolist() if not member.is_dir()]
        else:
            path.stat()
            raise InputError(
                f"{path}: no images can be read from this; give a folder of images, or a .tar, .tar.gz, .tgz, .zip,"
                " .npy, .npz or idx file"
            )
    stored = PurePosixPath if path.is_dir() else PureWindowsPath
    named = {stored(member).as_posix(): member for member in members}
    named = {name: member for name, member in named.items() if _is_image(name)}
    for name in () if path.is_dir() else named:
        path_inside(path, name)
    if not named:
        raise InputError(
            f"{path}: there is no image in it, no file that ends in {', '.join(sorted(SUFFIXES))}"
        )
    outer = _outer(list(named))
    return {name[outer:]: member for name, member in named.items()}


def _is_image(name: str) -> bool:
    *folders, file = name.split("/")
    hidden = any(each.startswith(".") and each != ".." for each in (*folders, file)) or "__MACOSX" in folders
    return not hidden and PurePosixPath(file).suffix.lower() in SUFFIXES


def _outer(names: list[str]) -> int:
    """The number of characters of the outer folders that hold all names; a folder named like a part ends them."""
    folders = [name.split("/")[:-1] for name in names]
    length = 0
    for one, other in zip(min(folders), max(folders), strict=False):
        if one != other or one in PART_OF_FOLDER:
            break
        length += len(one) + 1
    return length


def _walk(path: Path) -> Iterator[str]:
    seen = set()
    for folder, inner, files in os.walk(path, followlinks=True, onerror=_raise):
        inner.sort()
        # A link to a parent folder would make an endless loop.
        if (place := os.path.realpath(folder)) in seen:
            inner.clear()
            continue
        seen.add(place)
        for file in files:
            yield (Path(folder) / file).relative_to(path).as_posix()


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the errors of reading a folder or file into an InputError that names it."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    with damaged(path, "fetch it again"):
        yield


def _stored_images(path: Path, names: Sequence[str]) -> Iterator[tuple[str, Callable[[], Image.Image]]]:
    """The names of the images, and functions that load them."""
    members = image_members(path)
    missing = [name for name in names if name not in members]
    if missing:
        raise InputError(f"{path}: the image {missing[0]} is not there any more; start again")
    if is_idx(path) or is_array_file(path):
        for name, pixels in _stored_arrays(path, set(names)):
            yield name, partial(_picture, pixels)
    elif path.is_dir():
        for name in names:
            yield name, partial(_decoded, (path / members[name]).read_bytes)
    elif path.name.endswith(".zip"):
        with zipfile.ZipFile(path) as zipped:
            for name in names:
                info = zipped.getinfo(members[name])
                yield name, partial(_decoded, partial(zipped.read, info), info.file_size)
    else:
        with tarfile.open(path) as tar:
            # A later member of the same name replaces an earlier one, as it does when unpacked.
            stored = {member.name: member for member in tar.getmembers() if member.isfile()}
            wanted = [(name, stored[members[name]]) for name in names]
            if path.suffix != ".tar":
                wanted.sort(key=lambda each: each[1].offset)
            for name, member in wanted:
                yield name, partial(_decoded, partial(_tar_bytes, tar, member), member.size)


def _stored_arrays(path: Path, names: Container[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The images of an idx file, a folder of idx files or an array file that are called ``names``."""
    return read_idx_images(path, names) if is_idx(path) else read_arrays(path, names)


def _tar_bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    handle = tar.extractfile(member)
    assert handle is not None
    return handle.read()


def _decoded(read: Callable[[], bytes], size: int = 0) -> Image.Image:
    """The image in the bytes that ``read`` returns; the archive claims that they are ``size`` bytes."""
    if size > _MOST_BYTES:
        raise _RefusedError(f"{size:,} bytes, more than any image that is read")
    image = Image.open(io.BytesIO(read()), formats=_FORMATS)
    image.load()
    if image.mode.startswith(("I", "F")):
        raise _RefusedError("more than 8 bits an intensity")
    return ImageOps.exif_transpose(image)


def _converted(load: Callable[[], Image.Image], channels: int) -> Image.Image:
    """The image that ``load`` returns, in grey or in colours. Raises _RefusedError for every fault of the image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return load().convert("L" if channels == 1 else "RGB")
        except _RefusedError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise _RefusedError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
        except UnidentifiedImageError:
            raise _RefusedError("damaged, or of an unknown format") from None
        except Exception as error:  # the decoders may raise any error for a damaged file
            raise _RefusedError(f"it cannot be read ({error})") from None


def _fitted(image: Image.Image, height: int, width: int) -> Images:
    """The centre of an image at the given size, uint8 [height, width, channels]. Raises _RefusedError."""
    if image.height < height or image.width < width:
        raise _RefusedError(f"{image.height} x {image.width} pixels, smaller than {height} x {width}")
    if image.width * height <= image.height * width:
        crop = round(image.width * height / width), image.width
    else:
        crop = image.height, round(image.height * width / height)
    channels = len(image.getbands())
    whole = np.asarray(image).reshape(1, image.height, image.width, channels)
    pixels: Images = centre_crop(whole, *crop)[0]
    if crop != (height, width):
        resized = _picture(pixels).resize((width, height), Image.Resampling.BOX)
        pixels = np.asarray(resized).reshape(height, width, channels)
    return pixels


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """Make a Pillow image from uint8 [H, W] or [H, W, C]."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)
