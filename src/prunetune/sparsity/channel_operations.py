"""Which operations do to each channel the same, whatever the others hold, and which do not.

A channel is a position along dimension 1 of (N, C, ...) for convolutions, along the last one of (..., C) for linear
layers; of (N, C) these are the same. Nodes are those of Torch-Pruning's graph.
"""

# torch has no public names for the bases of its layers.
# pyright: reportPrivateUsage=false

import re
from collections.abc import Collection, Iterable
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prunetune.errors import ConfigError

Layout = Literal["first", "last"]

# Autograd's names of operations on each element alone.
_ELEMENTWISE = re.compile(
    r"Abs|Add|Alias|Celu|Clamp(Max|Min)?|Clone|Div|Elu|Exp|Gelu|Hardsigmoid|Hardswish|Hardtanh|LeakyRelu|LogSigmoid|"
    r"Mish|Mul|NativeDropout|Neg|Pow|Relu|Rsub|Sigmoid|Silu|Softplus|Sqrt|Sub|Tanh|Threshold|ToCopy"
)
# Of operations on each channel of (N, C, ...) alone.
_SPATIAL = re.compile(
    r"Adaptive(Avg|Max)Pool[123]D|AvgPool[23]D|MaxPool[23]DWithIndices|ReflectionPad[12]D|ReplicationPad[123]D|Squeeze|"
    r"Unsqueeze|Upsample(Nearest|NearestExact|Linear|Bilinear|Bicubic|Trilinear)[123]D"
)
_NUMBERED = ("concat", "split", "reshape", "unbind", "expand", "slice")  # Torch-Pruning has a function for each
_REDUCED = ("Mean", "Sum", "Select")  # of (..., C), along another dimension than the last


def layout_of(nodes: Iterable[Any]) -> Layout | None:
    """Where the channels are in feature maps of three or more dimensions; None where two layers disagree."""
    found = {side for node in nodes if (side := _side(node))}
    return None if len(found) > 1 else "last" if "last" in found else "first"


def _side(node: Any) -> Layout | None:
    if len(shape_of(node)) < 3:
        return None
    if isinstance(node.module, nn.Linear):
        return "last"
    slopes = isinstance(node.module, nn.PReLU) and node.module.num_parameters > 1
    return "first" if slopes or isinstance(node.module, _ConvNd | _BatchNorm | ChannelPad) else None


def obstacle(node: Any, layout: Layout | None, highest: int) -> str | None:
    """What is wrong with an operation that belongs to no layer, for channels one by one up to the number `highest`."""
    kind, name = node.type.name, operation_name(node)
    if kind == "OUTPUT":
        return "it reaches the output"
    if hasattr(node, "unnumbered"):
        return f"Torch-Pruning fails to number the channels of the operation {name} ({node.unnumbered})"
    if _is_weight(name, node.grad_fn) or _is_product_of_layer(name, node):
        return None
    allowed = _allowed_last(name, kind, node) if layout == "last" else _allowed_first(name, kind, node)
    if not allowed:
        return f"it goes through the operation {name}"
    if highest >= width_of(node):
        return f"the operation {name} has fewer channels than what it meets"
    return None


def operation_name(node: Any) -> str:
    """Autograd's name, such as `Addmm`; of an operation that has none, its class."""
    function = node.grad_fn
    name = function.name() if hasattr(function, "name") else type(function).__name__
    return re.sub(r"Backward\d*$", "", name.rpartition("::")[2])


def _allowed_first(name: str, kind: str, node: Any) -> bool:
    if kind == "RESHAPE" or (kind == "CONCAT" and node.module.offsets is not None):
        return True
    return bool(_ELEMENTWISE.fullmatch(name) or _SPATIAL.fullmatch(name)) or _leaves_dimension_1(name, node.grad_fn)


def _leaves_dimension_1(name: str, function: Any) -> bool:
    """Whether a mean, sum, slice or padding of (N, C, ...) leaves C alone."""
    if name == "ConstantPadNd":
        return len(function._saved_pad) <= 4
    if name not in ("Mean", "Sum", "Slice"):
        return False
    places, dims = _places(function)
    return bool(places) and (min(places) > 1 or (name == "Slice" and dims == 4 and places != [1]))


def _allowed_last(name: str, kind: str, node: Any) -> bool:
    """Whether it gives (..., C) of (..., C), each channel of its own."""
    if kind == "RESHAPE":
        before = tuple(getattr(node.grad_fn, "_saved_self_sym_sizes", ()))
        return bool(before) and before[-1:] == shape_of(node)[-1:]
    if name in _REDUCED:
        places, dims = _places(node.grad_fn)
        return bool(places) and dims - 1 not in places and shape_of(node)[-1:] == _sizes(node.grad_fn)[-1:]
    return bool(_ELEMENTWISE.fullmatch(name))


