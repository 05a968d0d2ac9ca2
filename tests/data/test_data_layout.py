"""Images that lie otherwise than one thinks: channels last, and turned by EXIF."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunetune.data import imagefolder
from prunetune.data.function import Function
from prunetune.data.imagefolder import ImageFolder
from tests.support.refusals import refused

ORIENTATION = 0x0112


def images(*shape: int) -> Function:
    pixels, labels = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8), np.arange(6) % 2

    def parts() -> tuple[np.ndarray, ...]:
        return pixels, labels, pixels, labels

    return Function(parts, "nets:parts")


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (8, 8, 4), (64, 4, 4)])
def test_channels_last_is_refused_unless_told(shape: tuple[int, ...]) -> None:
    with refused("data", "transpose"):
        images(*shape).read()
    assert images(*shape).read(channels_first=True)[0].input_shape == shape


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 32, 3), (1, 1, 1), (2, 8, 8), (5, 7, 2)])
def test_channels_first_is_taken(shape: tuple[int, ...]) -> None:
    assert images(*shape).read()[0].input_shape == shape


def test_a_callable_that_knows_the_argument_gets_it() -> None:
    def parts(channels_first: bool = False) -> tuple[torch.Tensor, ...]:
        shape = (6, 8, 8, 3) if channels_first else (6, 3, 8, 8)
        pixels = torch.randn(shape)
        return pixels, torch.arange(6) % 2, pixels, torch.arange(6) % 2

    assert Function(parts, "nets:parts").read()[0].input_shape == (3, 8, 8)
    assert Function(parts, "nets:parts").read(channels_first=True)[0].input_shape == (8, 8, 3)


def folder(root: Path, orientation: int | None, suffix: str = "png") -> str:
    """Two classes of one image each, 2 wide and 3 high as it is stored."""
    pixels, exif = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(3, 2) * 40), Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    for split in ("train", "test"):
        for name in ("a", "b"):
            path = root / split / name
            path.mkdir(parents=True)
            options: dict[str, Any] = {"exif": exif} if orientation is not None else {}
            pixels.save(path / f"x.{suffix}", **options)
    return str(root)


@pytest.mark.parametrize(("orientation", "turned"), [(3, 2), (6, -1), (8, 1)])
def test_images_are_turned_as_viewers_turn_them(tmp_path: Path, orientation: int, turned: int) -> None:
    upright = ImageFolder().read(root=folder(tmp_path / "upright", None))[0].train_images[0, 0].numpy()
    found = ImageFolder().read(root=folder(tmp_path / "turned", orientation))[0].train_images[0, 0].numpy()
    assert np.array_equal(found, np.rot90(upright, turned))


@pytest.mark.parametrize("orientation", [None, 1])
def test_images_that_are_upright_keep_their_identity(tmp_path: Path, orientation: int | None) -> None:
    """By which trainings on them are found in stores of earlier."""
    root, whole = folder(tmp_path / "x", orientation), hashlib.sha256()
    for name in ("train/a/x.png", "train/b/x.png", "test/a/x.png", "test/b/x.png"):
        content = (Path(root) / name).read_bytes()
        whole.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    assert ImageFolder().digest(root=root) == whole.hexdigest() == ImageFolder().read(root=root)[1]


def test_images_that_are_turned_have_an_identity_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "x", 6, "jpg")
    digest = ImageFolder().digest(root=root)
    assert digest == ImageFolder().read(root=root)[1]
    monkeypatch.setattr(imagefolder, "_is_turned", lambda content: False)  # as they were read before
    assert ImageFolder().digest(root=root) != digest
