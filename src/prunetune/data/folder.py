"""`folder:DIR`: images in DIR/train/images/ and DIR/test/images/, and a mask of each in the folder `masks` beside."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunetune.data.dataset import Dataset, ExampleSets, Source, mean_and_std, require_memory, stack_images
from prunetune.data.examples import IGNORED, TensorExamples
from prunetune.data.imagefolder import (
    SPLITS,
    add_file,
    check_size,
    decode,
    files_in,
    no_bombs,
    require_agreement,
)
from prunetune.errors import ConfigError, short

IMAGES, MASKS = "images", "masks"  # the two folders of a part
NO_CLASS = 255  # of pixels that belong to none, as in PASCAL VOC; `ignore` says another
INDEXED = ("P", "L", "1")  # Pillow's modes in which a pixel is one number: an index into a palette, a grey, a bit


class Pair(NamedTuple):
    """An image's file and its mask's, of the same name but for the ending."""

    split: str
    image: Path
    mask: Path


class Folder(Source):
    """Images with a class for each pixel, all in memory; a mask is a PNG whose pixels are class numbers from 0 on.

    `ignore` is the number of pixels that count nowhere, by default 255. `size` scales all to size x size pixels, images
    as `imagefolder` does and masks to the nearest pixel; without it all must have one size. Images are normalised by
    the mean and standard deviation of the training images, channel by channel.
    """

    options = MappingProxyType({"root": str, "size": int, "ignore": int})

    def digest(self, root: str = "", size: int | None = None, ignore: int = NO_CLASS, **options: Any) -> str:
        """SHA-256 over the relative paths and the contents of all images and masks."""
        check_size(size)
        if not 0 <= ignore <= NO_CLASS:
            raise ConfigError(f"data_args.ignore: {ignore}; want what a pixel of a mask can be, from 0 to {NO_CLASS}")
        whole = hashlib.sha256()
        for pair in _pairs(_root(root)):
            for path in (pair.image, pair.mask):
                add_file(whole, path, root, path.read_bytes())
        return whole.hexdigest()

    def read(
        self, root: str = "", size: int | None = None, ignore: int = NO_CLASS, **options: Any
    ) -> tuple[ExampleSets, str]:
        """Decode all pairs. ConfigError naming the folder or the file that is not as it must be."""
        whole = hashlib.sha256()
        images: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        masks: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        first: tuple[Path, tuple[int, ...]] | None = None
        held = 0  # bytes; pixels of images become floats of four
        for pair in _pairs(_root(root)):
            contents = [path.read_bytes() for path in (pair.image, pair.mask)]
            for path, content in zip(pair[1:], contents, strict=True):
                add_file(whole, path, root, content)
            image, mask = decode(contents[0], pair.image, size), _classes(contents[1], pair.mask, size)
            held += 4 * image.nbytes + 8 * mask.nbytes
            require_memory(2 * held, f"the images up to {pair.image}", "give data_args.size, or fewer of them")
            first = first or (pair.image, image.shape[:2])
            require_agreement(pair.image, image.shape[:2], first)
            require_agreement(pair.mask, mask.shape, (pair.image, image.shape[:2]))
            images[pair.split].append(image)
            masks[pair.split].append(mask)
        grey = all(array.ndim == 2 for part in images.values() for array in part)
        stacked = {split: (stack_images(images[split], grey), _stacked(masks[split], ignore)) for split in SPLITS}
        return _normalised(stacked), whole.hexdigest()


def _root(root: str) -> Path:
    if not root:
        raise ConfigError("data: 'folder' needs a folder; write folder:DIR")
    for split in SPLITS:
        for kind in (IMAGES, MASKS):
            if not (path := Path(root) / split / kind).is_dir():
                raise ConfigError(
                    f"data: {path} is no folder; folder:DIR wants DIR/train/images/, DIR/train/masks/, and both in "
                    "DIR/test/"
                )
    return Path(root)


def _pairs(root: Path) -> Iterator[Pair]:
    """In a fixed order: by part and name. ConfigError for an image or a mask that stands alone."""
    for split in SPLITS:
        images, masks = (_by_name(files_in(root / split / kind)) for kind in (IMAGES, MASKS))
        if lone := sorted(images.keys() ^ masks.keys()):
            kind, other = (IMAGES, MASKS) if lone[0] in images else (MASKS, IMAGES)
            path = (images | masks)[lone[0]]
            raise ConfigError(f"data: {path} has no file of its name in {root / split / other}; of {kind} it needs one")
        yield from (Pair(split, images[name], masks[name]) for name in images)


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise ConfigError(f"data: {path} and {found[path.stem].name} have one name; want one file of each name")
        found[path.stem] = path
    return found


def _classes(content: bytes, path: Path, size: int | None) -> np.ndarray:
    """Class numbers of shape (height, width), uint8."""
    try:
        with no_bombs(), Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.mode not in INDEXED:
                raise ValueError(f"its pixels have mode {image.mode}; a mask's are one number of 8 bits each")
            scaled = image.resize((size, size), Image.Resampling.NEAREST) if size else image
            return np.array(scaled, dtype=np.uint8)
    except Exception as error:  # what a damaged file makes of Pillow's decoders is not told in advance
        raise ConfigError(f"data: {path} cannot be read as a mask, a PNG: {short(str(error))}") from error


def _stacked(masks: Sequence[np.ndarray], ignore: int) -> Tensor:
    """Masks of shape (N, H, W), int64."""
    classes = torch.from_numpy(np.stack(masks)).long()
    return classes.masked_fill_(classes == ignore, IGNORED)


def _normalised(parts: dict[str, tuple[Tensor, Tensor]]) -> ExampleSets:
    train, test = (parts[split] for split in SPLITS)
    whole = Dataset("folder", *train, *test, train[0][:0], train[1][:0], 0, *mean_and_std(train[0]))
    prepare = whole.preparation(torch.device("cpu"))
    trained, tested = (TensorExamples(prepare(images), masks) for images, masks in (train, test))
    return ExampleSets("folder", trained, tested, trained.subset(torch.arange(0)))
