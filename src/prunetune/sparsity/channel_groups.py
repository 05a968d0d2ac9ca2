"""Which parts of a network belong to one channel: groups of coupled channels, found with Torch-Pruning.

A channel is an output of a convolution or linear layer with all that only it has: its filter and bias, its batch norm,
its depthwise filter, and the slices of the layers that read it. What is added or multiplied is coupled: the channels of
all its summands go or stay together. A group in which the channels are not what they seem is kept whole, with a reason.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prunetune.errors import RequestError
from prunetune.sparsity.channel_pad import ChannelPad
from prunetune.sparsity.holding import release
from prunetune.sparsity.scope import Scope, matching

ExampleInputs = Tensor | tuple[Tensor, ...]
"""What `model(*inputs)` takes: one tensor, or a tuple of them."""

_ITS_CHANNELS = (_ConvNd, nn.Linear, _BatchNorm, nn.PReLU, ChannelPad)  # layers whose channels are known

# Autograd's names of operations that do to each channel the same, whatever the others hold.
_PER_CHANNEL = re.compile(
    r"Abs|Adaptive(Avg|Max)Pool[123]D|Add|Alias|AvgPool[23]D|Celu|Clamp(Max|Min)?|Clone|Div|Elu|Exp|Gelu|Hardsigmoid|"
    r"Hardswish|Hardtanh|LeakyRelu|LogSigmoid|MaxPool[23]DWithIndices|Mish|Mul|NativeDropout|Neg|Pow|ReflectionPad[12]D|"
    r"Relu|ReplicationPad[123]D|Rsub|Sigmoid|Silu|Softplus|Sqrt|Squeeze|Sub|Tanh|Threshold|ToCopy|Unsqueeze|"
    r"Upsample(Nearest|NearestExact|Linear|Bilinear|Bicubic|Trilinear)[123]D"
)


@dataclass(frozen=True, eq=False)
class Piece:
    """What a parameter has in a group: position `places[i]` along `dim` belongs to channel `channels[i]`."""

    parameter: str
    shape: tuple[int, ...]
    dim: int
    places: Tensor  # (P,) int64
    channels: Tensor  # (P,) int64


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Coupled channels, channel i being the output `outputs[i]` of `layer`. `whole` says why all stay, if they must."""

    layer: str  # a module's name
    outputs: tuple[int, ...]  # all of the layer's, but those that are in another group
    pieces: tuple[Piece, ...]  # of every parameter, the layer's own first; empty for a group that is kept whole
    whole: str | None

    @property
    def channels(self) -> int:
        """How many there are."""
        return len(self.outputs)

    @property
    def weights(self) -> tuple[Piece, ...]:
        """The pieces of convolutions and linear layers, not of biases and batch norm."""
        return tuple(piece for piece in self.pieces if len(piece.shape) >= 2)


def channel_groups(
    model: nn.Module,
    example_inputs: ExampleInputs,
    scope: Scope = Scope(),  # noqa: B008 - frozen
) -> tuple[ChannelGroup, ...]:
    """The groups of coupled channels of `model`, in the order of its modules. Changes nothing.

    The network runs once, on a copy, in evaluation mode. A group is kept whole where it reaches the output or meets
    the input, where one of its parameters matches `scope.exclude`, and where it goes through something whose channels
    are not known one by one: grouped convolutions, normalisation over channels, slices, transpositions, parameters
    outside of layers.

    RequestError for tied weights, for inputs that the model does not take, and without the extra `channels`.
    """
    copy = deepcopy(model)
    return read_groups(trace(copy, example_inputs), copy, scope)


