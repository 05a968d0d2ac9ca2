"""A model's graph as a file: traced by torch.export with a free batch size, written, run again and compared."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from prunetune.errors import ConfigError, given
from prunetune.sparsity.argument_checks import require_type
from prunetune.sparsity.forward_pass import ExampleInputs

Run = Callable[["Batch"], list[Tensor]]

_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
}
_LACKS = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
ONNX_LIMIT = 2**31  # bytes of one file: protobuf's own


class Batch(NamedTuple):
    """What a model is called with: tensors on the CPU whose dimension `dim`, equal in all, is the batch."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    dim: int = 0

    @classmethod
    def of(cls, inputs: ExampleInputs | None, dim: int = 0) -> "Batch":
        """ConfigError for anything but a tensor, a tuple or a dict of tensors of one batch size."""
        if inputs is None:
            raise ConfigError("example_inputs: a graph needs a batch of them: a tensor, a tuple or a dict of tensors")
        require_type("example_inputs", inputs, (Tensor, Sequence, Mapping), "a tensor, a tuple or a dict of tensors")
        args = (inputs,) if isinstance(inputs, Tensor) else () if isinstance(inputs, Mapping) else tuple(inputs)
        batch = cls(args, dict(inputs) if isinstance(inputs, Mapping) else {}, dim)
        sizes = {t.shape[dim] if isinstance(t, Tensor) and t.ndim > dim >= 0 else 0 for t in batch.tensors}
        if len(sizes) != 1 or 0 in sizes:
            shape = "(batch, ...)" if dim == 0 else f"whose dimension {dim} is the batch"
            raise ConfigError(f"example_inputs: every one must be a tensor of shape {shape}, of one batch size")
        return batch.map(lambda tensor: tensor.detach().cpu())

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, those given by name after the others."""
        return *self.args, *self.kwargs.values()

    @property
    def size(self) -> int:
        """The number of examples."""
        return self.tensors[0].shape[self.dim]

    def map(self, change: Callable[[Tensor], Any]) -> Any:
        """The same structure of changed tensors."""
        kwargs = {name: change(tensor) for name, tensor in self.kwargs.items()}
        return Batch(tuple(map(change, self.args)), kwargs, self.dim)

    def resized(self, size: int) -> "Batch":
        """`size` examples: these in their order, and from the first on again."""
        return self.map(lambda tensor: tensor.index_select(self.dim, torch.arange(size) % self.size))


def write_onnx(
    path: Path,
    model: nn.Module,
    pruned: Mapping[str, Tensor],
    inputs: ExampleInputs | None,
    tolerance: float,
    dim: int = 0,
) -> tuple[float, bool]:
    """Write an ONNX file and run it by onnxruntime: the largest error, and whether what is pruned is zero in it."""
    onnx, onnxruntime = _onnx_libraries()
    _require_room(model)
    _require_no_projections(model)
    batch = Batch.of(inputs, dim)
    model, pruned = unwrapped(model, pruned)
    program = _traced(model, batch, _of_tensors)
    try:
        with _quiet():
            names = _output_names(_called(model, batch), program)
            made = torch.onnx.export(
                program, dynamo=True, verbose=False, dynamic_shapes=_free(model, batch), output_names=names
            )
        graph = given(made, "the exporter has raised nothing")
        for node in graph.model.graph.all_nodes():
            node.metadata_props.clear()  # how the node came about: half of a small model's file
        graph.save(path)
        onnx.checker.check_model(path, full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # of three libraries, each with its own kinds
        raise ConfigError(f"model: cannot be written as ONNX: {_why_not_onnx(error)}") from error
    max_error = _max_error(model, lambda given: _run_onnx(session, given), batch, tolerance)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return max_error, _zeros_are_in(stored, pruned)


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
    max_error = _max_error(model, lambda given: _outputs(run, given), batch, tolerance)
    return max_error, not any(program.state_dict[name][zeros].any() for name, zeros in pruned.items())


def _traced(model: nn.Module, batch: Batch, form: Callable[[Any], Any] | None = None) -> ExportedProgram:
    """The model's graph, what it gives changed by `form`, by default to plain containers."""
    try:
        (form or plain)(_called(model, batch))
    except ConfigError:
        raise
    except Exception as error:  # the user's own code runs
        raise ConfigError(f"example_inputs: the model cannot take them: {_line(error)}") from error
    wide = batch.resized(max(batch.size, 2))  # a dimension of 1 is taken for a constant
    try:
        return _program(model, wide, form or plain, 1 if _takes(model, batch.resized(1)) else 2)
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
        raise ConfigError(f"model: torch.export finds no graph in it: {_line(error)}") from error


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


