"""Images with masks in folders: read as a slow loop reads them, and refused file by file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunetune.data import facts, identify, load_examples
from prunetune.plan.compile import plan
from prunetune.spec.load import load_spec
from tests.support.refusals import refused
from tests.support.task_makers import HERE

SIDES = (6, 5)  # height, width


def made(folder: Path, mode: str = "L", colours: bool = True) -> Path:
    """Four pairs to train on and two to test; classes 0 to 2, and pixels of 255 that belong to none."""
    draws = np.random.RandomState(0)
    for part, count in (("train", 4), ("test", 2)):
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True)
        for i in range(count):
            pixels = draws.randint(0, 256, (*SIDES, 3) if colours else SIDES).astype(np.uint8)
            Image.fromarray(pixels).save(folder / part / "images" / f"{i}.bmp")
            classes = draws.choice([0, 1, 2, 255], SIDES).astype(np.uint8)
            mask = Image.fromarray(classes)
            if mode == "P":
                mask.putpalette(draws.randint(0, 256, 768).astype(np.uint8).tobytes())
            mask.save(folder / part / "masks" / f"{i}.png")
    return folder


def by_hand(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixel by pixel; the figures are those of the training images."""
    files = sorted((folder / "train" / "images").iterdir())
    train = np.stack([np.asarray(Image.open(file), dtype=np.float64) for file in files])
    images, masks = [], []
    for file in sorted((folder / part / "images").iterdir()):
        image = np.asarray(Image.open(file), dtype=np.float64)
        images.append(((image - train.mean((0, 1, 2))) / train.std((0, 1, 2))).transpose(2, 0, 1))
        classes = np.asarray(Image.open(folder / part / "masks" / f"{file.stem}.png"))
        masks.append([[-100 if pixel == 255 else int(pixel) for pixel in row] for row in classes])
    return np.stack(images), np.array(masks)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_pairs_are_read_as_by_hand(mode: str, tmp_path: Path) -> None:
    data = load_examples(identify(f"folder:{made(tmp_path, mode)}"))
    for part, examples in (("train", data.train), ("test", data.test)):
        images, masks = by_hand(tmp_path, part)
        batch = examples.gather(torch.arange(len(examples)))
        np.testing.assert_allclose(batch.inputs.numpy(), images, atol=1e-4)
        np.testing.assert_array_equal(batch.targets.numpy(), masks)
    assert data.input_shape == (3, *SIDES)


def test_a_plan_of_it_knows_its_classes_and_grey_images_have_one_channel(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"model": f"{HERE}:pixel_net", "data": f"folder:{made(tmp_path, colours=False)}"}
    fields |= {"task": "segmentation", "recipe": {"epochs": 1}, "seeds": 1}
    found = plan(load_spec(fields))
    assert (found.input_shape, found.outputs) == ((1, *SIDES), 3)
    assert plan(load_spec(fields | {"data_args": {"ignore": 2}})).outputs == 256
    assert facts(identify(f"folder:{tmp_path}", {"validation": 0.25}))[2:5] == (3, 1, 2)


def test_size_takes_the_nearest_class_and_makes_none(tmp_path: Path) -> None:
    data = load_examples(identify(f"folder:{made(tmp_path)}", {"size": 12}))
    batch = data.train.gather(torch.arange(4))
    assert batch.inputs.shape == (4, 3, 12, 12)
    assert set(batch.targets.unique().tolist()) == {-100, 0, 1, 2}


def test_the_content_is_the_identity(tmp_path: Path) -> None:
    folder = made(tmp_path)
    before = identify(f"folder:{folder}").digest
    mask = np.array(Image.open(folder / "test" / "masks" / "0.png"))
    mask[0, 0] = (mask[0, 0] + 1) % 3
    Image.fromarray(mask).save(folder / "test" / "masks" / "0.png")
    assert identify(f"folder:{folder}").digest != before


def lone_image(folder: Path) -> None:
    (folder / "train" / "masks" / "2.png").unlink()


def lone_mask(folder: Path) -> None:
    (folder / "test" / "images" / "1.bmp").unlink()


def colours(folder: Path) -> None:
    Image.new("RGB", (SIDES[1], SIDES[0])).save(folder / "train" / "masks" / "2.png")


def other_size(folder: Path) -> None:
    Image.new("L", (9, 9)).save(folder / "train" / "masks" / "2.png")


def text(folder: Path) -> None:
    (folder / "train" / "masks" / "2.png").write_text("no image")


def no_masks(folder: Path) -> None:
    (folder / "test" / "masks").rename(folder / "test" / "labels")


def twice(folder: Path) -> None:
    Image.new("RGB", (SIDES[1], SIDES[0])).save(folder / "train" / "images" / "2.png")


@pytest.mark.parametrize(
    ("change", "mentions"),
    [
        (lone_image, ["2.bmp", "masks"]),
        (lone_mask, ["1.png", "images"]),
        (colours, ["2.png", "RGB"]),
        (other_size, ["2.png", "9 x 9", "data_args.size"]),
        (text, ["2.png"]),
        (no_masks, ["masks", "folder:DIR"]),
        (twice, ["2.png", "2.bmp"]),
    ],
)
def test_what_is_no_folder_of_pairs_is_refused(change: Any, mentions: list[str], tmp_path: Path) -> None:
    change(made(tmp_path))
    with refused("data", *mentions):
        load_examples(identify(f"folder:{tmp_path}"))


@pytest.mark.parametrize("ignore", [-1, 256, 300])
def test_a_class_that_no_pixel_can_have_is_refused(ignore: int, tmp_path: Path) -> None:
    with refused("data_args.ignore", ignore, 255):
        identify(f"folder:{made(tmp_path)}", {"ignore": ignore})
