"""`hf:REPO`, on a local copy of a repository: a folder of parquet files that the test writes."""

import sys
from pathlib import Path

import pytest
import torch

from prunetune.data import facts, identify, load
from tests.support import data_makers as make
from tests.support.refusals import refused

REPO = "hf:somebody/shapes"


pytest.importorskip("datasets", reason="needs the extra prunetune[hf]")


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path, channels: int) -> None:
    root = make.write_hub(tmp_path / "copy", channels)
    ref = identify(REPO, {"root": str(root)})
    data = load(ref)
    for seed, found in enumerate((data.train_images, data.test_images)):
        expected = torch.from_numpy(make.pixels(24 - 15 * seed, 5, 4, channels, seed=seed))
        assert torch.equal(found, expected.permute(0, 3, 1, 2))
        assert found.is_contiguous()
    assert data.train_labels.tolist() == [0, 1, 2] * 8
    assert data.test_labels.tolist() == [0, 1, 2] * 3
    assert facts(ref) == ((channels, 5, 4), 3, 24, 0, 9, True)


def test_the_key_holds_the_content_and_not_the_place(tmp_path: Path) -> None:
    first, again = (identify(REPO, {"root": str(make.write_hub(tmp_path / name))}) for name in ("one", "two"))
    other = identify(REPO, {"root": str(make.write_hub(tmp_path / "three", channels=1))})
    assert first.digest == again.digest != other.digest
    assert first.kwargs == {"repo": "somebody/shapes"}
    assert first.root != again.root


def test_columns_can_be_named(tmp_path: Path) -> None:
    root = str(make.write_hub(tmp_path / "copy", images="picture"))
    named = {"image": "picture", "label": "fine", "config": "default"}
    assert torch.equal(
        load(identify(REPO, {"root": root, **named})).train_images, load(identify(REPO, {"root": root})).train_images
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": "picture"}, ("data_args.image", "picture", "fine")),
        ({"image": "fine"}, ("data_args.image", "int")),
        ({"label": "img"}, ("data_args.label", "img", "things")),
        ({"lable": "fine"}, ("data_args", "lable", "label")),
        ({"config": "none"}, ("data", "hf:somebody/shapes", "none", "ValueError", "BuilderConfig", "read")),
    ],
)
def test_what_is_wrong_gets_one_line(tmp_path: Path, arguments: dict[str, str], message: tuple[str, ...]) -> None:
    root = make.write_hub(tmp_path / "copy")
    with refused(*message) as told:
        identify(REPO, {"root": str(root), **arguments})
    assert "\n" not in str(told.value)


def test_both_splits_are_needed(tmp_path: Path) -> None:
    root = make.write_hub(tmp_path / "copy", splits=("train",))
    with refused("data", "hf:somebody/shapes", "test", "split"):
        identify(REPO, {"root": str(root)})


def test_a_folder_that_is_not_there_and_a_repository_without_a_name(tmp_path: Path) -> None:
    with refused("data_args.root", "/nowhere", "folder"):
        identify(REPO, {"root": str(tmp_path / "nowhere")})
    with refused("data", "'hf'", "REPO", "repository"):
        identify("hf:")


def test_a_missing_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused("data", "hf:somebody/shapes", "datasets"):
        identify(REPO)
