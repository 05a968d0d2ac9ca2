"""Which parts of a network belong to one channel: groups of coupled channels, found with Torch-Pruning.

A channel is an output of a convolution or linear layer with all that only it has: its filter and bias, its batch norm,
its depthwise filter, and the slices of the layers that read it. What is added or multiplied is coupled: the channels of
all its summands go or stay together. A group in which the channels are not what they seem is kept whole, with a reason.

Attention heads, and what else is known by its module's kind, are those of `channel_blocks`.

Torch-Pruning's own walk through its graph follows lists of indices until none is new; where a concatenation runs along
another dimension than it supposes, these grow without end. Here every node takes an index once, and none beyond its
width.
"""

# torch has no public names for the bases of its layers, and leaves some methods without types.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prunetune.errors import ConfigError
from prunetune.sparsity.channel_blocks import Block, blocks_of, places_of
from prunetune.sparsity.channel_operations import LIMIT, ChannelPad, layout_of, obstacle, torch_pruning, width_of
from prunetune.sparsity.channel_trace import Entry, trace
from prunetune.sparsity.forward_pass import ExampleInputs
from prunetune.sparsity.model_state import copied
from prunetune.sparsity.scope import Scope, is_conv1d, matching

_ITS_CHANNELS = (_ConvNd, nn.Linear, _BatchNorm, nn.PReLU, ChannelPad)  # layers whose channels are known


class Coupled(NamedTuple):
    """What a layer or operation has of the walk's outputs: its index `places[i]` belongs to output `outputs[i]`."""

    edge: Any  # Torch-Pruning's Dependency: `edge.target` is the node, `edge.handler` how it is pruned
    places: list[int]
    outputs: list[int]


class Walk(NamedTuple):
    """All that is coupled with some outputs, in the order in which it is met, the layer's own first."""

    met: list[Coupled]
    unclear: str | None  # why it is not known which channels go together, if it is not


def to_output(edge: Any) -> bool:
    """Whether an edge prunes outputs of its target, not inputs."""
    return edge.handler.__name__ == "prune_out_channels"


def walk(graph: Any, layer: Any, outputs: Sequence[int], limit: int = LIMIT) -> Walk:
    """What is coupled with these outputs of a convolution or linear layer."""
    return _Walker(graph, limit).walk(layer, outputs)