def trace(model: nn.Module, example_inputs: ExampleInputs) -> Any:
    """Torch-Pruning's DependencyGraph of `model`.

    It is a copy's to be traced: weights that are held are released, all require gradients, and it is left in
    evaluation mode.
    """
    _refuse_tied(model)
    release(model)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    scene = _Scene(model, len(inputs))
    graph = _torch_pruning().DependencyGraph()
    pruners = {ChannelPad: _PadPruner(), _Entry: _EntryPruner()}
    with torch.enable_grad():
        _require_forward(scene, inputs)
        graph.build_dependency(
            scene,
            inputs,
            forward_fn=lambda network, given: network(*given),
            output_transform=_marked,
            customized_pruners=pruners,
            verbose=False,
        )
    for node in graph.module2node.values():
        if isinstance(node.module, ChannelPad):
            _number(node)
    return graph


def read_groups(graph: Any, model: nn.Module, scope: Scope = Scope()) -> tuple[ChannelGroup, ...]:  # noqa: B008 - frozen
    """The groups of a graph that `trace` made of `model`."""
    reader = _Reader(graph, model, scope)
    layers = [
        module for module in reader.names if module in graph.module2node and isinstance(module, _ConvNd | nn.Linear)
    ]
    layers.sort(key=graph.get_out_channels, reverse=True)  # what is coupled with two others in parts comes before these
    found = [group for layer in layers for group in reader.groups(layer)]
    order = {name: i for i, name in enumerate(reader.names.values())}
    return tuple(sorted(found, key=lambda group: (order[group.layer], group.outputs)))


def _torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        what = "pattern: 'channel' needs the extra prunetune[channels]: pip install 'prunetune[channels]'"
        raise RequestError(what) from error
    return torch_pruning


def _refuse_tied(model: nn.Module) -> None:
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            raise RequestError(f"model: '{name}' is tied to '{known}'; channels of tied weights cannot be removed")


def _require_forward(scene: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    scene.eval()
    try:
        outputs = tensors_in(scene(*inputs))
    except Exception as error:
        what = str(error).strip().splitlines() or [type(error).__name__]
        raise RequestError(f"example_inputs: the model does not take them: {what[0]}") from error
    if not any(output.requires_grad for output in outputs):
        raise RequestError("model: none of its outputs depends on its parameters by operations that autograd records")


def tensors_in(outputs: Any) -> list[Tensor]:
    """The floating-point tensors of a model's outputs, however they are nested."""
    found = _torch_pruning().utils.flatten_as_list(outputs)
    return [tensor for tensor in found if isinstance(tensor, Tensor) and tensor.is_floating_point()]


def _marked(outputs: Any) -> list[Tensor]:
    """Each output behind one more operation, at which Torch-Pruning then sees that it is an output."""
    return [tensor * 1 for tensor in tensors_in(outputs) if tensor.requires_grad]


class _Entry(nn.Module):
    """Where an input comes in: its channels are known, and stay."""

    channels: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        self.channels = x.shape[1] if x.dim() > 1 else None
        return x.detach().requires_grad_() * 1


class _Scene(nn.Module):
    """A model with its inputs marked."""

    def __init__(self, model: nn.Module, inputs: int) -> None:
        super().__init__()
        self.model = model
        self.entries = nn.ModuleList(_Entry() for _ in range(inputs))

    def forward(self, *inputs: Tensor) -> Any:
        return self.model(*(entry(x) for entry, x in zip(self.entries, inputs, strict=True)))


class _EntryPruner:
    """What Torch-Pruning asks about an _Entry. The group that holds one is kept whole."""

    pruning_dim = 1

    def prune_out_channels(self, layer: _Entry, idxs: list[int]) -> _Entry:
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: _Entry) -> int | None:
        return layer.channels

    get_in_channels = get_out_channels


class _PadPruner:
    """What Torch-Pruning asks about a ChannelPad, whose channels are numbered as its outputs."""

    pruning_dim = 1

    def prune_out_channels(self, layer: ChannelPad, idxs: list[int]) -> ChannelPad:
        layer.remove(idxs)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: ChannelPad) -> int:
        return layer.outputs

    def get_in_channels(self, layer: ChannelPad) -> int:
        return layer.inputs


