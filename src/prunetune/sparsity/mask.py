"""Masks: which weights are kept, with exact counts, the same bits on every machine; their files, and their overlap."""

# torch leaves some of its methods without types; what they give is annotated.
# pyright: reportUnknownMemberType=false

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prunetune.core.files import replace_file
from prunetune.errors import ConfigError, counted, unknown
from prunetune.sparsity.argument_checks import as_path, require_type, wrong_type
from prunetune.sparsity.model_state import memory_of
from prunetune.sparsity.selection import largest, largest_of_all

SHAPES = "shapes"


def packed(mask: Mapping[str, Tensor]) -> bytes:
    """The content of a file with one bit for each element of these bool tensors, the same bytes each time."""
    shapes = {name: list(kept.shape) for name, kept in sorted(mask.items()) if kept.numel()}
    bits = {name: torch.from_numpy(np.packbits(mask[name].numpy())) for name in shapes}
    return save({**mask, **bits}, {SHAPES: json.dumps(shapes)})


def unpacked(content: bytes) -> dict[str, Tensor]:
    """The tensors of a file of either form, in the order of their names; those of bits are bool and of their shape.

    SafetensorError for what is no safetensors, ValueError for bits that are not as many as the shapes say.
    """
    stored = dict(sorted(load(content).items()))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get("__metadata__", {})
    if SHAPES not in metadata:
        return stored
    found = json.loads(metadata[SHAPES])
    shapes = cast(dict[str, Any], found) if isinstance(found, dict) else None
    if shapes is None or not shapes.keys() <= stored.keys():
        raise ValueError(f"{SHAPES} must be an object that names tensors of the file")
    return stored | {name: elements(name, stored[name], shape) for name, shape in shapes.items()}


def elements(name: str, bits: Tensor, shape: Any) -> Tensor:
    """The bool tensor of a shape, a list from JSON, that these bits are; ValueError where they are none of its."""
    sizes = cast(list[Any], shape) if isinstance(shape, list) else None
    if sizes is None or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"the shape of '{name}' is {shape}; it must be a list of positive integers")
    total = math.prod(sizes)
    if bits.dtype is not torch.uint8 or bits.shape != (math.ceil(total / 8),):
        raise ValueError(f"'{name}' of shape {shape} has bits of shape {list(bits.shape)} and type {bits.dtype}")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=total).view(bool)).reshape(sizes)


