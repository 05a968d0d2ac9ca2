"""A model's graph as a file: traced by torch.export with a free batch size, written, run again and compared."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from prunetune.deploy.graph_comparison import Batch, called, first_line, largest_error, outputs_of, takes
from prunetune.deploy.onnx_runtime import OnnxNetwork, onnx_libraries
from prunetune.errors import ConfigError, given
from prunetune.sparsity.forward_pass import ExampleInputs

_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
}
_LACKS = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
ONNX_LIMIT = 2**31  # bytes of one file: protobuf's own


def write_onnx(
    path: Path,
    model: nn.Module,
    pruned: Mapping[str, Tensor],
    inputs: ExampleInputs | None,
    tolerance: float,
    dim: int = 0,
) -> tuple[float, bool]:
    """Write an ONNX file and run it by onnxruntime: the largest error, and whether what is pruned is zero in it."""
    onnx, _ = onnx_libraries()
    _require_room(model)
    _require_no_projections(model)
    batch = Batch.of(inputs, dim)
    model, pruned = unwrapped(model, pruned)
    program = _traced(model, batch, _of_tensors)
    try:
        with _quiet():
            outputs = called(model, batch)
            names = _output_names(outputs, program)
            made = torch.onnx.export(
                program, dynamo=True, verbose=False, dynamic_shapes=_free(model, batch), output_names=names
            )
        graph = given(made, "the exporter has raised nothing")
        for node in graph.model.graph.all_nodes():
            node.metadata_props.clear()  # how the node came about: half of a small model's file
        graph.save(path)
        onnx.checker.check_model(path, full_check=True)
        network = OnnxNetwork(path, outputs)
    except OSError:
        raise
    except Exception as error:  # of three libraries, each with its own kinds
        raise ConfigError(f"model: cannot be written as ONNX: {_why_not_onnx(error)}") from error
    error = largest_error(model, lambda given: outputs_of(network, given), batch, tolerance)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return error, _zeros_are_in(stored, pruned)


def write_program(
    path: Path,
    model: nn.Module,
    pruned: Mapping[str, Tensor],
    inputs: ExampleInputs | None,
    tolerance: float,
    dim: int = 0,
) -> tuple[float, bool]:
    """Write a torch.export program, load it and run it: the largest error, and whether what is pruned is zero in it."""
    batch = Batch.of(inputs, dim)
    model, pruned = unwrapped(model, pruned)
    _require_dense(model)
    with path.open("wb") as file:
        torch.export.save(_traced(model, batch), file)
    with path.open("rb") as file:
        program = torch.export.load(file)
    run = program.module()
    error = largest_error(model, lambda given: outputs_of(run, given), batch, tolerance)
    return error, not any(program.state_dict[name][zeros].any() for name, zeros in pruned.items())


def _traced(model: nn.Module, batch: Batch, form: Callable[[Any], Any] | None = None) -> ExportedProgram:
    """The model's graph, what it gives changed by `form`, by default to plain containers."""
    try:
        (form or plain)(called(model, batch))
    except ConfigError:
        raise
    except Exception as error:  # the user's own code runs
        raise ConfigError(f"example_inputs: the model cannot take them: {first_line(error)}") from error
    wide = batch.resized(max(batch.size, 2))  # a dimension of 1 is taken for a constant
    try:
        return _program(model, wide, form or plain, 1 if takes(model, batch.resized(1)) else 2)
    except Exception as error:  # the user's own code runs on symbols
        if "Constraints violated (batch)" in str(error):
            raise ConfigError(
                "model: its code fixes the batch size (a list with an entry for each example does too), so that the "
                "file would take no other; let it read the size from its inputs, export the part that gives tensors, "
                f"or, where dimension {batch.dim} of its inputs is not the batch, say by batch_dim which is (1 for "
                "recurrent layers without batch_first)"
            ) from error
        if re.search(r"\w*Cache\b.*pytree|pytree.*\w*Cache\b", str(error), re.DOTALL) and hasattr(model, "config"):
            raise ConfigError(
                "model: its outputs hold a cache of keys and values, which is no tensor; "
                "set model.config.use_cache = False"
            ) from error
        raise ConfigError(f"model: torch.export finds no graph in it: {first_line(error)}") from error


def _program(model: nn.Module, wide: Batch, form: Callable[[Any], Any], least: int) -> ExportedProgram:
    """The graph for every batch size from `least` on."""
    hook = model.register_forward_hook(lambda module, args, output: form(output))
    try:
        with _quiet(), torch.no_grad():
            shapes = _free(model, wide, least)
            return _stripped(torch.export.export(model, wide.args, wide.kwargs, dynamic_shapes=shapes))
    finally:
        hook.remove()


