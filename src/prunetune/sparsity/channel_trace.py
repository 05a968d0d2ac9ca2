"""Torch-Pruning's graph of a network: its layers and operations, and how the channels of one are those of another."""

import traceback
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.errors import ConfigError
from prunetune.sparsity.channel_operations import ChannelPad, number_each, number_flattened, torch_pruning
from prunetune.sparsity.enforce import remove_mask
from prunetune.sparsity.forward_pass import ExampleInputs, called_with, equal_draws, tensors_in


def trace(model: nn.Module, example_inputs: ExampleInputs) -> Any:
    """Torch-Pruning's DependencyGraph of `model`.

    It is a copy's to be traced: weights that are held are released, all require gradients, and it is left in
    evaluation mode.
    """
    remove_mask(model)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    args, named = called_with(example_inputs)
    scene = _Scene(model, tuple(named))
    inputs = (*args, *named.values())
    scene.entries.extend(Entry() for _ in inputs)
    graph = torch_pruning().DependencyGraph()
    with torch.enable_grad(), equal_draws(), warnings.catch_warnings():
        _require_forward(scene, inputs)
        warnings.filterwarnings("ignore", module=r"torch_pruning\.")  # what it gives up at stays whole
        _build(graph, scene, inputs)
        number_flattened(graph)
    for node in graph.module2node.values():
        if isinstance(node.module, ChannelPad):
            _number(node)
    return graph


def _build(graph: Any, scene: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Trace the scene. Where the library fails at its last step, to number the channels of operations, go on alone."""

    def forward(network: nn.Module, inputs: tuple[Any, ...]) -> Any:
        return network(*inputs)

    try:
        graph.build_dependency(
            scene,
            inputs,
            forward_fn=forward,
            output_transform=_marked,
            customized_pruners={ChannelPad: _PadPruner(), Entry: _EntryPruner()},
            verbose=False,
        )
    except Exception as error:  # of networks that it does not foresee
        if "update_index_mapping" in {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}:
            number_each(graph)
            return
        what = f"Torch-Pruning cannot follow its channels: {type(error).__name__}: {_line(error)}"
        raise ConfigError(f"model: {what}; use another pattern") from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reads_sequences(model: nn.Module, example_inputs: ExampleInputs) -> bool:
    """Whether a linear layer reads (N, L, C), or more dimensions. The model is left in evaluation mode."""
    found: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda layer, args: found.append(args[0].dim()) if args else None)
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    args, named = called_with(example_inputs)
    try:
        with torch.no_grad(), equal_draws():
            _run(model, args, named)
    finally:
        for hook in hooks:
            hook.remove()
    return max(found, default=0) > 2


def _require_forward(scene: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    outputs = tensors_in(_run(scene, inputs, {}))
    if not any(output.requires_grad for output in outputs):
        raise ConfigError("model: none of its outputs depends on its parameters by operations that autograd records")


def _run(model: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    model.eval()
    try:
        return model(*args, **named)
    except Exception as error:
        raise ConfigError(f"example_inputs: the model does not take them: {_line(error)}") from error


def _marked(outputs: Any) -> list[Tensor]:
    """Each output behind one more operation, at which Torch-Pruning then sees that it is an output."""
    return [tensor * 1 for tensor in tensors_in(outputs) if tensor.requires_grad]


class Entry(nn.Module):
    """Where an input comes in: its channels are known, and stay."""

    channels: int | None = None

    def forward(self, x: Any) -> Any:
        """The input, floating-point tensors of them as the result of an operation."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        self.channels = x.shape[1] if x.dim() > 1 else None
        return x.detach().requires_grad_() * 1


class _Scene(nn.Module):
    """A model with its inputs marked, the last of which are given by name."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.entries = nn.ModuleList()

    def forward(self, *inputs: Any) -> Any:
        marked = [entry(x) for entry, x in zip(self.entries, inputs, strict=True)]
        first = len(marked) - len(self.names)
        return self.model(*marked[:first], **dict(zip(self.names, marked[first:], strict=True)))


class _EntryPruner:
    """What Torch-Pruning asks about an Entry. The group that holds one is kept whole."""

    pruning_dim = 1

    def prune_out_channels(self, layer: Entry, idxs: list[int]) -> Entry:
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Entry) -> int | None:
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