@dataclass(frozen=True, eq=False, repr=False)
class Mask(Mapping[str, Tensor]):
    """Parameter name -> bool tensor of the parameter's shape, on the CPU; True = kept.

    Treat the tensors as read-only. Two masks are equal when names, shapes and bits are.

    Args:
        tensors: Parameter name to a bool tensor of the parameter's shape, or one of exact 0/1 in any other type; they
            are copied.

    Raises:
        ConfigError: For anything else than named tensors of 0 and 1, and for no position at all.

    >>> mask = Mask({"fc.weight": torch.tensor([[1, 0], [0, 0]])})
    >>> mask.kept, mask.total, mask.density, mask.sparsity
    (1, 4, 0.25, 0.75)
    """

    tensors: Mapping[str, Tensor]

    def __repr__(self) -> str:
        """One line, whatever the size: `<Mask of 2 tensors: 15 of 60 weights kept, 75 % sparse>`."""
        tensors = counted(len(self.tensors), "tensor")
        return f"<Mask of {tensors}: {self.kept} of {self.total} weights kept, {100 * self.sparsity:.4g} % sparse>"

    def __post_init__(self) -> None:
        require_type("mask", self.tensors, Mapping, "a Mask, or a dict of parameter names to tensors of bool or 0/1")
        tensors = {name: _as_bool(name, tensor) for name, tensor in self.tensors.items()}
        if not sum(tensor.numel() for tensor in tensors.values()):
            raise ConfigError("mask: holds no position; it must name at least one tensor of the model")
        object.__setattr__(self, "tensors", tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def kept(self) -> int:
        """The number of weights that are kept."""
        return sum(int(tensor.sum()) for tensor in self.values())

    @cached_property
    def total(self) -> int:
        """The number of weights that the mask speaks about."""
        return sum(tensor.numel() for tensor in self.values())

    @property
    def density(self) -> float:
        """The share of kept weights, measured: kept / total."""
        return self.kept / self.total

    @property
    def sparsity(self) -> float:
        """The share of pruned weights, measured."""
        return (self.total - self.kept) / self.total

    @property
    def emptied(self) -> tuple[str, ...]:
        """The tensors of which nothing is kept: nothing comes through such a layer."""
        return tuple(name for name, keep in self.items() if keep.numel() and not keep.any())

    @cached_property
    def digest(self) -> str:
        """SHA-256 in 64 hexadecimal digits.

        Over the tensors in sorted order of names: the UTF-8 line `name|shape` (`conv.weight|16,1,5,5`), ended by
        a line feed, then the bits in row-major order, packed eight to a byte with the first in the highest
        bit (`numpy.packbits`).
        """
        digest = hashlib.sha256()
        for name in sorted(self):
            digest.update(f"{name}|{','.join(map(str, self[name].shape))}\n".encode())
            digest.update(np.packbits(self[name].numpy()).tobytes())
        return digest.hexdigest()

    def subset(self, names: Iterable[str]) -> "Mask":
        """The part of the mask that names these tensors; ConfigError for a name that it does not have."""
        if isinstance(names, str):
            raise wrong_type("names", names, "a list of parameter names")
        listed = list(names)
        if lacking := [name for name in listed if name not in self.tensors]:
            raise unknown("names", lacking[0], self)
        return own_mask({name: self[name] for name in listed})

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A copy of a state dict with exact zeros at the pruned positions, even where a weight is not finite.

        Tensors that are tied in `state` (one memory under two names) are tied in the copy, so that a mask under the
        first name reaches both. ConfigError for a name or a shape that `state` does not have.
        """
        require_type("state", state, Mapping, "a state dict")
        for name, tensor in self.items():
            require_tensor(name, tensor, state)
        copies: dict[tuple[object, ...], Tensor] = {}
        result = {name: copies.setdefault(memory_of(tensor), tensor.detach().clone()) for name, tensor in state.items()}
        for name, tensor in self.items():
            result[name].masked_fill_(~tensor.to(result[name].device), 0)
        return result

    def save(self, path: str | Path) -> None:
        """Write the mask as safetensors of bool tensors, all or nothing (a temporary file, then a rename).

        Folders that are missing are made, `~` is the user's own. ConfigError where it cannot be written.
        """
        target = as_path("path", path, example="mask.safetensors")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, save(dict(self.tensors)))
        except OSError as error:
            raise ConfigError(f"mask: cannot write '{target}': {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """Read a mask from safetensors of bool or 0/1 tensors, or a store's; ConfigError for a file that is none."""
        source = as_path("path", path, example="mask.safetensors")
        try:
            return cls(unpacked(source.read_bytes()))
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            raise ConfigError(f"mask: cannot read '{path}' as safetensors: {error}") from error


def as_mask(mask: Mapping[str, Tensor]) -> Mask:
    """The mask itself, or the Mask of a plain dict; ConfigError for what is neither."""
    return mask if isinstance(mask, Mask) else Mask(mask)


def own_mask(tensors: Mapping[str, Tensor]) -> Mask:
    """The Mask of these bool tensors on the CPU, which nobody else changes: they are not copied.

    ConfigError for no position at all.
    """
    if not sum(tensor.numel() for tensor in tensors.values()):
        return Mask(tensors)
    mask = object.__new__(Mask)
    object.__setattr__(mask, "tensors", dict(tensors))
    return mask


def keep_top(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Mask:
    """Keep the `counts[name]` highest scores of every tensor; ties keep the lower flat index.

    ConfigError when a score is NaN, when the names of both differ, or when a count is not within the tensor's size.

    >>> keep_top({"w": torch.tensor([[1.0, 5.0], [5.0, 5.0]])}, {"w": 2})["w"]
    tensor([[False,  True],
            [ True, False]])
    """
    if scores.keys() != counts.keys():
        odd = sorted(scores.keys() ^ counts.keys())[0]
        raise ConfigError(f"counts: '{odd}' has a score or a count but not both")
    return own_mask({name: _keep_top_of(name, score, counts[name]) for name, score in scores.items()})


def keep_top_of_all(scores: Mapping[str, Tensor], density: float) -> Mask:
    """Keep the round(density * N) highest of all N scores; ties keep the tensor first in order of names, as `keep_top`.

    >>> mask = keep_top_of_all({"b": torch.tensor([2.0, 1.0]), "a": torch.tensor([2.0, 3.0])}, 0.5)
    >>> mask["a"], mask["b"]
    (tensor([True, True]), tensor([False, False]))
    """
    names = sorted(scores)
    total = sum(score.numel() for score in scores.values())
    kept = dict(zip(names, largest_of_all([scores[name] for name in names], round(density * total)), strict=True))
    return own_mask({name: kept[name] for name in scores})


def require_tensor(name: str, tensor: Tensor, state: Mapping[str, Tensor]) -> None:
    """ConfigError unless `state` has a tensor called `name` of the shape of the mask's `tensor`."""
    if name not in state and f"{name}_orig" in state:
        raise ConfigError(
            f"mask: '{name}' is in the form of torch.nn.utils.prune; undo it by prune.remove or fold_masks"
        )
    if name not in state:
        raise unknown("mask", name, state)
    if state[name].shape != tensor.shape:
        raise ConfigError(f"mask: '{name}' has shape {tuple(tensor.shape)}, the model's is {tuple(state[name].shape)}")


def _keep_top_of(name: str, score: Tensor, count: int) -> Tensor:
    if score.numel() and score.max().isnan():
        raise ConfigError(f"scores: '{name}' holds NaN; every score must be a number")
    if not 0 <= count <= score.numel():
        raise ConfigError(f"counts: '{name}' asks for {count} kept weights; it has {score.numel()}")
    return largest(score, count)


def _as_bool(name: object, tensor: object) -> Tensor:
    require_type("mask: a name", name, str, "the name of a parameter")
    if not isinstance(tensor, Tensor):
        raise ConfigError(f"mask: '{name}' is a {type(tensor).__name__}; it must be a tensor of bool or 0/1")
    if tensor.dtype is not torch.bool and not ((tensor == 0) | (tensor == 1)).all():
        raise ConfigError(f"mask: '{name}' holds other values than 0 and 1")
    return tensor.detach().to("cpu", torch.bool, copy=True).contiguous()


@dataclass(frozen=True, eq=False)
class Flat:
    """A mask as one row of bits with its layers' counts, in sorted order of names: what comparing many masks takes."""

    names: tuple[str, ...]
    bits: NDArray[np.bool_]  # (N,)
    kept: NDArray[np.int64]  # (L,) of each layer
    total: NDArray[np.int64]  # (L,)

    def only(self, names: Collection[str]) -> "Flat":
        """The layers in `names`, alone."""
        inside = np.isin(self.names, list(names))
        bits = self.bits[np.repeat(inside, self.total)]
        return Flat(tuple(compress(self.names, inside)), bits, self.kept[inside], self.total[inside])


class Agreement(NamedTuple):
    """Jaccard index of two masks in [0, 1], and the ratio of expectations that independent masks give."""

    value: float
    expected: float


def flat(mask: Mask) -> Flat:
    """The mask's bits side by side."""
    names = tuple(sorted(mask))
    layers = [mask[name].numpy().ravel() for name in names]
    kept, total = ([count(layer) for layer in layers] for count in (np.count_nonzero, np.size))
    return Flat(names, np.concatenate(layers), np.array(kept, dtype=np.int64), np.array(total, dtype=np.int64))


def jaccard(a: Flat, b: Flat) -> Agreement:
    """|A and B| / |A or B| over all weights of both masks, and E / (|A| + |B| - E) beside it.

    E = sum_l a_l * b_l / N_l is the expected number of common weights of two masks that are drawn independently, each
    uniformly among those that keep a_l and b_l of a layer's N_l weights. The mean of a ratio is not the ratio of the
    means, which is given; for more than some hundred weights they are as good as equal. Two masks that keep nothing
    agree: both are 1.

    ConfigError for masks of other layers or of other sizes.
    """
    if a.names != b.names or not np.array_equal(a.total, b.total):
        raise ConfigError("masks: they name other layers, or layers of other sizes; both must come from one model")
    both = a.kept.sum() + b.kept.sum()
    if not both:
        return Agreement(1.0, 1.0)
    common = np.count_nonzero(a.bits & b.bits)
    filled = a.total > 0
    expected = (a.kept[filled] * b.kept[filled] / a.total[filled]).sum()
    return Agreement(float(common / (both - common)), float(expected / (both - expected)))