class _Walker:
    def __init__(self, graph: Any, limit: int) -> None:
        self.graph = graph
        self.left = limit
        self.unclear: str | None = None
        self.known: dict[tuple[Any, Any], tuple[Any, dict[int, int]]] = {}

    def walk(self, layer: Any, outputs: Sequence[int]) -> Walk:
        library = torch_pruning()
        node = self.graph.module2node[layer]
        prune = self.graph.get_pruner_of_module(layer).prune_out_channels
        if isinstance(layer, library.ops.TORCH_CONV) and layer.groups == layer.out_channels > 1:
            prune = library.pruner.function.prune_depthwise_conv_out_channels
        edge = library.dependency.Dependency(prune, prune, source=node, target=node)
        index = library._helpers._HybridIndex
        waiting = [(edge, self._fresh(edge, [index(idx=i, root_idx=i) for i in outputs]))]
        while waiting and self.left > 0:
            edge, indices = waiting.pop()
            for following in edge.target.dependencies:
                if following.is_triggered_by(edge.handler):
                    fresh = self._fresh(following, self._mapped(following, indices))
                    if fresh:
                        waiting.append((following, fresh))
        met = [Coupled(edge, list(found), list(found.values())) for edge, found in self.known.values() if found]
        return Walk(met, "it is coupled with more than can be followed" if waiting else self.unclear)

    def _mapped(self, edge: Any, indices: list[Any]) -> list[Any]:
        """The indices of the edge's target."""
        try:
            for mapping in edge.index_mapping:
                if mapping is not None:
                    indices = mapping(indices)
        except Exception as error:  # Torch-Pruning's, of operations that it does not foresee
            self.unclear = f"Torch-Pruning fails to number its channels ({type(error).__name__})"
            return []
        return indices

    def _fresh(self, edge: Any, indices: list[Any]) -> list[Any]:
        """The indices that are new to the target, to go on from; those beyond its width are noted and end there."""
        if not indices:
            return []
        _, known = self.known.setdefault((edge.target, edge.handler), (edge, {}))
        width = self._width(edge)
        fresh: list[Any] = []
        for index in indices:
            if index.root_idx is None or index.idx < 0:
                self.unclear = "its channels are not coupled one by one"
            elif index.idx not in known:
                known[index.idx] = index.root_idx
                if index.idx < width:
                    fresh.append(index)
            elif known[index.idx] != index.root_idx:
                self.unclear = "its channels are not coupled one by one"
        self.left -= len(indices)
        return fresh

    def _width(self, edge: Any) -> int:
        """How many channels the target has at most."""
        get = self.graph.get_out_channels if to_output(edge) else self.graph.get_in_channels
        layer = isinstance(edge.target.module, _ConvNd | nn.Linear | _BatchNorm)
        return get(edge.target) if layer else width_of(edge.target)


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
    block: Block | None = None  # of attention heads and the like, and `outputs` are their numbers

    @property
    def width(self) -> int:
        """How many outputs of the layer one channel is."""
        return self.block.rows[0].width if self.block else 1

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
    outside of layers, tied parameters.

    ConfigError for inputs that the model does not take, for a network that Torch-Pruning cannot follow, for a compiled
    one, and without the extra `channels`.
    """
    if type(model).__name__ == "OptimizedModule":
        what = "it is compiled, and its channels cannot be followed; give the module within, `model._orig_mod`"
        raise ConfigError(f"model: {what}")
    copy = copied(model)
    return read_groups(trace(copy, example_inputs), copy, scope)


def read_groups(graph: Any, model: nn.Module, scope: Scope = Scope()) -> tuple[ChannelGroup, ...]:  # noqa: B008 - frozen
    """The groups of a graph that `trace` made of `model`."""
    reader = _Reader(graph, model, scope)
    blocks = blocks_of(model)
    covered = {name for block in blocks for name in block.covered}
    layers = [
        module
        for module, name in reader.names.items()
        if module in graph.module2node and isinstance(module, _ConvNd | nn.Linear) and name not in covered
    ]
    layers.sort(key=graph.get_out_channels, reverse=True)  # what is coupled with two others in parts comes before these
    found = [group for layer in layers for group in reader.groups(layer)]
    why = "the channels of transformers' Conv1D are not followed"
    others = [(m, name) for m, name in reader.names.items() if is_conv1d(m) and name not in covered]
    found += [group for block in blocks for group in reader.block(block)]
    found += [ChannelGroup(name, tuple(range(module.weight.shape[1])), (), why) for module, name in others]
    order = {name: i for i, name in enumerate(reader.names.values())}
    return tuple(sorted(found, key=lambda group: (order[group.layer], group.outputs)))


class _Part(NamedTuple):
    """One entry of a walk, its outputs counted as channels of the group."""

    node: Any
    to_output: bool
    places: list[int]
    channels: list[int]


class _Reader:
    """Turns what is coupled in Torch-Pruning's graph into groups."""

    def __init__(self, graph: Any, model: nn.Module, scope: Scope) -> None:
        self.graph = graph
        self.scope = scope
        modules = cast(Iterable[tuple[str, nn.Module]], model.named_modules())
        self.names: Mapping[Any, str] = {module: name for name, module in modules}
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.tied = _tied(model)
        self._met: defaultdict[nn.Module, set[int]] = defaultdict(set)  # the outputs that are in a group
        self._kept: defaultdict[nn.Module, set[int]] = defaultdict(set)  # those in one that is kept whole

    def groups(self, layer: nn.Module) -> Iterator[ChannelGroup]:
        """The outputs of a layer that are in no group yet: one group, or one for each part of a concatenation."""
        outputs = sorted(set(range(self.graph.get_out_channels(layer))) - self._met[layer])
        if not outputs:
            return
        if why := self._barred(layer):
            yield ChannelGroup(self.names[layer], tuple(outputs), (), why)
            return
        found = walk(self.graph, layer, outputs)
        parts = [_part(item, outputs) for item in found.met]
        why = next(self._obstacles(parts), None) or found.unclear or self._kept_already(parts)
        for part in parts:
            if part.to_output:
                self._met[part.node.module].update(part.places)
                self._kept[part.node.module].update(part.places if why else ())
        if why:
            yield ChannelGroup(self.names[layer], tuple(outputs), (), why)
        else:
            pieces = tuple(piece for part in parts for piece in self._pieces(part))
            yield from _split(ChannelGroup(self.names[layer], tuple(outputs), pieces, None))

    def block(self, block: Block) -> Iterator[ChannelGroup]:
        """The channels of a block as a group; where they stay whole, one for each layer that has them."""
        barred = (self._barred_at(rows.parameter) for rows in block.rows)
        if why := block.whole or next(filter(None, barred), None):
            for rows in block.rows[:-1]:
                layer, _, leaf = rows.parameter.rpartition(".")
                if leaf == "weight" and rows.parameter in self.parameters:
                    outputs = range(self.parameters[rows.parameter].shape[rows.dim])
                    yield ChannelGroup(layer, tuple(outputs), (), why)
            return
        numbers = tuple(range(block.channels))
        pieces = tuple(
            Piece(
                rows.parameter,
                tuple(self.parameters[rows.parameter].shape),
                rows.dim,
                torch.tensor(places_of(rows, numbers)),
                torch.tensor(numbers).repeat_interleave(rows.width * len(rows.starts)),
            )
            for rows in block.rows
        )
        yield ChannelGroup(block.layer, numbers, pieces, None, block)

    def _barred_at(self, name: str) -> str | None:
        """Why a parameter of a block keeps all channels whole."""
        computed = None if name in self.parameters else f"'{name}' is computed, not a parameter"
        return computed or self._excluded(name)

    def _barred(self, layer: nn.Module) -> str | None:
        """Why a layer's own weight keeps its channels whole, whatever they are coupled with."""
        return self._excluded(self._parameter(layer, "weight"))

    def _excluded(self, name: str) -> str | None:
        pattern = matching(self.scope.exclude, [name])
        return f"'{name}' is excluded by '{pattern}'" if pattern else self.tied.get(name)

    def _kept_already(self, parts: list[_Part]) -> str | None:
        """A layer of theirs that an earlier group keeps whole: what is coupled is so only from one side."""
        outputs = [part for part in parts if part.to_output and isinstance(part.node.module, _ConvNd | nn.Linear)]
        met = (part.node.module for part in outputs if self._kept[part.node.module].intersection(part.places))
        return next((f"it is coupled with '{self.names[module]}', which stays whole" for module in met), None)

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
        layout = layout_of([part.node for part in parts])
        for part in parts:
            module = part.node.module
            if isinstance(module, _ITS_CHANNELS):
                yield from self._obstacles_at(module, part)
            elif isinstance(module, Entry):
                yield "it meets the model's input"
            elif isinstance(module, nn.Parameter):
                yield "it meets a parameter outside of any layer"
            elif module in self.names:
                yield f"'{self.names[module]}' ({type(module).__name__}) works across channels"
            elif why := obstacle(part.node, layout, max(part.places)):
                yield why
        if layout is None:
            yield "it is read along two dimensions"

    def _obstacles_at(self, module: nn.Module, part: _Part) -> Iterator[str]:
        name = self.names[module]
        if isinstance(module, _ConvNd) and module.groups > 1 and not _is_depthwise(module):
            yield f"'{name}' is a grouped convolution"
        for leaf, dim in _dims(module, part.to_output):
            parameter = self._parameter(module, leaf)
            if getattr(module, leaf) is not None and parameter not in self.parameters:
                yield f"'{parameter}' is computed, not a parameter"
            elif parameter in self.tied:
                yield self.tied[parameter]
            elif parameter in self.parameters:
                if pattern := matching(self.scope.exclude, [parameter]):
                    yield f"'{parameter}' is excluded by '{pattern}'"
                if max(part.places) >= self.parameters[parameter].shape[dim]:
                    yield f"'{name}' has fewer channels than what it meets"


