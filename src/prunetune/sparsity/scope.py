"""What of a model is prunable, and why: the default scope, the user's name patterns, and the layer table."""

# torch has no public names for the bases of its layers, and leaves some methods without types.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from typing import cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from prunetune.errors import ConfigError, shown
from prunetune.sparsity.argument_checks import require_module, require_type

_NEVER: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm), "normalisation"),
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    ((ParametrizationList,), "under a parametrization"),
)
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_PROJECTION, INPUTS_FIRST = "attention projection", "linear weight, inputs first"


@dataclass(frozen=True)
class Scope:
    """Name patterns (`fnmatch`: `*`, `?`, `[...]`) over the full parameter names, on top of the default scope.

    A tied weight matches under any of its names. A pattern that matches no parameter of a model is an error when the
    scope is applied.

    Args:
        include: Patterns of parameters that are prunable beside the default ones, such as `*.weight_ih_l0`; a text
            alone is one pattern.
        exclude: Patterns of parameters that are not prunable, whatever else says so.

    Raises:
        ConfigError: For patterns that are no texts.

    >>> Scope(exclude="head.*")
    Scope(include=(), exclude=('head.*',))
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("include", "exclude"):
            value: object = getattr(self, field)
            require_type(f"scope.{field}", value, Iterable, "patterns of names, such as 'head.*'")
            patterns = (value,) if isinstance(value, str) else tuple(cast(Iterable[object], value))
            if odd := [pattern for pattern in patterns if not isinstance(pattern, str)]:
                raise ConfigError(
                    f"scope.{field}: {shown(odd[0])} is no text; give patterns of names, such as 'head.*'"
                )
            object.__setattr__(self, field, patterns)


@dataclass(frozen=True)
class ScopeRow:
    """One line of the layer table: a parameter, whether it is prunable, and why (`linear weight`, `bias`, ...)."""

    name: str
    shape: tuple[int, ...]
    prunable: bool
    reason: str


@dataclass(frozen=True)
class _Weight:
    """A parameter with every (module, leaf name) that owns it: more than one when it is tied."""

    parameter: nn.Parameter
    names: tuple[str, ...]
    owners: tuple[tuple[nn.Module, str], ...]


def list_parameters(model: nn.Module, scope: Scope = Scope()) -> tuple[ScopeRow, ...]:
    """Every parameter of `model` in its own order, with the reason why it is prunable or not. Changes nothing.

    By default the weights of convolutions and linear layers are prunable, the projections of `MultiheadAttention` and
    the `Conv1D` of transformers among them, except the first convolution in the order of registration (Liu et al.
    2021); biases, normalisation and embeddings are not. A vision transformer's patch embedding is such a first
    convolution; of a stem of several parallel convolutions only the first is. Recurrent weights, tensors of three
    dimensions that hold the weights of several experts, and the directions of weight norm are prunable where a pattern
    includes them, which their reason names. A tied weight counts once, under its first name; its other names are
    listed as tied.

    Args:
        model: Any module that has its shapes.
        scope: Name patterns on top of that default.

    Returns:
        A row with name, shape, `prunable` and reason for every name of every parameter.

    Raises:
        ConfigError: For a pattern that matches no parameter, a lazy module that has no shapes yet, and a TorchScript
            program.

    >>> [(row.name, row.prunable, row.reason) for row in list_parameters(nn.Linear(2, 3))]
    [('weight', True, 'linear weight'), ('bias', False, 'bias')]
    """
    require_module(model)
    require_type("scope", scope, Scope, "a Scope, such as Scope(include='head.*')")
    _refuse_programs(model)
    weights = _weights(model)
    _refuse_idle_patterns(scope, [name for weight in weights for name in weight.names])
    first = next((module for module in model.modules() if isinstance(module, _ConvNd)), None)
    rows = {row.name: row for weight in weights for row in _rows(weight, first, scope)}
    return tuple(rows[name] for name, _ in model.named_parameters(remove_duplicate=False))


def prunable(model: nn.Module, scope: Scope = Scope()) -> tuple[str, ...]:
    """Names of the prunable parameters of `model`, in the model's order; see `list_parameters`."""
    return tuple(row.name for row in list_parameters(model, scope) if row.prunable)


def written_out(model: nn.Module, scope: Scope) -> Scope:
    """`scope` with the names in `include` of what of `model` the default scope gained after stores held masks.

    These are attention's packed projections and transformers' `Conv1D`. A step whose scope is written out has another
    key than one that pruned the same model without them; of all other models the scope, and the key, are as they were.
    """
    gained = (
        row.name for row in list_parameters(model, scope) if row.prunable and row.reason in (_PROJECTION, INPUTS_FIRST)
    )
    names = tuple(escape(name) for name in gained if not matching(scope.include, [name]))
    return Scope((*scope.include, *names), scope.exclude)


def _refuse_programs(model: nn.Module) -> None:
    modules = cast(Iterable[tuple[str, nn.Module]], model.named_modules())
    for name, module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            what = f"'{name}'" if name else "it"
            raise ConfigError(
                f"model: {what} is a TorchScript program, whose layers are not to be told; give the module that it was "
                "made from, and script that afterwards"
            )