def plain(output: Any) -> Any:
    """An output with its named tuples, of `collections` and of torch's own, as tuples.

    A program that had them could be saved, or loaded, only where their classes are registered.
    """
    if isinstance(output, tuple):
        parts = [plain(part) for part in output]
        return tuple(parts)
    if type(output) in (list, dict):
        return [plain(part) for part in output] if type(output) is list else {k: plain(v) for k, v in output.items()}
    return output


def _of_tensors(output: Any) -> Any:
    """An output for ONNX: without numbers and texts, which it does not have; ConfigError for complex tensors."""
    leaves = pytree.tree_leaves(output)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if any(tensor.is_complex() for tensor in tensors):
        raise ConfigError("model: gives complex numbers, which ONNX has not; give torch.view_as_real of them")
    return plain(output) if all(leaf is None or isinstance(leaf, Tensor) for leaf in leaves) else tuple(tensors)


def _output_names(output: Any, program: ExportedProgram) -> list[str] | None:
    """The keys of a mapping of tensors; None, for the exporter's own names, where one is an input's or weight's too."""
    if not isinstance(output, Mapping) or not all(isinstance(tensor, Tensor) for tensor in output.values()):
        return None
    taken = {*program.graph_signature.user_inputs, *program.state_dict, *program.constants}
    return list(output) if all(isinstance(name, str) and name not in taken for name in output) else None


def unwrapped(model: nn.Module, pruned: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """The network within DataParallel, an average or torch.compile, and what is pruned under its names there."""
    while (name := _WRAPPERS.get(type(model).__name__)) and isinstance(getattr(model, name, None), nn.Module):
        model = getattr(model, name)
        pruned = {weight.removeprefix(f"{name}."): zeros for weight, zeros in pruned.items()}
    return model, pruned


def _stripped(program: ExportedProgram) -> ExportedProgram:
    """Without the example, which may be nobody else's business, and the paths and source lines of this machine."""
    program.example_inputs = None
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def _free(model: nn.Module, batch: Batch, least: int = 1) -> Any:
    """The batch dimension of every input, free and the same in all, in the form that torch.export asks for.

    Where `forward` takes *args or **kwargs, its inputs are a tuple or a dict within that parameter.
    """
    size = Dim("batch", min=least)
    args, kwargs, _ = batch.map(lambda tensor: {batch.dim: size})
    named = signature(model.forward)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in named.parameters.values()):
        return dict(named.bind(*args, **kwargs).arguments)
    return kwargs or args


def _zeros_are_in(stored: Mapping[str, Any], pruned: Mapping[str, Tensor]) -> bool:
    """Whether each pruned weight has its zeros in an array of its own.

    Exporters fold batch norm into a convolution, which keeps its name, and transpose the weights of linear layers,
    which then have another.
    """
    left = dict(stored)
    for name, tensor in pruned.items():
        zeros = tensor.numpy()
        places = [name] if name in left else [other for other in left if other not in pruned]
        found = next((place for place in places if _has_zeros(left[place], zeros)), None)
        if found is None:
            return False
        del left[found]
    return True


def _has_zeros(array: Any, zeros: Any) -> bool:
    return any(array.shape == form.shape and not array[form].any() for form in (zeros, zeros.T))


def _require_room(model: nn.Module) -> None:
    size = sum(
        tensor.numel() * tensor.element_size() for tensor in model.state_dict().values() if isinstance(tensor, Tensor)
    )
    if size >= ONNX_LIMIT:
        raise ConfigError(
            f"path: an ONNX file ends at 2 GB, the model has {size / 1e9:.1f} GB; use .pt2 or .safetensors"
        )


def _require_dense(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.layout is not torch.strided:
            kind = str(value.layout).removeprefix("torch.")
            raise ConfigError(f"model: '{name}' of its state is {kind}; a program holds dense tensors only")


def _require_no_projections(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.LSTM) and module.proj_size:
            raise ConfigError(
                f"model: ONNX has no LSTM with projections (proj_size of '{name or type(module).__name__}'); use .pt2"
            )


_WARNINGS = (  # as they begin: regular expressions
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # torch's exporter copies its own object
    "# The axis name: batch will not be used",  # said for each input that shares the batch with the first, as is meant
    # Of torch's recurrent layers alone, which keep their weights in a list too.
    r"The tensor attributes? (self\.([\w.]+\.)?_flat_weights\[\d+\](, )?)+ (was|were) assigned during export",
)
_CHATTER = "torch.onnx._internal.exporter._registration"  # that torchvision is missing, which no model here needs


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say on the way, which is no news for whoever exports a model."""
    logger = logging.getLogger(_CHATTER)
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            for message in _WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)


def _why_not_onnx(error: BaseException) -> str:
    """The operator that ONNX lacks, where that is the reason, or else what the error says, or its last cause."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    for cause in causes:
        if found := _LACKS.search(str(cause)):
            return f"it has no operator for {found[1]}"
    if "Next steps:" not in str(error):  # what torch's exporter says of any failure
        return first_line(error)
    return f"{type(causes[-1]).__name__}: {first_line(causes[-1])}"