def _tied(model: nn.Module) -> dict[str, str]:
    """For every parameter that has several names, by each of them, that it is tied to the first, or to the next."""
    names: defaultdict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    several = [found for found in names.values() if len(found) > 1]
    return {name: f"'{name}' is tied to '{found[name == found[0]]}'" for found in several for name in found}


def _part(item: Coupled, outputs: list[int]) -> _Part:
    number = {output: channel for channel, output in enumerate(outputs)}
    pairs = sorted((place, number[output]) for place, output in zip(item.places, item.outputs, strict=True))
    places, channels = [place for place, _ in pairs], [channel for _, channel in pairs]
    return _Part(item.edge.target, to_output(item.edge), places, channels)


def _split(group: ChannelGroup) -> Iterator[ChannelGroup]:
    """The channels that belong to the same layers, as a group each: what is added to two concatenated branches is two.

    So no branch loses all of its channels.
    """
    belongs = torch.zeros(group.channels, len(group.pieces), dtype=torch.bool)
    for i, piece in enumerate(group.pieces):
        belongs[piece.channels, i] = True
    distinct = cast(Tensor, belongs.unique(dim=0))
    for layers in distinct.unbind():
        chosen = (belongs == layers).all(1)
        outputs = tuple(group.outputs[i] for i in chosen.nonzero().flatten())
        pieces = tuple(group.pieces[i] for i in layers.nonzero().flatten())
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
