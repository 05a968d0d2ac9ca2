"""`imagefolder:DIR`: image files in DIR/train/CLASS/ and DIR/test/CLASS/."""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from prunetune.data.dataset import GREY_MODES, Dataset, Source, require_memory, stack_images
from prunetune.errors import ConfigError

SPLITS = ("train", "test")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # of Pillow's; one of the others starts Ghostscript
OTHERS = {b"ftypavif": "an AVIF image", b"ftyphei": "a HEIC image", b"<svg": "an SVG drawing", b"%PDF": "a PDF"}
MARKED = 300  # bytes at the beginning of a file in which its kind is told
LEFT_BEHIND = {"thumbs.db", "ehthumbs.db", "desktop.ini"}  # by Windows' file manager, in any folder of images
LARGEST = 4096  # pixels on a side that images are scaled to
ORIENTATION = 0x0112  # of EXIF; 1 is upright
# What a file contains that may say an orientation; TIFF files are turned by Pillow as they are read.
EXIF_SIGNS = (b"Exif", b"EXIF", b"eXIf", b"exif", b"Orientation")
DEEP = ("I", "F")  # first letters of Pillow's modes of more than 8 bits: reading them as 8 bits would clip


class ImageFolder(Source):
    """Classes are the sorted folder names under `train`; images the sorted files in them, hidden ones left out.

    Images that are all greyscale give one channel, others three (RGB). `size` scales each to size x size pixels
    (bilinear, antialiased, the aspect ratio not kept); without it all must have the same size. All are held in memory.
    Images are turned as their EXIF orientation says, as viewers do.
    """

    options = MappingProxyType({"root": str, "size": int})

    def digest(self, root: str = "", size: int | None = None, **options: Any) -> str:
        """SHA-256 over the relative paths and the contents of all images, and which of them are turned."""
        check_size(size)
        whole = hashlib.sha256()
        for path, _, _ in _listing(_folder(root)):
            add_file(whole, path, root, path.read_bytes())
        return whole.hexdigest()

    def read(self, root: str = "", size: int | None = None, **options: Any) -> tuple[Dataset, str]:
        """Decode all images. ConfigError naming the folder or the file that is not as it must be."""
        whole = hashlib.sha256()
        arrays: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        labels: dict[str, list[int]] = {split: [] for split in SPLITS}
        first: tuple[Path, tuple[int, ...]] | None = None
        held = 0  # bytes, that are copied once when they are put together
        for path, split, label in _listing(_folder(root)):
            content = path.read_bytes()
            add_file(whole, path, root, content)
            array = decode(content, path, size)
            held += array.nbytes
            require_memory(2 * held, f"the images up to {path}", "give data_args.size, or fewer of them")
            first = first or (path, array.shape[:2])
            require_agreement(path, array.shape[:2], first)
            arrays[split].append(array)
            labels[split].append(label)
        grey = all(array.ndim == 2 for part in arrays.values() for array in part)
        train, test = ((stack_images(arrays[split], grey), torch.tensor(labels[split])) for split in SPLITS)
        return Dataset.of("imagefolder", train, test, outputs=len(_classes(_folder(root) / "train"))), whole.hexdigest()


def _folder(root: str) -> Path:
    if not root:
        raise ConfigError("data: 'imagefolder' needs a folder; write imagefolder:DIR")
    for split in SPLITS:
        if not (Path(root) / split).is_dir():
            raise ConfigError(
                f"data: {Path(root) / split} is no folder; imagefolder:DIR wants DIR/train/CLASS/ and DIR/test/CLASS/"
            )
    return Path(root)


def _listing(folder: Path) -> Iterator[tuple[Path, str, int]]:
    """Path, split and label of every image, in a fixed order: by split, class and file name."""
    known = {name: label for label, name in enumerate(_classes(folder / "train"))}
    for split in SPLITS:
        for name in _classes(folder / split):
            if name not in known:
                raise ConfigError(
                    f"data: {folder / split / name} is a class without training images; add train/{name}/"
                )
            for path in files_in(folder / split / name):
                yield path, split, known[name]


def _classes(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ConfigError(f"data: {folder} holds no folder of images; each class is a folder in it")
    return names


def files_in(folder: Path) -> list[Path]:
    """Its files, sorted, hidden ones left out; ConfigError for none, or a folder among them."""
    found = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    paths = sorted(entry for entry in found if entry.name.lower() not in LEFT_BEHIND)
    if not paths:
        raise ConfigError(f"data: {folder} holds no image")
    if deeper := [path for path in paths if path.is_dir()]:
        raise ConfigError(f"data: {deeper[0]} is a folder; images lie directly in their class's folder")
    return paths


def add_file(whole: "hashlib._Hash", path: Path, root: str, content: bytes) -> None:
    """Let the digest of a data set know a file: its path from the root, its content, and whether it is turned."""
    name = path.relative_to(root).as_posix()
    turned = "\0turned" if _is_turned(content) else ""  # of others the digest is what it was before they were turned
    line = f"{name}\0{hashlib.sha256(content).hexdigest()}{turned}\n"
    whole.update(line.encode(errors="surrogateescape"))  # of a name that is not UTF-8 its own bytes


def _is_turned(content: bytes) -> bool:
    """Whether the image's EXIF data say that viewers turn or mirror it; of a file that cannot be read they do not."""
    if not any(sign in content for sign in EXIF_SIGNS):
        return False
    try:
        with no_bombs(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # `decode` says what is wrong with it
        return False


def decode(content: bytes, path: Path, size: int | None) -> np.ndarray:
    """Pixels of shape (height, width) when greyscale, else (height, width, 3)."""
    try:
        with no_bombs(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.mode.startswith(DEEP):
                raise ValueError(f"its pixels have mode {image.mode}; images of 8 bits are read")
            upright = ImageOps.exif_transpose(image) if _is_turned(content) else image
            pixels = upright.convert("L" if image.mode in GREY_MODES else "RGB")
    except UnidentifiedImageError as error:
        what = next((name for mark, name in OTHERS.items() if mark in content[:MARKED]), "no image of a known format")
        raise ConfigError(
            f"data: {path} cannot be read as an image: it is {what}; convert it to PNG or JPEG, or remove it"
        ) from error
    except Exception as error:  # what a damaged file makes of Pillow's decoders is not told in advance
        raise ConfigError(f"data: {path} cannot be read as an image: {error}") from error
    return np.asarray(pixels.resize((size, size), Image.Resampling.BILINEAR) if size else pixels)


def no_bombs() -> AbstractContextManager[Any]:
    """Where Pillow only warns of an image that unpacks to hundreds of megabytes, it refuses it."""
    return warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning)


def require_agreement(path: Path, size: tuple[int, ...], first: tuple[Path, tuple[int, ...]]) -> None:
    """ConfigError unless an image has the size (height, width) of the first one."""
    if size != first[1]:
        raise ConfigError(
            f"data: {path} is {size[1]} x {size[0]} pixels and {first[0].name} {first[1][1]} x {first[1][0]}; "
            "give data_args.size to scale all alike"
        )


def check_size(size: int | None) -> None:
    """ConfigError for a `data_args.size` that is none."""
    if size is not None and not 1 <= size <= LARGEST:
        raise ConfigError(f"data_args.size: {size} pixels; want 1 or more, and at most {LARGEST}")
