"""One layer in another runtime, as a module: what a sparse kernel must beat, and the sparse kernel of OpenVINO."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_RANGE = 4.0  # of activations in int8: inputs are drawn from a standard normal distribution
_LEVELS = 256
OPENVINO_BLOCK = 64  # both sizes of a weight must be multiples of it for OpenVINO's sparse form
_ALWAYS, _NEVER = 0.01, 1.0  # shares of zeros from which OpenVINO keeps weights in the sparse form


class _Layer(nn.Module):
    """Calls another runtime with the inputs as numpy sees them."""

    def __init__(self, run: Callable[[Any], Any]) -> None:
        super().__init__()
        self._run = run

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.from_numpy(self._run(inputs.numpy()))


def has_onnxruntime() -> bool:
    """Whether onnxruntime and onnx are installed."""
    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def onnxruntime_layer(layer: nn.Module, inputs: Tensor, threads: int) -> nn.Module:
    """An `nn.Linear`, or a square `nn.Conv2d` of stride 1, with its bias, as a node of onnxruntime."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    weight, bias = layer.get_parameter("weight").detach(), layer.get_parameter("bias").detach()
    if isinstance(layer, nn.Conv2d):
        size, pad = layer.kernel_size[0], int(layer.padding[0])
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"], kernel_shape=[size, size], pads=[pad] * 4)
    else:
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    constants = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in (("w", weight), ("b", bias))]
    graph = helper.make_graph([node], "layer", values[:1], values[1:], constants)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its threads would slow the others down
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _Layer(lambda array: session.run(None, {"x": array})[0])


def openvino_layer(layer: nn.Module, inputs: Tensor, threads: int, *, sparse: bool) -> nn.Module:
    """The product of an `nn.Linear` in OpenVINO's int8, its weights kept sparse or not; the results are equal.

    The sparse form ("sparse weights decompression") is used for int8 on processors with AMX, where both sizes are
    multiples of 64; elsewhere OpenVINO quietly takes the dense one.
    """
    openvino: Any = import_module("openvino")  # an extra that need not be here to check types
    op: Any = import_module("openvino.opset13")
    weight = layer.get_parameter("weight").detach().numpy()
    scale = max(float(np.abs(weight).max()), 1e-12) / 127
    given = op.parameter(list(inputs.shape), np.float32)
    low, high = (op.constant(np.float32(edge)) for edge in (-_RANGE, _RANGE * (1 - 2 / _LEVELS)))
    quantised = op.fake_quantize(given, low, high, low, high, _LEVELS)
    integers = op.constant(np.round(weight / scale).astype(np.int8))
    product = op.matmul(
        quantised, op.multiply(op.convert(integers, "f32"), op.constant(np.float32(scale))), False, True
    )
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": _ALWAYS if sparse else _NEVER,
    }
    compiled = openvino.Core().compile_model(openvino.Model([op.result(product)], [given]), "CPU", settings)
    request = compiled.create_infer_request()

    def run(array: Any) -> Any:
        request.set_input_tensor(openvino.Tensor(array, shared_memory=True))
        request.infer(share_outputs=True)
        return request.get_output_tensor().data

    return _Layer(run)