def _weights(model: nn.Module) -> list[_Weight]:
    found: dict[int, _Weight] = {}
    modules = cast(Iterable[tuple[str, nn.Module]], model.named_modules(remove_duplicate=False))
    for prefix, module in modules:
        own = cast(Iterable[tuple[str, nn.Parameter]], module.named_parameters(recurse=False, remove_duplicate=False))
        for leaf, parameter in own:
            name = f"{prefix}.{leaf}" if prefix else leaf
            if is_lazy(parameter):
                raise ConfigError(f"model: '{name}' has no shape yet; run one batch through the model first")
            known = found.get(id(parameter), _Weight(parameter, (), ()))
            found[id(parameter)] = _Weight(parameter, (*known.names, name), (*known.owners, (module, leaf)))
    return list(found.values())


def _refuse_idle_patterns(scope: Scope, names: list[str]) -> None:
    for field in ("include", "exclude"):
        for pattern in getattr(scope, field):
            if not matching([pattern], names):
                raise ConfigError(
                    f"scope.{field}: pattern '{pattern}' matches no parameter; names look like '{names[0]}'"
                    if names
                    else f"scope.{field}: pattern '{pattern}' matches nothing, the model has no parameters"
                )


def _rows(weight: _Weight, first: nn.Module | None, scope: Scope) -> Iterator[ScopeRow]:
    shape = tuple(weight.parameter.shape)
    yield ScopeRow(weight.names[0], shape, *_judge(weight, first, scope))
    for name in weight.names[1:]:
        yield ScopeRow(name, shape, False, f"tied to '{weight.names[0]}'")


def _judge(weight: _Weight, first: nn.Module | None, scope: Scope) -> tuple[bool, str]:
    if not weight.parameter.is_floating_point():
        return False, "not a floating-point tensor"
    if pattern := matching(scope.exclude, weight.names):
        return False, f"excluded by '{pattern}'"
    # One owner that must not be pruned is enough: an embedding tied to a linear layer stays whole.
    verdicts = [_default(module, leaf, first) for module, leaf in weight.owners]
    allowed, reason = min(verdicts, key=lambda verdict: verdict[0])
    if not allowed and (pattern := matching(scope.include, weight.names)):
        return True, f"included by '{pattern}'"
    return allowed, reason


def _default(module: nn.Module, leaf: str, first: nn.Module | None) -> tuple[bool, str]:
    if why := _unprunable(module, leaf):
        return False, why
    if leaf == "weight" and isinstance(module, _ConvNd):
        return module is not first, "first convolution" if module is first else "convolution weight"
    if what := _linear(module, leaf):
        return True, what
    if isinstance(module, (_ConvNd, nn.Linear)):
        return False, f"a part of which {type(module).__name__} computes its weight"
    return False, f"parameter of {type(module).__name__}, neither convolution nor linear layer"


def _unprunable(module: nn.Module, leaf: str) -> str | None:
    """Why a parameter of any module is not pruned by default, if it is not."""
    if what := _on_request(module, leaf):
        return f"{what}; scope.include '*{leaf}' prunes it"
    for kinds, reason in _NEVER:
        if isinstance(module, kinds):
            return reason
    if leaf.endswith("_orig") and hasattr(module, leaf.removesuffix("_orig") + "_mask"):
        return "in the form of torch.nn.utils.prune"
    return "bias" if "bias" in leaf else None


def _linear(module: nn.Module, leaf: str) -> str | None:
    """What kind of linear layer's weight it is, if it is one."""
    if leaf == "weight" and isinstance(module, nn.Linear):
        return "linear weight"
    if leaf in _PROJECTIONS and isinstance(module, nn.MultiheadAttention):
        return _PROJECTION
    return INPUTS_FIRST if leaf == "weight" and is_conv1d(module) else None


def _on_request(module: nn.Module, leaf: str) -> str | None:
    """What a parameter is that is pruned where a pattern includes it, if it is that."""
    if leaf.startswith("weight_") and isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "recurrent weight"
    normed = isinstance(module, ParametrizationList) and type(module[0]).__name__ == "_WeightNorm"
    if (normed and leaf == "original1") or (leaf == "weight_v" and hasattr(module, "weight_g")):
        return "direction of a weight norm"
    tensor = getattr(module, leaf, None)
    known = isinstance(module, (_ConvNd, *(kind for kinds, _ in _NEVER for kind in kinds)))
    if tensor is None or tensor.dim() != 3 or min(tensor.shape) < 2 or known or "bias" in leaf:
        return None
    return "weights of several experts"


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear layer of GPT-2, whose weight is (inputs, outputs)."""
    return any(
        kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.") for kind in type(module).__mro__
    )


def require_prunable(model: nn.Module, scope: Scope = Scope()) -> tuple[str, ...]:
    """The prunable names; ConfigError where there is none, with a pattern that includes the largest weights."""
    rows = list_parameters(model, scope)
    found = tuple(row.name for row in rows if row.prunable)
    if found:
        return found
    left = [row for row in rows if len(row.shape) > 1 and not row.reason.startswith("tied to")]
    if not left:
        raise ConfigError("scope: nothing is prunable; the model has no parameter of two or more dimensions")
    most = max(left, key=lambda row: math.prod(row.shape))
    leaf = most.name.rpartition(".")[2]
    pattern = most.name if leaf == "weight" else f"*{leaf}"
    excluded = most.reason.startswith("excluded")
    cure = "narrow that pattern" if excluded else f"scope.include '{pattern}' would prune it"
    why = f"its largest is '{most.name}', {most.reason}".partition(";")[0]
    raise ConfigError(f"scope: nothing is prunable; {why}; {cure}")


def matching(patterns: Iterable[str], names: Iterable[str]) -> str | None:
    """The first pattern that matches one of the names."""
    known = list(names)
    return next((pattern for pattern in patterns if any(fnmatchcase(name, pattern) for name in known)), None)
