"""An ONNX file where a network of torch is expected: run by onnxruntime, on one thread of the processor."""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunetune.errors import ConfigError

EXTRA = "needs the extra prunetune[onnx]: pip install 'prunetune[onnx]'"
_ERRORS_ONLY = 3  # of onnxruntime's levels: what it warns of is its own way of running a graph


class OnnxLibraries(NamedTuple):
    """What writes and runs ONNX files."""

    onnx: Any
    onnxruntime: Any


def onnx_libraries(field: str = "path: .onnx") -> OnnxLibraries:
    """Imported; ConfigError that begins with `field` where one is missing."""
    try:
        import_module("onnxscript")  # torch's exporter needs it
        return OnnxLibraries(import_module("onnx"), import_module("onnxruntime"))
    except ImportError as error:
        raise ConfigError(f"{field} {EXTRA}") from error


class OnnxNetwork(nn.Module):
    """A file's graph as a module without parameters. Takes tensors on the CPU and gives what the model gave.

    `outputs` is what the model that was written gives for some inputs: the file's outputs take the places of its
    tensors, and all else stays as it is there.
    """

    def __init__(self, path: Path, outputs: Any) -> None:
        super().__init__()
        onnxruntime = onnx_libraries().onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = [given.name for given in self._session.get_inputs()]
        self._leaves, self._form = pytree.tree_flatten(outputs)
        places = sum(isinstance(leaf, Tensor) for leaf in self._leaves)
        if (count := len(self._session.get_outputs())) != places:
            raise ConfigError(f"model: gives {places} tensors, its ONNX file {count}")

    def forward(self, *args: Tensor, **named: Tensor) -> Any:
        """The file's outputs, in the model's form."""
        given = named or dict(zip(self._inputs, args, strict=True))
        found = self._session.run(None, {name: given[name].numpy() for name in self._inputs})
        tensors = iter(map(torch.from_numpy, found))
        leaves = (next(tensors) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves)
        return pytree.tree_unflatten(leaves, self._form)
