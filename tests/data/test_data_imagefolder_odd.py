"""What lies in people's image folders beside images, and names that are not UTF-8."""

import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from prunetune.data.imagefolder import ImageFolder
from prunetune.errors import ConfigError
from tests.support.refusals import refused

SOURCE = ImageFolder()


def folder(root: Path) -> Path:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(root / split / name / "0.png")
    return root


def test_what_windows_leaves_behind_is_left_out(tmp_path: Path) -> None:
    digest = SOURCE.digest(root=str(folder(tmp_path)))
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / "train" / "cat" / name).write_bytes(b"\xd0\xcf\x11\xe0")
    data, read = SOURCE.read(root=str(tmp_path))
    assert len(data.train_labels) == 2
    assert read == digest == SOURCE.digest(root=str(tmp_path))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\0\0\0\x20ftypavif\0\0\0\0avif", "an AVIF image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "a HEIC image"),
        (b'<?xml version="1.0"?><svg xmlns="', "an SVG drawing"),
        (b"a,b\n1,2\n", "no image of a known format"),
    ],
)
def test_a_file_of_another_format_is_named(content: bytes, what: str, tmp_path: Path) -> None:
    (folder(tmp_path) / "train" / "cat" / "1.png").write_bytes(content)
    with refused("data", "1.png", what, "PNG"):
        SOURCE.read(root=str(tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="names of Windows are always text")
def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    odd = b"caf\xe9.png"
    cats = os.fsencode(folder(tmp_path) / "train" / "cat")
    try:
        os.rename(cats + b"/0.png", cats + b"/" + odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    data, digest = SOURCE.read(root=str(tmp_path))
    assert len(data.train_labels) == 2
    whole = hashlib.sha256()
    for name in (b"train/cat/" + odd, b"train/dog/0.png", b"test/cat/0.png", b"test/dog/0.png"):
        content = hashlib.sha256(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).read_bytes()).hexdigest()
        whole.update(name + b"\0" + content.encode() + b"\n")
    assert digest == whole.hexdigest()
    os.rename(cats, cats + b"\xe9")
    with pytest.raises(ConfigError) as caught:
        SOURCE.read(root=str(tmp_path))
    assert str(caught.value).isprintable()
