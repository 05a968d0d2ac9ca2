"""`imagefolder:DIR`."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunetune.data import Dataset, identify, load, load_examples
from prunetune.errors import ConfigError
from tests.support import data_makers as make
from tests.support.refusals import refused


def test_pixels_classes_and_order(tmp_path: Path):
    data = load(identify(f"imagefolder:{make.write_images(tmp_path)}"))
    ants, birds = (make.pixels(6, 8, 10, 3, seed=seed).transpose(0, 3, 1, 2) for seed in (1, 0))
    np.testing.assert_array_equal(data.train_images.numpy(), np.concatenate([ants, birds]))
    assert data.train_labels.tolist() == [0] * 6 + [1] * 6
    assert data.test_labels.tolist() == [0] * 3 + [1] * 3
    assert data.outputs == 2
    assert data.input_shape == (3, 8, 10)
    assert not data.official


def test_digest_follows_content_and_names_and_not_the_place(tmp_path: Path):
    first, second = make.write_images(tmp_path / "a"), make.write_images(tmp_path / "b")
    ref = identify(f"imagefolder:{first}")
    assert ref.name == "imagefolder"
    assert ref.root == str(first)
    assert ref.digest == identify("imagefolder", {"root": str(second)}).digest
    (second / "train" / "ant" / "00.png").rename(second / "train" / "ant" / "zz.png")
    renamed = identify(f"imagefolder:{second}").digest
    assert renamed != ref.digest
    Image.fromarray(make.pixels(1, 8, 10, 3, seed=9)[0]).save(second / "train" / "ant" / "zz.png")
    assert identify(f"imagefolder:{second}").digest not in (ref.digest, renamed)


def test_a_folder_that_changes_after_the_plan_is_refused(tmp_path: Path):
    ref = identify(f"imagefolder:{make.write_images(tmp_path)}")
    (tmp_path / "train" / "ant" / "05.png").unlink()
    with refused("data", "planned"):
        load(ref)


def test_greyscale_has_one_channel_and_a_mixture_three(tmp_path: Path):
    root = make.write_images(tmp_path, shape=(4, 4))
    assert load(identify(f"imagefolder:{root}")).input_shape == (1, 4, 4)
    grey = make.pixels(6, 4, 4, seed=1)[0]
    Image.fromarray(make.pixels(1, 4, 4, 3)[0]).save(root / "test" / "bird" / "00.png")
    data = load(identify(f"imagefolder:{root}"))
    assert data.input_shape == (3, 4, 4)
    np.testing.assert_array_equal(data.train_images[0].numpy(), np.stack([grey] * 3))


def test_palette_and_alpha_become_rgb(tmp_path: Path):
    root = make.write_images(tmp_path, shape=(4, 4, 3))
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    red.convert("P").save(root / "train" / "ant" / "00.png")
    red.convert("RGBA").save(root / "train" / "ant" / "01.png")
    data = load(identify(f"imagefolder:{root}"))
    for image in data.train_images[:2]:
        assert image.flatten(1).unique(dim=1).tolist() == [[255], [0], [0]]


def test_size_scales_all(tmp_path: Path):
    root = make.write_images(tmp_path, shape=(8, 10, 3))
    Image.new("RGB", (30, 20), (9, 99, 199)).save(root / "train" / "ant" / "00.png")
    data = load(identify(f"imagefolder:{root}", {"size": 6}))
    assert data.input_shape == (3, 6, 6)
    assert data.train_images[0].flatten(1).unique(dim=1).tolist() == [[9], [99], [199]]
    assert identify(f"imagefolder:{root}", {"size": 6}) != identify(f"imagefolder:{root}", {"size": 7})


def test_hidden_files_are_left_out(tmp_path: Path):
    before = identify(f"imagefolder:{make.write_images(tmp_path)}")
    (tmp_path / "train" / "ant" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "train" / ".git").mkdir()
    assert identify(f"imagefolder:{tmp_path}") == before


def _png(mode: str) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (10, 8)).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ("data", "00.png", "image")),
        (b"no image", ("data", "00.png", "image")),
        (_png("RGB")[:-30], ("data", "00.png", "image")),
        (_png("I;16"), ("data", "00.png", "mode I", "8", "pixels")),
    ],
)
def test_a_broken_image_is_named(content: bytes, message: tuple[str, ...], tmp_path: Path):
    (make.write_images(tmp_path) / "test" / "bird" / "00.png").write_bytes(content)
    with refused(*message) as caught:
        load(identify(f"imagefolder:{tmp_path}"))
    assert str(tmp_path / "test" / "bird") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_must_agree(tmp_path: Path):
    Image.new("RGB", (7, 5)).save(make.write_images(tmp_path) / "train" / "bird" / "03.png")
    with refused("data", "bird/03.png", "7", "5", "00.png", "10", "8", "data_args.size", "pixels"):
        load(identify(f"imagefolder:{tmp_path}"))


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("", ("data", "/train", "DIR/train/CLASS/", "DIR/test/CLASS/")),
        ("test", ("data", "/test", "DIR/train/CLASS/")),
        ("train/ant", ("data", "/test/ant", "train/ant/", "add")),
    ],
)
def test_missing_folders(remove: str, message: tuple[str, ...], tmp_path: Path):
    shutil.rmtree(make.write_images(tmp_path / "set") / remove)
    with refused(*message):
        identify(f"imagefolder:{tmp_path / 'set'}")


def test_folders_without_images(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    with refused("data", "/train", "class"):
        identify(f"imagefolder:{tmp_path}")
    for split in ("train", "test"):
        (tmp_path / split / "ant").mkdir()
    with refused("data", "/train/ant", "image"):
        identify(f"imagefolder:{tmp_path}")
    (tmp_path / "train" / "ant" / "deeper").mkdir()
    with refused("data", "/train/ant/deeper", "directly"):
        identify(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("imagefolder", {}, "data: 'imagefolder' needs a folder; write imagefolder:DIR"),
        ("imagefolder:", {}, "data: 'imagefolder:' names no folder; write imagefolder:DIR"),
        ("imagefolder:x", {"root": "y"}, "data_args.root: 'imagefolder:x' names its folder already; leave root out"),
        ("imagefolder:x", {"size": 0}, "data_args.size: 0 pixels; want 1 or more, and at most 4096"),
        ("imagefolder:x", {"size": "big"}, "data_args.size: 'big'; want int"),
        ("imagefolder:x", {"size": True}, "data_args.size: True; want int"),
        ("imagefolder:x", {"sise": 3}, "data_args: unknown 'sise'; did you mean 'size'?"),
    ],
)
def test_wrong_requests(name: str, arguments: dict[str, object], message: str):
    with pytest.raises(ConfigError) as caught:
        identify(name, arguments)
    assert str(caught.value) == message


def test_a_limit_draws_from_every_class_of_a_folder(tmp_path: Path):
    """The files are listed class by class: the first six are all ants."""
    root = make.write_images(tmp_path, train=20)
    whole, data = load(identify(f"imagefolder:{root}")), load(identify(f"imagefolder:{root}", {"train_limit": 6}))
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    rows = [image.numpy().tobytes() for image in whole.train_images]
    taken = [rows.index(image.numpy().tobytes()) for image in data.train_images]
    assert taken == sorted(set(taken))
    assert taken[:3] != [0, 1, 2]
    again = load_examples.__wrapped__(identify(f"imagefolder:{root}", {"train_limit": 6}))
    assert isinstance(again, Dataset)
    assert torch.equal(again.train_images, data.train_images)


def test_a_limit_that_cannot_show_every_class_of_a_folder_is_refused_when_it_is_named(tmp_path: Path):
    root = make.write_images(tmp_path)
    with pytest.raises(ConfigError) as caught:
        identify(f"imagefolder:{root}", {"train_limit": 1})
    assert str(caught.value) == "data_args.train_limit: 1 images cannot show all 2 classes; want 2 or more"