def _number(pad: Any) -> None:
    """Tell Torch-Pruning that channel i before the pad is channel i + `before` behind it."""
    before, end = pad.module.before, pad.module.before + pad.module.inputs

    def forth(found: list[Any]) -> list[Any]:
        return [index._replace(idx=index.idx + before) for index in found]

    def back(found: list[Any]) -> list[Any]:
        return [index._replace(idx=index.idx - before) for index in found if before <= index.idx < end]

    for source in pad.inputs:
        for mapping, edges in ((forth, source.dependencies), (back, pad.dependencies)):
            for edge in edges:
                if {edge.source, edge.target} == {source, pad}:
                    edge.index_mapping[1] = mapping


class _Part(NamedTuple):
    """One entry of a group of Torch-Pruning's."""

    node: Any
    to_output: bool
    places: list[int]
    channels: list[int]


class _Reader:
    """Turns Torch-Pruning's groups into ours."""

    def __init__(self, graph: Any, model: nn.Module, scope: Scope) -> None:
        self.graph = graph
        self.scope = scope
        self.names: Mapping[nn.Module, str] = {module: name for name, module in model.named_modules()}
        self.parameters = dict(model.named_parameters())
        self._met: defaultdict[nn.Module, set[int]] = defaultdict(set)  # the outputs that are in a group

    def groups(self, layer: nn.Module) -> Iterator[ChannelGroup]:
        """The outputs of a layer that are in no group yet: one group, or one for each part of a concatenation."""
        outputs = sorted(set(range(self.graph.get_out_channels(layer))) - self._met[layer])
        if not outputs:
            return
        prune = self.graph.get_pruner_of_module(layer).prune_out_channels
        parts = [_part(item, outputs) for item in self.graph.get_pruning_group(layer, prune, outputs)]
        for part in parts:
            if part.to_output:
                self._met[part.node.module].update(part.places)
        why = next(self._obstacles(parts), None) or self._not_one_by_one(layer, prune, outputs)
        if why:
            yield ChannelGroup(self.names[layer], tuple(outputs), (), why)
        else:
            pieces = tuple(piece for part in parts for piece in self._pieces(part))
            yield from _split(ChannelGroup(self.names[layer], tuple(outputs), pieces, None))

    def _pieces(self, part: _Part) -> Iterator[Piece]:
        module = part.node.module
        for leaf, dim in _dims(module, part.to_output):
            name = self._parameter(module, leaf)
            if name in self.parameters:
                places, channels = torch.tensor(part.places), torch.tensor(part.channels)
                yield Piece(name, tuple(self.parameters[name].shape), dim, places, channels)

    def _parameter(self, module: nn.Module, leaf: str) -> str:
        return f"{self.names[module]}.{leaf}".removeprefix(".")

    def _obstacles(self, parts: list[_Part]) -> Iterator[str]:
        """Why the channels must stay, if they must, for every part that is an obstacle."""
        for part in parts:
            module = part.node.module
            if isinstance(module, _ITS_CHANNELS):
                yield from self._obstacles_at(module, part)
            elif isinstance(module, _Entry):
                yield "it meets the model's input"
            elif isinstance(module, nn.Parameter):
                yield "it meets a parameter outside of any layer"
            elif module in self.names:
                yield f"'{self.names[module]}' ({type(module).__name__}) works across channels"
            elif why := _operation(part.node, self.graph):
                yield why

    def _obstacles_at(self, module: nn.Module, part: _Part) -> Iterator[str]:
        name = self.names[module]
        if isinstance(module, _ConvNd) and module.groups > 1 and not _is_depthwise(module):
            yield f"'{name}' is a grouped convolution"
        for leaf, dim in _dims(module, part.to_output):
            parameter = self._parameter(module, leaf)
            if getattr(module, leaf) is not None and parameter not in self.parameters:
                yield f"'{parameter}' is computed, not a parameter"
            elif parameter in self.parameters:
                if pattern := matching(self.scope.exclude, [parameter]):
                    yield f"'{parameter}' is excluded by '{pattern}'"
                if max(part.places) >= self.parameters[parameter].shape[dim]:
                    yield f"'{name}' has fewer channels than what it meets"

    def _not_one_by_one(self, layer: nn.Module, prune: Any, outputs: list[int]) -> str | None:
        """Whether taking one channel takes others, as where one output is read as two."""
        alone = self.graph.get_pruning_group(layer, prune, outputs[:1])
        return None if alone[0].idxs == outputs[:1] else "its channels are not coupled one by one"


