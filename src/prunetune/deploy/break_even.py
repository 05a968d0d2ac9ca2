"""From which sparsity on a sparse kernel is faster than a dense one on this machine, by layer, batch and kernel."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.core.environment import environment
from prunetune.deploy.latency import Latency, Speedup, latencies, speedup
from prunetune.deploy.other_runtimes import (
    OPENVINO_BLOCK,
    has_onnxruntime,
    has_openvino,
    onnxruntime_layer,
    openvino_layer,
)
from prunetune.deploy.sparse_kernels import require_kernels, sparse_layer
from prunetune.errors import ConfigError, counted, shown

SHAPES = (
    *("256x256", "1024x1024", "3072x768", "4096x4096"),
    *("384x64x1x1@14", "512x128x1x1@14", "32x32x3x3@16", "256x256x3x3@8"),
)
BATCHES = (1, 64)
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
SCHEMA_VERSION = 1
KIND = "prunetune kernels"
_MOST_NUMBERS = 2**28  # of weights, or of activations: 1 GB of float32
_SECONDS = 0.5  # of measuring, at one sparsity
_ROUNDS = (20, 40)  # at least and at most


@dataclass(frozen=True)
class LayerShape:
    """A linear layer (`kernel` 0), or a convolution of stride 1 on square images of `image` pixels a side."""

    outputs: int
    inputs: int
    kernel: int = 0
    image: int = 0

    @classmethod
    def parse(cls, text: str) -> "LayerShape":
        """From OUTxIN, or OUTxINxKxK@SIDE; ConfigError for another form.

        >>> LayerShape.parse("256x64x3x3@14")
        LayerShape(outputs=256, inputs=64, kernel=3, image=14)
        """
        right = "must be OUTxIN of a linear layer, such as 1024x768, or OUTxINxKxK@SIDE, such as 256x64x3x3@14"
        found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})(?:x(\d{1,2})x(\d{1,2})@([1-9]\d{0,3}))?", text.strip())
        if found is None:
            raise ConfigError(f"shape: {shown(text)}; {right}")
        outputs, inputs, height, width, image = (int(part or 0) for part in found.groups())
        if height != width or (image and not height % 2):
            raise ConfigError(f"shape: {shown(text)}; the kernel must be square and odd, such as 3x3")
        if outputs * inputs * max(height, 1) ** 2 > _MOST_NUMBERS:
            raise ConfigError(f"shape: {shown(text)}; at most {_MOST_NUMBERS} weights")
        return cls(outputs, inputs, height, image)

    def __str__(self) -> str:
        if not self.kernel:
            return f"{self.outputs}x{self.inputs}"
        return f"{self.outputs}x{self.inputs}x{self.kernel}x{self.kernel}@{self.image}"

    def layer(self, sparsity: float) -> nn.Module:
        """A layer each of whose weights is zero with that probability; the same at each call."""
        random = torch.Generator().manual_seed(0)
        made: nn.Linear | nn.Conv2d
        if self.kernel:
            made = nn.Conv2d(self.inputs, self.outputs, self.kernel, padding=self.kernel // 2)
        else:
            made = nn.Linear(self.inputs, self.outputs)
        weight = torch.randn(made.weight.shape, generator=random)
        weight *= torch.rand(weight.shape, generator=random) >= sparsity
        made.weight.data = weight
        return made.requires_grad_(False)

    def example(self, batch: int) -> Tensor:
        """Inputs of the layer, from a standard normal distribution; the same at each call."""
        size = (self.inputs, self.image, self.image) if self.kernel else (self.inputs,)
        return torch.randn(batch, *size, generator=torch.Generator().manual_seed(1))


_Make = Callable[[nn.Module, Tensor, int], nn.Module]
_MAKERS: Mapping[str, _Make] = {
    "torch": lambda layer, *_: layer,
    "torch CSR": lambda layer, *_: sparse_layer(layer),
    "onnxruntime": onnxruntime_layer,
    "OpenVINO int8": partial(openvino_layer, sparse=False),
    "OpenVINO sparse int8": partial(openvino_layer, sparse=True),
}


@dataclass(frozen=True)
class Contest:
    """A sparse kernel and the dense one that it must beat, by their names in the table."""

    sparse: str
    dense: str

    def fits(self, shape: LayerShape) -> bool:
        """Whether the kernels can run the layer."""
        if not self.sparse.startswith("OpenVINO"):
            return True
        sizes = (shape.outputs, shape.inputs)
        # It fails on a weight of one block.
        return not shape.kernel and not any(size % OPENVINO_BLOCK for size in sizes) and max(sizes) > OPENVINO_BLOCK


@dataclass(frozen=True)
class Measured:
    """Both kernels at one sparsity."""

    sparsity: float
    dense: Latency
    sparse: Latency
    speedup: Speedup


@dataclass(frozen=True)
class BreakEven:
    """What was measured of a contest for a layer and a batch, from the highest sparsity down."""

    shape: LayerShape
    batch: int
    contest: Contest
    measured: tuple[Measured, ...]

    @property
    def sparsity(self) -> float | None:
        """The least sparsity from which on, at all that were tried, the sparse kernel is surely faster; None: never."""
        found = None
        for row in self.measured:
            if row.speedup.low <= 1:
                break
            found = row.sparsity
        return found


def contests() -> tuple[tuple[Contest, ...], tuple[str, ...]]:
    """What can be compared with what is installed here, and a sentence on each that cannot."""
    found, missing = [Contest("torch CSR", "torch")], []
    if has_onnxruntime():
        found.append(Contest("torch CSR", "onnxruntime"))
    else:
        missing.append("onnxruntime is not compared: install prunetune[onnx]")
    if has_openvino():
        found.append(Contest("OpenVINO sparse int8", "OpenVINO int8"))
    else:
        missing.append("OpenVINO is not compared: install prunetune[openvino]")
    return tuple(found), tuple(missing)


def break_evens(
    shapes: Sequence[LayerShape], batches: Sequence[int], sparsities: Sequence[float], threads: int = 1
) -> Iterator[BreakEven]:
    """Measure, one row of the table after the other.

    Sparsities are tried from high to low, up to the first at which the sparse kernel is not surely faster: where it
    loses, it loses with more weights too.
    """
    asked, _ = contests()
    for shape in shapes:
        for batch in batches:
            for contest in asked:
                if contest.fits(shape):
                    yield BreakEven(shape, batch, contest, tuple(_measured(contest, shape, batch, sparsities, threads)))


def _measured(
    contest: Contest, shape: LayerShape, batch: int, sparsities: Sequence[float], threads: int
) -> Iterator[Measured]:
    inputs = shape.example(batch)
    for sparsity in sorted(sparsities, reverse=True):
        layer = shape.layer(sparsity)
        models = {name: _MAKERS[kernel](layer, inputs, threads) for name, kernel in asdict(contest).items()}
        trial = latencies(models, inputs, rounds=2, threads=threads)
        fits = int(_SECONDS / sum(found.median for found in trial.values()))
        found = latencies(models, inputs, rounds=min(max(fits, _ROUNDS[0]), _ROUNDS[1]), threads=threads)
        row = Measured(sparsity, found["dense"], found["sparse"], speedup(found["dense"], found["sparse"]))
        yield row
        if row.speedup.low <= 1:
            return


def require_request(
    shapes: Sequence[LayerShape], batches: Sequence[int], sparsities: Sequence[float], threads: int
) -> None:
    """ConfigError for what cannot be measured, and where torch has no MKL."""
    require_kernels()
    for sparsity in sparsities:
        if not 0 < sparsity < 1:
            raise ConfigError(f"sparsity: {sparsity:g} is not a share of a layer's weights; it must lie in (0, 1)")
    for shape in shapes:
        most = _MOST_NUMBERS // (max(shape.inputs, shape.outputs) * max(shape.image, 1) ** 2)
        if max(batches) > most:
            raise ConfigError(f"batch: {max(batches)}; at most {most} of {shape}, whose inputs would fill the memory")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads > cores:
        raise ConfigError(f"threads: {threads}; this machine has {counted(cores, 'core')}")


def require_own_file(path: Path) -> None:
    """ConfigError for a file that cannot be written, and for one that this command did not write."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = json.loads(path.read_bytes())["kind"] if path.exists() else KIND
    except OSError as error:
        raise ConfigError(f"out: cannot write '{path}': {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        kind = None
    if kind != KIND:
        raise ConfigError(f"out: '{path}' is not a file that bench-kernels wrote, and would be replaced; give another")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"out: cannot write '{path}': permission denied")