def _sizes(function: Any) -> tuple[int, ...]:
    return tuple(function._saved_self_sym_sizes)


def _places(function: Any) -> tuple[list[int], int]:
    """The dimensions that a mean, sum, slice or selection is along, counted from 0, and how many there are."""
    count, found = len(_sizes(function)), function._saved_dim
    listed = (found,) if isinstance(found, int) else tuple(found or ())
    return [(dim - 2**64 if dim >= 2**63 else dim) % count for dim in listed], count


def _is_weight(name: str, function: Any) -> bool:
    """Whether it is a linear layer's weight on its way into the product."""
    return name == "T" and _leaf(function) is not None


def _leaf(function: Any) -> Any:
    """The parameter whose gradient goes on from here alone."""
    following = function.next_functions[0][0] if function.next_functions else None
    return getattr(following, "variable", None)


def _is_product_of_layer(name: str, node: Any) -> bool:
    """Whether a matrix product is a linear layer's own, on (..., C), which comes apart into view, product, view.

    It is where only that layer reads it and the weight is that layer's. In Torch-Pruning's graph it stands before
    the layer, among what the layer's inputs are coupled with.
    """
    if name not in ("Addmm", "Mm") or len(node.outputs) != 1:
        return False
    (reader,) = node.outputs
    if not isinstance(reader.module, nn.Linear) or len(shape_of(reader)) < 3:
        return False
    weights = [_leaf(function) for function, _ in node.grad_fn.next_functions if function and _is_t(function)]
    return any(weight is reader.module.weight for weight in weights)


def _is_t(function: Any) -> bool:
    return function.name().startswith("TBackward")


def number_flattened(graph: Any) -> None:
    """Tell Torch-Pruning which channel a flattened feature map's positions belong to.

    It does so itself unless some linear layer of the network reads (N, L, C).
    """
    if graph._2d_4d:
        return
    graph._2d_4d = True
    for node in graph.module2node.values():
        if node.type.name == "RESHAPE" and len(shape_of(node)) == 2:
            before = tuple(getattr(node.grad_fn, "_saved_self_sym_sizes", ()))
            if len(before) > 2 and before[0] == shape_of(node)[0]:
                _number(graph, node)


def number_each(graph: Any) -> None:
    """Number the channels of every operation alone; one at which Torch-Pruning fails is marked as an obstacle."""
    for node in graph.module2node.values():
        if node.type.name.lower() in _NUMBERED:
            _number(graph, node)


def _number(graph: Any, node: Any) -> None:
    numbering = torch_pruning().dependency.index_mapping
    try:
        getattr(numbering, f"update_{node.type.name.lower()}_index_mapping")(graph, node)
    except Exception as error:
        node.unnumbered = type(error).__name__


LIMIT = 2_000_000  # indices of one walk: seconds


def torch_pruning() -> Any:
    """The library; ConfigError where it is not installed."""
    try:
        import torch_pruning as library  # pyright: ignore[reportMissingTypeStubs] - it has none
    except ImportError as error:
        what = "pattern: 'channel' needs the extra prunetune[channels]: pip install 'prunetune[channels]'"
        raise ConfigError(what) from error
    return library


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of what a node gives; () where autograd does not tell."""
    metadata = getattr(node.grad_fn, "_input_metadata", ())
    return tuple(metadata[0].shape) if metadata else ()


def width_of(node: Any) -> int:
    """How many channels an operation has at most, in what it takes and what it gives."""
    return max((size for shape in map(shape_of, (node, *node.inputs)) for size in shape), default=LIMIT)


class ChannelPad(nn.Module):
    """Pads (N, inputs, H, W) with zero channels on both sides to (N, outputs, H, W), half (rounded down) before.

    The parameter-free shortcut of He et al. 2015 (option A). In a bare `functional.pad` a channel changes its number
    unseen, so that channels could not be removed on both sides alike. Has no entries in a state dict.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.inputs = inputs
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Input channel i becomes output channel i + `before`."""
        return functional.pad(x, (0, 0, 0, 0, self.before, self.outputs - self.inputs - self.before))

    def remove(self, channels: Collection[int]) -> None:
        """Leave these output channels out, and the inputs that would become them: the caller gives these no more."""
        end = self.before + self.inputs
        self.inputs -= sum(self.before <= channel < end for channel in channels)
        self.before -= sum(channel < self.before for channel in channels)
        self.outputs -= len(channels)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.inputs}, {self.outputs}, before={self.before}"
