"""A network's ONNX file in 8-bit integers, by onnxruntime's quantiser, and held against the file that it is made from.

Weights are signed integers with a scale for every output channel (of a `dynamic` convolution one for all) and no
offset, so that zero is stored as zero. What passes between layers is unsigned, with an offset: on x86 there are kernels
for that pair of types, and for two signed ones slow ones. `static` fixes its ranges once, by what examples bring about
(the smallest and the largest value of each), and writes them into the graph as pairs of operators QuantizeLinear and
DequantizeLinear; `dynamic` finds them anew in every call. What the quantiser has no 8-bit operator for stays as it is.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import nn

from prunetune.deploy.graph_comparison import Batch, called, first_line, largest_error, outputs_of
from prunetune.deploy.onnx_runtime import OnnxNetwork, onnx_libraries
from prunetune.errors import ConfigError
from prunetune.sparsity.forward_pass import ExampleInputs, called_with

Ranges = Literal["static", "dynamic"]


class Quantised(NamedTuple):
    """What was found when the file was read back: weights are the arrays of two or more dimensions.

    `max_error` is the largest absolute difference of an output from the model's; it is rounding, and no limit is set
    to it. `zeros` counts the weights in 8 bits that are zero, among them small ones that are rounded to it;
    `zeros_exact` says whether every weight that is zero in the ONNX file is zero here.
    """

    max_error: float
    zeros_exact: bool
    zeros: int
    weights: int  # in 8 bits


def write_int8(
    path: Path, source: Path, ranges: Ranges, model: nn.Module, inputs: ExampleInputs, calibration: ExampleInputs
) -> Quantised:
    """Write the ONNX file `source` of `model` in 8 bits to `path`, and run it on `inputs`.

    `calibration`: the examples by which `static` sets ranges. ConfigError for what the quantiser or the runtime cannot
    do, and where not one weight would be in 8 bits.
    """
    onnx, _ = onnx_libraries()
    quantiser: Any = import_module("onnxruntime.quantization")
    how = {"per_channel": True, "weight_type": quantiser.QuantType.QInt8}
    try:
        with _quiet():
            if ranges == "dynamic":
                quantiser.quantize_dynamic(source, path, **how)
            else:
                activations = quantiser.QuantType.QUInt8
                quantiser.quantize_static(source, path, _Once(source, calibration), activation_type=activations, **how)
        onnx.checker.check_model(path, full_check=True)
        batch = Batch.of(inputs)
        network = OnnxNetwork(path, called(model, batch))
    except OSError:
        raise
    except Exception as error:  # of the quantiser, the checker and the runtime, each with its own kinds
        raise ConfigError(f"model: cannot be written in 8 bits: {first_line(error)}") from error
    error = largest_error(model, lambda given: outputs_of(network, given), batch, math.inf)
    zeros_exact, zeros, weights = _zeros(_arrays(onnx, source), _arrays(onnx, path))
    if not weights:
        raise ConfigError("model: cannot be written in 8 bits: the quantiser has no 8-bit form of any of its layers")
    return Quantised(error, zeros_exact, zeros, weights)


class _Once:
    """The calibration examples as the quantiser asks for them: one batch, by the names of the file's inputs."""

    def __init__(self, source: Path, inputs: ExampleInputs) -> None:
        args, named = called_with(inputs)
        names = [given.name for given in onnx_libraries().onnx.load(source).graph.input]
        given = named or dict(zip(names, args, strict=True))
        self._batches = iter([{name: given[name].numpy() for name in names}])

    def get_next(self) -> dict[str, Any] | None:
        """The batch, and None after it."""
        return next(self._batches, None)


def _arrays(onnx: Any, path: Path) -> dict[str, Any]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def _zeros(source: Mapping[str, Any], stored: Mapping[str, Any]) -> tuple[bool, int, int]:
    """Whether the source's zeros are zero; how many weights in 8 bits are, and how many weights in 8 bits there are."""
    exact, zeros, count = True, 0, 0
    for name, weight in source.items():
        if weight.ndim < 2 or weight.dtype.kind != "f":
            continue
        integers = _integers(stored, name)
        if integers is not None:
            zeros, count = zeros + int((integers == 0).sum()), count + integers.size
        found = stored.get(name) if integers is None else integers
        exact = exact and found is not None and _zero_there(found, weight == 0)
    return exact, zeros, count


def _integers(stored: Mapping[str, Any], name: str) -> Any | None:
    """A weight in 8 bits, less its zero point, under the name that the quantiser gives it; None where it has none.

    Zero points of channels are zero; where they were not, nothing would be known of the weight's zeros.
    """
    for known in (name, f"{name}_Transposed"):
        if (found := stored.get(f"{known}_quantized")) is not None:
            zero = stored[f"{known}_zero_point"].astype(np.int16)
            return found.astype(np.int16) - zero if not zero.ndim else found if not zero.any() else None
    return None


def _zero_there(array: Any, zeros: Any) -> bool:
    """Whether an array is zero at these places, as they stand or with the last two dimensions exchanged."""
    return any(array.shape == form.shape and not array[form].any() for form in (zeros, zeros.swapaxes(-1, -2)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice, which it gives to the root logger and so, in passing, to a handler of its own."""
    root, nothing = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(nothing)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(nothing)