def header() -> str:
    """The names of the columns of `line`."""
    return _columns(
        "Layer", "Batch", "Sparse kernel", "Dense kernel", "Dense, ms", "Faster from", "There", "Highest tried"
    )


def line(row: BreakEven) -> str:
    """A row of the table: the break-even, and the speed-ups there and at the highest sparsity, with 95 % intervals."""
    least = row.sparsity
    there = next((f"{_times(found.speedup)}" for found in row.measured if found.sparsity == least), "")
    first = row.measured[0]
    return _columns(
        str(row.shape),
        str(row.batch),
        row.contest.sparse,
        row.contest.dense,
        f"{first.dense.median * 1e3:.3g}",
        "never" if least is None else f"{least:.3g}",
        there,
        f"{_times(first.speedup)} at {first.sparsity:.3g}",
    )


def to_json(rows: Sequence[BreakEven], threads: int, sparsities: Sequence[float]) -> str:
    """Strict JSON of all that was measured, with the machine; times in seconds, medians and quartiles."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "environment": environment() | _versions(),
        "threads": threads,
        "sparsities": sorted(sparsities),
        "rows": [_as_dict(row) for row in rows],
    }
    return json.dumps(content, indent=1, allow_nan=False)


def _as_dict(row: BreakEven) -> dict[str, Any]:
    return {
        "layer": str(row.shape),
        "batch": row.batch,
        **{f"{name}_kernel": kernel for name, kernel in asdict(row.contest).items()},
        "faster_from": row.sparsity,
        "measured": [
            {
                "sparsity": found.sparsity,
                "rounds": found.dense.rounds,
                "dense": _spread(found.dense),
                "sparse": _spread(found.sparse),
                "speedup": found.speedup._asdict(),
            }
            for found in row.measured
        ],
    }


def _spread(found: Latency) -> dict[str, float]:
    return {"median": found.median, "low": found.low, "high": found.high}


def _versions() -> dict[str, str]:
    """Of the other runtimes that are here."""
    names = [name for name, here in (("onnxruntime", has_onnxruntime()), ("openvino", has_openvino())) if here]
    return {name: version(name) for name in names}


def _times(found: Speedup) -> str:
    return f"{found.ratio:.2f}x [{found.low:.2f}, {found.high:.2f}]"


def _columns(*cells: str) -> str:
    widths = (16, 5, 20, 13, 9, 11, 20, 0)
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
