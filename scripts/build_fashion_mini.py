"""Write src/prunetune/data/fashion_mini.npz from the official IDX files of Fashion-MNIST.

    python scripts/build_fashion_mini.py [FOLDER] [--out FILE]

The first 10,000 training images and all 10,000 test images, pixel for pixel as published. FOLDER holds the four files,
raw or .gz; the default is where Debian's package dataset-fashion-mnist puts them. The result depends on the content
alone: zip members carry a fixed time, and zlib's deflate at level 9 gives the same stream everywhere (only zlib-ng, a
replacement of zlib, gives another one).
"""

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from prunetune.data import Dataset, identify, load
from prunetune.data.fashion import DEBIAN, MINI

TRAIN = 10_000
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip member can carry


def build(folder: Path) -> bytes:
    """The .npz as bytes, from the official files in `folder`."""
    data = load(identify("fashion_mnist", {"root": str(folder)}))
    if not data.official:
        raise SystemExit(f"{folder} does not hold the official Fashion-MNIST")
    return pack(arrays(data))


def arrays(data: Dataset) -> dict[str, np.ndarray]:
    """uint8 images of shape (10000, 28, 28) and labels of shape (10000,), by name."""
    return {
        "train_images": data.train_images[:TRAIN, 0].numpy(),
        "train_labels": data.train_labels[:TRAIN].numpy().astype(np.uint8),
        "test_images": data.test_images[:, 0].numpy(),
        "test_labels": data.test_labels.numpy().astype(np.uint8),
    }


def pack(members: dict[str, np.ndarray]) -> bytes:
    """An .npz that depends on nothing but the arrays."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, array in members.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            info.create_system = 3  # else it tells on which system the file was written
            archive.writestr(info, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return packed.getvalue()


def main() -> None:
    """Build, write atomically, print the checksum that data/fashion.py must hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DEBIAN)
    parser.add_argument("--out", type=Path, default=MINI)
    args = parser.parse_args()
    content = build(args.folder)
    part = args.out.with_suffix(".part")
    part.write_bytes(content)
    part.replace(args.out)
    print(f"{args.out}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
