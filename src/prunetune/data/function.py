"""Data sets that a callable returns: a user's `package.module:callable`, or a registered function."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.data.dataset import Dataset, Source, TrainingData, check_dataset, check_pair, require_channels_first
from prunetune.data.parts import from_mapping
from prunetune.errors import ConfigError
from prunetune.sparsity.model_state import digest_tensors

CHANNELS_FIRST = "channels_first"  # the data argument by which somebody vouches for the layout
PARTS = ("train_images", "train_labels", "test_images", "test_labels")


class Function(Source):
    """Calls `function(**data_args)`, which returns a Dataset, the four PARTS as tensors or arrays, or a mapping.

    A mapping holds data of any kind (`from_mapping`). The images of the others are uint8 or normalised floats of shape
    (N, C, H, W). The content is pinned by its own digest, so the callable must return the same at every call; it is
    called once to identify the data and once in every process that trains on them. Shapes that look like (N, H, W, C)
    are refused, unless data_args says `channels_first: true`, which is not passed on to a callable that has no such
    argument.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name
        parameters = _parameters(function)
        self.options = {p.name: object for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        self._takes_channels_first = CHANNELS_FIRST in self.options
        self.options = {CHANNELS_FIRST: bool} | self.options
        self.any_options = any(p.kind is p.VAR_KEYWORD for p in parameters)

    def digest(self, **options: Any) -> str:
        """SHA-256 of what the callable returns."""
        return self.read(**options)[1]

    def read(self, **options: Any) -> tuple[TrainingData, str]:
        """Call it and check what it returns; ConfigError when the call fails or the result is not as it must be."""
        vouched = options.get(CHANNELS_FIRST) is True
        options = {
            name: value for name, value in options.items() if name != CHANNELS_FIRST or self._takes_channels_first
        }
        try:
            found = self.function(**options)
        except Exception as error:  # the user's code: whatever it raises is told in one line, the cause chained
            why = f"{type(error).__name__}: {error}"
            raise ConfigError(f"data: '{self.name}' raised {why}") from error
        if isinstance(found, Mapping):
            return from_mapping(found, self.name)
        data = found if isinstance(found, Dataset) else self._from_parts(found)
        check_dataset(data, self.name)
        if not vouched:
            require_channels_first(tuple(data.train_images.shape), f"{self.name} (training)")
        return data, _digest(data)

    def _from_parts(self, found: Any) -> Dataset:
        if not isinstance(found, tuple | list) or len(found) != len(PARTS):
            want = f"a Dataset, a mapping of 'train' and 'test', or ({', '.join(PARTS)})"
            raise ConfigError(f"data: '{self.name}' returned {_kind(found)}; want {want}")
        train_images, train_labels, test_images, test_labels = (
            self._tensor(value, part) for value, part in zip(found, PARTS, strict=True)
        )
        check_pair(train_images, train_labels, None, f"{self.name} (training)")
        check_pair(test_images, test_labels, None, f"{self.name} (test)")
        return Dataset.of(self.name, (train_images, train_labels), (test_images, test_labels))

    def _tensor(self, value: Any, part: str) -> Tensor:
        """On the CPU: floats as float32, labels as int64."""
        if not isinstance(value, Tensor | np.ndarray):
            raise ConfigError(f"data: '{self.name}': {part} is {_kind(value)}; want a tensor or a numpy array")
        try:  # numpy arrays are copied: they may be read-only or have negative strides
            tensor = torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value.detach().cpu()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"data: '{self.name}': {part} cannot be a tensor: {error}") from error
        if "labels" not in part:
            return tensor.float() if tensor.is_floating_point() else tensor
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise ConfigError(f"data: '{self.name}': {part} are {tensor.dtype}; want whole numbers")
        return tensor.long()


def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    try:
        return tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some builtins tell nothing of their arguments
        return ()


def _digest(data: Dataset) -> str:
    tensors = {f.name: getattr(data, f.name) for f in fields(data) if isinstance(getattr(data, f.name), Tensor)}
    text = json.dumps([digest_tensors(tensors), data.outputs, data.mean, data.std])
    return hashlib.sha256(text.encode()).hexdigest()


def _kind(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple | list) else f"a {type(value).__name__}"
