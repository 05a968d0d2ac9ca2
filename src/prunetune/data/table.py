"""`csv:FILE`: a table of numbers with a column to predict, as classes or as a number."""

import csv
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.data.dataset import ExampleSets, Source
from prunetune.data.examples import TensorExamples
from prunetune.errors import ConfigError, counted, shown, unknown

TEST_SHARE = 0.2  # of the rows, drawn by a seed of its own: the same in every repetition
TEST_SEED = 20210213


class Table(Source):
    """A comma-separated file whose first line names the columns; all but `target`, by default the last, are inputs.

    Inputs must be numbers. A target of texts is one of classes, in sorted order; one of numbers is a number, unless
    `classes: true` says that they name classes. A fifth of the rows, drawn once and for all, is the test part. Inputs
    and a target that is a number are standardised by mean and standard deviation of the other rows. `exclude` lists
    columns that are no inputs.
    """

    options = MappingProxyType({"root": str, "target": str, "classes": bool, "exclude": list})

    def digest(self, root: str = "", **options: Any) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(_path(root).read_bytes()).hexdigest()

    def read(
        self, root: str = "", target: str = "", classes: bool = False, exclude: Sequence[str] = (), **options: Any
    ) -> tuple[ExampleSets, str]:
        """Read the table; ConfigError, naming column and line, for what is no number."""
        path = _path(root)
        names, rows = _rows(path)
        target = target or names[-1]
        for argument, columns in (("target", [target]), ("exclude", exclude)):
            for column in columns:
                if column not in names:
                    raise unknown(f"data_args.{argument}", column, names)
        inputs = [name for name in names if name != target and name not in exclude]
        if not inputs:
            raise ConfigError(
                f"data: '{path}' has no column beside the target '{target}'; want inputs to predict it by"
            )
        x = np.stack([_numbers(path, name, _column(rows, names, name)) for name in inputs], axis=1)
        texts = _column(rows, names, target)
        is_class = classes or not all(map(_is_number, texts))
        y = _classes(texts) if is_class else _numbers(path, target, texts)
        order = np.random.RandomState(TEST_SEED).permutation(len(rows))
        held = max(1, round(TEST_SHARE * len(rows)))
        test, train = np.sort(order[:held]), np.sort(order[held:])
        x = _standardised(x, train)
        y = y if is_class else _standardised(y, train)
        whole = TensorExamples(_tensor(x), _tensor(y))
        trained, tested, held_out = (whole.subset(torch.from_numpy(part)) for part in (train, test, train[:0]))
        return ExampleSets(f"csv:{path.name}", trained, tested, held_out), self.digest(root)


def _path(root: str) -> Path:
    path = Path(root)
    if not root or not path.is_file():
        raise ConfigError(f"data: 'csv:{root}' is no file; write csv:FILE")
    return path


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The columns' names, and the rows after them, none of them empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"data: 'csv:{path}' is no table: {error}") from error
    if len(set(names)) < len(names) or len(names) < 2:
        raise ConfigError(f"data: 'csv:{path}': its first line is {shown(names)}; want two or more names, each once")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise ConfigError(f"data: 'csv:{path}': row {number} has {len(row)} values; want {len(names)}")
    if len(rows) < 3:
        raise ConfigError(
            f"data: 'csv:{path}': has {counted(len(rows), 'row')}; want some to train on and some to test"
        )
    return names, rows


def _column(rows: Sequence[Sequence[str]], names: Sequence[str], name: str) -> list[str]:
    place = names.index(name)
    return [row[place].strip() for row in rows]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _numbers(path: Path, name: str, texts: Sequence[str]) -> np.ndarray:
    for number, text in enumerate(texts, start=2):
        if not _is_number(text):
            what = f"row {number} of column '{name}' is {shown(text)}; want a finite number"
            raise ConfigError(f"data: 'csv:{path}': {what}, or the column in data_args.exclude")
    return np.array([float(text) for text in texts])


def _classes(texts: Sequence[str]) -> np.ndarray:
    """0 for the first of the sorted texts, and so on; numbers are sorted as such."""
    known = sorted(set(texts), key=float if all(map(_is_number, texts)) else str)
    place = {text: i for i, text in enumerate(known)}
    return np.array([place[text] for text in texts])


def _standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Each column by the training rows' mean and standard deviation; a constant one becomes 0."""
    mean, std = values[train].mean(0), values[train].std(0)
    return (values - mean) / np.where(std > 0, std, 1.0)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64 if values.dtype.kind == "i" else np.float32))
