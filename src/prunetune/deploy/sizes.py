"""How big a model is: parameters, non-zeros and multiply-accumulates, layer by layer."""

import operator
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.rnn import RNNBase, RNNCellBase

from prunetune.deploy.bitmask import untied
from prunetune.sparsity.argument_checks import require_module, require_type
from prunetune.sparsity.forward_pass import ExampleInputs, arguments, evaluating
from prunetune.sparsity.torch_prune import effective_weights

_LEVEL = 9  # zlib's strongest


class FileSizes(NamedTuple):
    """Bytes of the safetensors file, `raw` and `compressed`."""

    raw: int
    compressed: int


def file_sizes(state: Mapping[str, Tensor]) -> FileSizes:
    """Bytes of `state` as a safetensors file, raw and compressed by zlib (DEFLATE, level 9). Writes nothing.

    DEFLATE is what .zip, .gz and HTTP use, so `compressed` is what a download takes. Zeros take as many bytes as any
    number in the raw file: pruning makes only the compressed one smaller. Both are the same whenever `state` and the
    zlib library are. Tied tensors are stored once, under the first name.
    """
    require_type("state", state, Mapping, "a state dict")
    tensors, _ = untied(state)
    content = save(tensors)
    return FileSizes(len(content), len(zlib.compress(content, _LEVEL)))


def compressed_size(path: Path) -> int:
    """Bytes of a file, compressed as by `file_sizes`."""
    return len(zlib.compress(path.read_bytes(), _LEVEL))


# The name of a weight within its module, and the MACs of one call of the module over the whole batch.
_Products = Callable[[Any, tuple[Any, ...], Any], Iterator[tuple[str, int]]]
_ATTENTION = "attention"  # stands for queries · keys and scores · values, which have no weight


@dataclass(frozen=True)
class LayerCount:
    """One weight: its parameter's full name, the class of the module that owns it, elements, and MACs per example.

    `effective_macs` is macs · nonzero / total: what is left if every product with a zero weight were skipped, which
    dense kernels do not do. A product of activations alone (attention) has no weight: total 0, all MACs effective.
    """

    name: str
    kind: str
    total: int
    nonzero: int
    macs: int
    effective_macs: int


@dataclass(frozen=True)
class Counts:
    """Elements of all parameters, those that are not zero, and the MACs of one example, which are those of `layers`.

    `layers` holds every weight of two or more dimensions in the model's order; 0 MACs stand where a weight is looked
    up (embeddings), not used, or used by a module that is not known here.
    """

    parameters: int
    nonzeros: int
    macs: int
    effective_macs: int
    layers: tuple[LayerCount, ...]


def count(model: nn.Module, example_inputs: ExampleInputs) -> Counts:
    """Count by one forward pass of `model`, in evaluation mode; nothing of the model is changed.

    MACs are those of convolutions, linear layers, recurrent layers and `nn.MultiheadAttention`, with the shapes that
    really pass through, divided by the batch (the first dimension of the first input). Biases, norms, activations and
    pooling do not count, as usual; neither does attention that a model computes by functions of its own. A tied weight
    counts once among the parameters and as often as it is used in the MACs. Weights in the form of
    `torch.nn.utils.prune` count as masked. ConfigError for inputs without a batch.
    """
    require_module(model)
    inputs = arguments(example_inputs, "example_inputs")
    uses: dict[str, _Use] = {}
    with evaluating(model), torch.no_grad(), _recorded(model, uses):
        inputs.given_to(model)
    weights = effective_weights(model)
    rows = {name: _Use.of(tensor) for name, tensor in weights.items() if tensor.dim() >= 2} | uses
    layers = tuple(_layer(model, name, use, len(inputs.first)) for name, use in rows.items())
    return Counts(
        parameters=sum(tensor.numel() for tensor in weights.values()),
        nonzeros=sum(int(tensor.count_nonzero()) for tensor in weights.values()),
        macs=sum(layer.macs for layer in layers),
        effective_macs=sum(layer.effective_macs for layer in layers),
        layers=layers,
    )


@dataclass(frozen=True)
class _Use:
    total: int
    nonzero: int
    macs: int = 0

    @classmethod
    def of(cls, weight: Tensor | None, macs: int = 0) -> "_Use":
        return cls(0, 0, macs) if weight is None else cls(weight.numel(), int(weight.count_nonzero()), macs)


def _layer(model: nn.Module, name: str, use: _Use, batch: int) -> LayerCount:
    kind = type(model.get_submodule(name.rpartition(".")[0])).__name__
    macs = round(use.macs / batch)
    effective = round(macs * use.nonzero / use.total) if use.total else macs
    return LayerCount(name, kind, use.total, use.nonzero, macs, effective)


@contextmanager
def _recorded(model: nn.Module, uses: dict[str, _Use]) -> Iterator[None]:
    hooks = [
        module.register_forward_hook(_recorder(uses, path, products), with_kwargs=True)
        for path, module in model.named_modules()
        for types, products in _PRODUCTS
        if isinstance(module, types)
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # of a transformer: it packs padded batches, and calls no module
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()


def _recorder(uses: dict[str, _Use], path: str, products: _Products) -> Callable[..., None]:
    """A forward hook that adds one call of a module to `uses`."""

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs = signature(module.forward).bind(*args, **kwargs).args
        for leaf, macs in products(module, inputs, output):
            name = f"{path}.{leaf}" if path else leaf
            weight = operator.attrgetter(leaf)(module) if leaf != _ATTENTION else None
            uses[name] = _Use.of(weight, macs + (uses[name].macs if name in uses else 0))

    return record


def _convolution(module: _ConvNd, inputs: tuple[Tensor, ...], output: Any) -> Iterator[tuple[str, int]]:
    """Every weight meets every position of the output once (of the input, if transposed), whatever the groups are."""
    transposed = isinstance(module, _ConvTransposeNd)
    made = output[0] if isinstance(output, tuple) else output  # a partial convolution returns its mask too
    positions = inputs[0].numel() // module.in_channels if transposed else made.numel() // module.out_channels
    yield "weight", module.weight.numel() * positions


def _linear(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> Iterator[tuple[str, int]]:
    yield "weight", inputs[0].numel() * module.out_features


def _recurrent(module: Any, inputs: tuple[Any, ...], output: Any) -> Iterator[tuple[str, int]]:
    steps = inputs[0].data.numel() // module.input_size  # of a packed sequence, `data` holds the steps that are real
    for name, parameter in module.named_parameters(recurse=False):
        if name.startswith("weight"):
            yield name, parameter.numel() * steps


def _attention(module: nn.MultiheadAttention, inputs: tuple[Any, ...], output: Any) -> Iterator[tuple[str, int]]:
    """Projections of queries (n) and of keys and values (m), over all examples; 2 · n · embedding per key of one."""
    query, key, value = inputs[:3]
    width = module.embed_dim
    n, m = query.numel() // width, key.numel() // key.shape[-1]
    if module.in_proj_weight is not None:
        yield "in_proj_weight", width * width * (n + 2 * m)
    else:
        yield "q_proj_weight", width * width * n
        yield "k_proj_weight", width * key.shape[-1] * m
        yield "v_proj_weight", width * value.shape[-1] * m
    yield _ATTENTION, 2 * n * width * key.shape[1 if module.batch_first and key.dim() == 3 else 0]
    yield "out_proj.weight", width * width * n


_PRODUCTS: tuple[tuple[tuple[type, ...], _Products], ...] = (
    ((_ConvNd,), _convolution),
    ((nn.Linear,), _linear),
    ((RNNBase, RNNCellBase), _recurrent),
    ((nn.MultiheadAttention,), _attention),
)