def _takes(model: nn.Module, batch: Batch) -> bool:
    """Whether the model runs on that many examples: batch norm without running statistics needs two."""
    try:
        _outputs(model, batch)
    except Exception:
        return False
    return True


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


def _max_error(model: nn.Module, run: Run, batch: Batch, tolerance: float) -> float:
    """The largest absolute difference of an output, at the example's batch size and another one."""
    worst = 0.0
    other = 2 if batch.size == 1 else 1 if _takes(model, batch.resized(1)) else batch.size + 1
    for size in (batch.size, other):
        given = batch.resized(size)
        expected, found = _outputs(model, given), _ran(run, given)
        error = max((_difference(*pair) for pair in zip(expected, found, strict=True)), default=0.0)
        allowed = tolerance * max(1.0, *(_largest(output[output.isfinite()]) for output in expected))
        if not error <= allowed:
            _require_repeatable(model, given, expected)
            raise ConfigError(
                f"tolerance: the file's outputs differ from the model's by {error:.2g} at batch size {size}; "
                f"{allowed:.2g} is allowed"
            )
        worst = max(worst, error)
    return worst


def _require_repeatable(model: nn.Module, batch: Batch, outputs: Sequence[Tensor]) -> None:
    """ConfigError where the model itself gives something else than it did before."""
    again = _outputs(model, batch)
    if any(_difference(*pair) for pair in zip(outputs, again, strict=True)):
        raise ConfigError(
            "model: it gives other outputs every time, in evaluation mode too, so that no file can be compared with "
            "it; take out what is random"
        )


def _ran(run: Run, batch: Batch) -> list[Tensor]:
    try:
        return run(batch)
    except Exception as error:  # of a runtime, each with its own kinds
        raise ConfigError(
            f"model: its file was written and does not run at batch size {batch.size}: {_line(error)}"
        ) from error


@torch.no_grad()
def _called(model: nn.Module, batch: Batch) -> Any:
    return model(*batch.args, **batch.kwargs)


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    leaves = pytree.tree_leaves(_called(model, batch))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _run_onnx(session: Any, batch: Batch) -> list[Tensor]:
    names = [given.name for given in session.get_inputs()]
    by_name = batch.kwargs or dict(zip(names, batch.args, strict=True))
    return [torch.from_numpy(output) for output in session.run(None, {name: by_name[name].numpy() for name in names})]


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return torch.inf
    same = (expected == found) | (expected.isnan() & found.isnan())  # equal infinities have no difference either
    return _largest((expected.double() - found.double()).masked_fill(same, 0).nan_to_num(nan=torch.inf))


def _largest(tensor: Tensor) -> float:
    """The largest magnitude; 0 in an empty tensor."""
    return tensor.double().abs().max().item() if tensor.numel() else 0.0


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


def _onnx_libraries() -> tuple[Any, Any]:
    try:
        import_module("onnxscript")  # torch's exporter needs it
        return import_module("onnx"), import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError("path: .onnx needs the extra prunetune[onnx]: pip install 'prunetune[onnx]'") from error


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
        return _line(error)
    return f"{type(causes[-1]).__name__}: {_line(causes[-1])}"


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
