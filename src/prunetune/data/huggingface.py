"""`hf:REPO`: images or texts of the Hugging Face hub, or a local copy, through the library `datasets`."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.data.dataset import GREY_MODES, Dataset, ExampleSets, Source, stack_images
from prunetune.data.huggingface_text import LENGTH, TextColumns, read_texts
from prunetune.errors import ConfigError, shown
from prunetune.sparsity.model_state import digest_tensors

SPLITS = ("train", "test")


class HuggingFace(Source):
    """The splits `train` and `test` of a repository, all in memory; images must have one size.

    `config` names the repository's configuration where it has several; `image` and `label` the columns, by default the
    one of images and the one of classes. `root` is a folder with a copy of the repository (its parquet files), read in
    place of the hub. Images that are all greyscale give one channel, others three (RGB). No code of its is run.

    With `text`, a column of texts or lists of words, examples are token ids by `tokenizer`, padded and cut to `length`.
    """

    options = MappingProxyType(
        {
            "repo": str,
            "config": str,
            "image": str,
            "label": str,
            "root": str,
            "text": str,
            "tokenizer": str,
            "length": int,
        }
    )

    def digest(self, **options: Any) -> str:
        """SHA-256 of the pixels and labels."""
        return self.read(**options)[1]

    def read(
        self, repo: str = "", config: str = "", image: str = "", label: str = "", root: str = "", **options: Any
    ) -> tuple[Dataset | ExampleSets, str]:
        """Read all images or texts; ConfigError when an extra is missing or the repository is not as it must be."""
        if not repo:
            raise ConfigError("data: 'hf' needs a repository; write hf:REPO")
        splits = _load(repo, config, root)
        features = splits["train"].features
        if text := options.get("text"):
            given = label or _column("label", label, features, "ClassLabel")
            asked = TextColumns(text, given, options.get("tokenizer", ""), options.get("length", LENGTH))
            return read_texts(splits, repo, asked)
        if unread := {"tokenizer", "length"} & options.keys():
            name = sorted(unread)[0]
            what = "is of texts, and no column of them is named; give data_args.text, or leave it out"
            raise ConfigError(f"data_args.{name}: {shown(options[name])} {what}")
        columns = _column("image", image, features, "Image"), _column("label", label, features, "ClassLabel")
        pixels = {split: [_decoded(value) for value in splits[split][columns[0]]] for split in SPLITS}
        grey = all(array.ndim == 2 for arrays in pixels.values() for array in arrays)
        train, test = ((_stack(pixels[split], grey, repo), _labels(splits[split], columns[1])) for split in SPLITS)
        outputs = getattr(features[columns[1]], "num_classes", None)
        content = {"train": train[0], "train_labels": train[1], "test": test[0], "test_labels": test[1]}
        return Dataset.of(f"hf:{repo}", train, test, outputs=outputs), digest_tensors(content)


def _load(repo: str, config: str, root: str) -> Mapping[str, Any]:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"data: 'hf:{repo}' needs the library datasets; install it: pip install 'prunetune[hf]'"
        ) from error
    if root and not Path(root).is_dir():
        raise ConfigError(f"data_args.root: '{root}' is no folder; it must hold a copy of '{repo}'")
    try:
        splits: Any = datasets.load_dataset(root or repo, name=config or None)
    except Exception as error:  # hub, network, files: whatever it is goes into one line, the cause chained
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"data: 'hf:{repo}' cannot be read from {root or 'the hub'}: {why}") from error
    for split in SPLITS:
        if split not in splits:
            raise ConfigError(f"data: 'hf:{repo}' has no split '{split}', only {', '.join(splits)}")
    return splits


def _column(argument: str, given: str, features: Mapping[str, Any], kind: str) -> str:
    """The column that `data_args` names, else the only one of that kind of feature."""
    fitting = [given] if given else [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(fitting) != 1 or fitting[0] not in features:
        what = f"'{given}' is no column" if given else f"{len(fitting)} columns of type {kind}"
        raise ConfigError(f"data_args.{argument}: {what}; name one of {', '.join(features)}")
    return fitting[0]


def _decoded(image: Any) -> np.ndarray:
    """Pixels of shape (height, width) when greyscale, else (height, width, 3)."""
    if not hasattr(image, "convert"):
        raise ConfigError(f"data_args.image: the column holds {type(image).__name__}, not images; name another")
    return np.asarray(image.convert("L" if image.mode in GREY_MODES else "RGB"))


def _stack(arrays: list[np.ndarray], grey: bool, repo: str) -> Tensor:
    if len(sizes := {array.shape[:2] for array in arrays}) != 1:
        raise ConfigError(f"data: 'hf:{repo}' has images of {len(sizes)} sizes; all must have the same")
    return stack_images(arrays, grey)


def _labels(split: Any, column: str) -> Tensor:
    values = list(split[column])
    if not all(type(value) is int for value in values):
        raise ConfigError(f"data_args.label: column '{column}' holds other things than whole numbers; name another")
    return torch.tensor(values, dtype=torch.int64)
