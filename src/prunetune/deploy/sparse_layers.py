"""A network whose layers run sparse where that was measured to be faster, and dense everywhere else."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prunetune.deploy.bitmask import read_bitmask
from prunetune.deploy.export import settled
from prunetune.deploy.latency import Speedup, latencies, require_rounds, speedup
from prunetune.deploy.sparse_kernels import require_kernels, sparse_layer, sparse_names, survey_sparse
from prunetune.errors import ConfigError, one_line, unknown
from prunetune.sparsity.argument_checks import as_names, as_path, require_module
from prunetune.sparsity.forward_pass import Arguments, ExampleInputs, arguments, equal_draws, tensors_in
from prunetune.sparsity.model_files import load_weights
from prunetune.sparsity.model_state import copied
from prunetune.sparsity.torch_prune import masks_in

_Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SparseLayers:
    """A model for use on the CPU and not for training; `left`: name of a layer -> why it is dense.

    `measured` has every layer that was timed, alone and with its own inputs; `whole` compares the network with its
    dense form, where any layer was faster; `max_error` is the largest difference of their outputs.
    """

    model: nn.Module
    converted: tuple[str, ...]
    left: Mapping[str, str]
    measured: Mapping[str, Speedup]
    whole: Speedup | None
    max_error: float


def to_sparse_layers(
    model: nn.Module, mask: Mapping[str, Tensor] | None, example_inputs: ExampleInputs, *, rounds: int = 30
) -> SparseLayers:
    """A copy of `model`, pruned by `mask` (None: as it is held, or as it is), that is sparse where it is faster so.

    Every layer that has a sparse form (`survey_sparse`) is timed in both, with its own weights and the inputs it gets
    from `example_inputs`, on one thread of this machine. It becomes sparse where the lower bound of its speed-up
    (95 %) is above 1. Then the network is timed in the same way, and is returned dense if it is not surely faster. The
    copy is on the CPU, in eval mode and frozen; `model` is not changed.

    Its state dict is that of the dense model, so it is saved and loaded as any. A `.bitmask.safetensors` file names the
    sparse layers too, and `load_sparse` reads it without measuring. ConfigError where torch has no MKL, for inputs that
    are not on the CPU, and for a model that is sparse already or in the form of `torch.nn.utils.prune`.
    """
    require_rounds(rounds)
    inputs = arguments(example_inputs, "example_inputs")
    if inputs.first.device.type != "cpu":
        raise ConfigError(
            f"example_inputs: on {inputs.first.device}; sparse layers run on the CPU: call .cpu() on them"
        )
    dense = _dense(model, mask)
    calls, reasons = _calls_of_layers(dense, inputs)
    measured = {
        name: _compared(_Replay(dense.get_submodule(name), seen), _sparse_replay(dense, name, seen), inputs, rounds)
        for name, seen in calls.items()
    }
    chosen = tuple(name for name, found in measured.items() if found.low > 1)
    left = reasons | {name: f"not faster: {_shown(found)}" for name, found in measured.items() if name not in chosen}
    if not chosen:
        return SparseLayers(dense, (), left, measured, None, 0.0)
    sparse = with_sparse_layers(dense, chosen)
    try:
        error = _difference(dense, sparse, inputs)
    except Exception as failed:  # whatever a forward does with its layers: autocast to bfloat16, a look at their class
        why = f"faster alone; the network fails with it: {one_line(f'{type(failed).__name__}: {failed}')}"
        return SparseLayers(dense, (), left | dict.fromkeys(chosen, why), measured, None, 0.0)
    whole = _compared(dense, sparse, inputs, rounds)
    if whole.low > 1:
        return SparseLayers(sparse, chosen, left, measured, whole, error)
    alone = {name: f"faster alone, {_shown(measured[name])}; the network is not: {_shown(whole)}" for name in chosen}
    return SparseLayers(dense, (), left | alone, measured, whole, 0.0)


def with_sparse_layers(model: nn.Module, names: Iterable[str], mask: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy of `model`, pruned by `mask`, whose layers of these names run sparse; measures nothing.

    For a model that is loaded where `to_sparse_layers` has been measured before: `names` are its `converted`. On
    another processor others may be faster. ConfigError for a name of no layer, or of one that has no sparse form.
    """
    return _made_sparse(_dense(model, mask), as_names("names", names, "fc1"), "names")


