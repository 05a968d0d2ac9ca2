"""Which channels of which layers belong to some outputs of a layer: a walk through Torch-Pruning's graph that ends.

Torch-Pruning's own walk follows lists of indices until none is new; where a concatenation runs along another dimension
than it supposes, these grow without end. Here every node takes an index once, and none beyond its width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prunetune.errors import ConfigError

LIMIT = 2_000_000  # indices of one walk: seconds


class Coupled(NamedTuple):
    """What a layer or operation has of the walk's outputs: its index `places[i]` belongs to output `outputs[i]`."""

    edge: Any  # Torch-Pruning's Dependency: `edge.target` is the node, `edge.handler` how it is pruned
    places: list[int]
    outputs: list[int]


class Walk(NamedTuple):
    """All that is coupled with some outputs, in the order in which it is met, the layer's own first."""

    met: list[Coupled]
    unclear: str | None  # why it is not known which channels go together, if it is not


def torch_pruning() -> Any:
    """The library; ConfigError where it is not installed."""
    try:
        import torch_pruning as library
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
        width, fresh = self._width(edge), []
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