def _part(item: Any, outputs: list[int]) -> _Part:
    to_output = item.dep.handler.__name__ == "prune_out_channels"
    number = {output: channel for channel, output in enumerate(outputs)}
    pairs = sorted((place, number[output]) for place, output in zip(item.idxs, item.root_idxs, strict=True))
    return _Part(item.dep.target, to_output, [place for place, _ in pairs], [channel for _, channel in pairs])


def _split(group: ChannelGroup) -> Iterator[ChannelGroup]:
    """The channels that belong to the same layers, as a group each: what is added to two concatenated branches is two.

    So no branch loses all of its channels.
    """
    belongs = torch.zeros(group.channels, len(group.pieces), dtype=torch.bool)
    for i, piece in enumerate(group.pieces):
        belongs[piece.channels, i] = True
    for layers in belongs.unique(dim=0):
        chosen = (belongs == layers).all(1)
        outputs = tuple(output for output, mine in zip(group.outputs, chosen.tolist(), strict=True) if mine)
        pieces = tuple(piece for piece, mine in zip(group.pieces, layers.tolist(), strict=True) if mine)
        yield ChannelGroup(group.layer, outputs, tuple(_restricted(piece, chosen) for piece in pieces), None)


def _restricted(piece: Piece, chosen: Tensor) -> Piece:
    """The piece of the chosen channels alone, which are counted anew."""
    mine = chosen[piece.channels]
    return replace(piece, places=piece.places[mine], channels=(chosen.cumsum(0) - 1)[piece.channels[mine]])


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and module.groups == module.in_channels == module.out_channels > 1


def _dims(module: Any, to_output: bool) -> tuple[tuple[str, int], ...]:
    """The parameters of a layer that have its channels, as attributes, and along which dimension."""
    if isinstance(module, _BatchNorm) or _is_depthwise(module):
        return (("weight", 0), ("bias", 0))
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return (("weight", 0),)
    if isinstance(module, _ConvNd | nn.Linear):
        outputs = 1 if isinstance(module, _ConvNd) and module.transposed else 0
        return (("weight", outputs), ("bias", 0)) if to_output else (("weight", 1 - outputs),)
    return ()


def _operation(node: Any, graph: Any) -> str | None:
    """What is wrong with an operation that belongs to no layer, for channels one by one."""
    kind, function = node.type.name, node.grad_fn
    if kind == "OUTPUT":
        return "it reaches the output"
    if kind == "RESHAPE" or (kind == "CONCAT" and node.module.offsets is not None):
        return None
    name = re.sub(r"Backward\d*$", "", function.name().rpartition("::")[2])
    if _PER_CHANNEL.fullmatch(name) or (name == "T" and "AccumulateGrad" in function.next_functions[0][0].name()):
        return None
    return None if graph._2d_4d and _is_spatial(name, function) else f"it goes through the operation {name}"


def _is_spatial(name: str, function: Any) -> bool:
    """Whether a mean, sum, slice or padding of (N, C, ...) leaves C alone."""
    if name == "ConstantPadNd":
        return len(function._saved_pad) <= 4
    if name not in ("Mean", "Sum", "Slice"):
        return False
    sizes, dims = function._saved_self_sym_sizes, function._saved_dim
    listed = (dims,) if isinstance(dims, int) else tuple(dims or ())
    places = [(dim - 2**64 if dim >= 2**63 else dim) % len(sizes) for dim in listed]
    return bool(places) and (min(places) > 1 or (name == "Slice" and len(sizes) == 4 and places != [1]))