def _made_sparse(copy: nn.Module, names: Iterable[str], source: str) -> nn.Module:
    """The model with these layers sparse, in place; `source` is where an error says that the names come from."""
    reasons = survey_sparse(copy)
    for name in names:
        if name not in reasons:
            raise unknown(source, name, reasons)
        if reasons[name] is not None:
            raise ConfigError(f"{source}: '{name}' has no sparse form: {reasons[name]}")
        made = sparse_layer(copy.get_submodule(name)).eval()
        if not name:  # the model is the layer
            return made
        copy.set_submodule(name, made)
    return copy


def load_sparse(model: nn.Module, path: str | Path) -> nn.Module:
    """A copy of `model` with the weights of a `.bitmask.safetensors` file, sparse in the layers that the file names.

    Nothing is measured: on another processor other layers may be faster (`to_sparse_layers` on what is loaded).
    ConfigError for a file that is missing or damaged, or does not fit the model.
    """
    require_module(model)
    path = as_path("path", path, example="model.bitmask.safetensors")
    state, names = read_bitmask(path)
    loaded = copied(model)
    load_weights(loaded, state, path, "path")
    return _made_sparse(_dense(loaded, None), dict.fromkeys(names), "path: sparse_layers of the file")


def _dense(model: nn.Module, mask: Mapping[str, Tensor] | None) -> nn.Module:
    require_kernels()
    require_module(model)
    if masks_in(model):
        raise ConfigError("model: masked by torch.nn.utils.prune in every call; prune.remove first")
    if sparse := sparse_names(model):
        raise ConfigError(f"model: '{sparse[0]}' is sparse already; give the dense model, with the weights of this one")
    return settled(model, mask).requires_grad_(False)


class _Replay(nn.Module):
    """A layer that is called with what it was given in a forward pass of its network, whatever the inputs are."""

    def __init__(self, layer: nn.Module, seen: Sequence[Tensor]) -> None:
        super().__init__()
        self.layer, self.seen = layer, seen

    def forward(self, *_: object, **__: object) -> None:
        for inputs in self.seen:
            self.layer(inputs)


def _sparse_replay(model: nn.Module, name: str, seen: Sequence[Tensor]) -> nn.Module:
    return _Replay(sparse_layer(model.get_submodule(name)), seen)


def _compared(dense: nn.Module, sparse: nn.Module, inputs: Arguments, rounds: int) -> Speedup:
    given = dict(inputs.named) if inputs.named else inputs.args
    found = latencies({"dense": dense, "sparse": sparse}, given, rounds=rounds)
    return speedup(found["dense"], found["sparse"])


def _calls_of_layers(model: nn.Module, inputs: Arguments) -> tuple[dict[str, list[Tensor]], dict[str, str]]:
    """Copies of the inputs of every call of a layer that has a sparse form, and why the others are left."""
    reasons = survey_sparse(model)
    calls: dict[str, list[Tensor]] = {name: [] for name, reason in reasons.items() if reason is None}
    with torch.inference_mode(), equal_draws(), _recorded(model, calls):
        inputs.given_to(model)
    left = {name: reason for name, reason in reasons.items() if reason is not None}
    left |= {name: "never called by itself: what it is a part of reads its weight" for name in calls if not calls[name]}
    return {name: seen for name, seen in calls.items() if seen}, left


@contextmanager
def _recorded(model: nn.Module, calls: Mapping[str, list[Tensor]]) -> Iterator[None]:
    """Layers keep copies of what they are called with.

    By their `forward` and not by hooks: a transformer's layer that finds hooks leaves its fused form, which calls no
    layer, and would be judged by what it does not do in use.
    """
    for name, seen in calls.items():
        layer = model.get_submodule(name)
        layer.forward = _keeping(layer.forward, seen)
    try:
        yield
    finally:
        for name in calls:
            del model.get_submodule(name).forward


def _keeping(forward: _Forward, seen: list[Tensor]) -> _Forward:
    def keep(input: Tensor) -> Tensor:  # noqa: A002 - the name by which torch's layers take it
        seen.append(input.clone())
        return forward(input)

    return keep


def _difference(dense: nn.Module, sparse: nn.Module, inputs: Arguments) -> float:
    found: list[list[Tensor]] = []
    for model in (dense, sparse):
        with torch.inference_mode(), equal_draws():
            found.append(tensors_in(inputs.given_to(model)))
    return max((float((a - b).abs().max()) for a, b in zip(*found, strict=True) if a.numel()), default=0.0)


def _shown(found: Speedup) -> str:
    return f"{found.ratio:.2f}x [{found.low:.2f}, {found.high:.2f}]"
