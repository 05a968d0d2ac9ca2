"""From a name and arguments to a network: registered models, the user's callables, and a narrower one of a kind."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from prunetune.core.references import KEYED_WHERE_SET, Ref, is_callable_name, load_callable, source_digest
from prunetune.errors import ConfigError, shown, unknown
from prunetune.models.architectures import MODELS
from prunetune.sparsity.scope import Scope, prunable

MOST_PARAMETERS = 1_000_000_000  # of a registered model: 4 GB, of which a draw holds several copies
_CONTEXT = ("input_shape", "outputs")  # what we tell a builder; the rest of its parameters are the user's to set


def build(ref: Ref, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Build the network, its weights drawn from torch's global generator as that stands: to be overwritten by a state.

    A user's callable is called with `input_shape` = (channels, height, width) and `outputs`, as far as it has
    parameters of these names, and with the arguments of `ref`. Raises ConfigError when it refuses.
    """
    function = _find(ref.name)
    arguments = _arguments(ref, function, input_shape, outputs)
    if _is_ours(ref.name, function):
        return function(**arguments)
    try:
        model = function(**arguments)
    except Exception as error:
        raise _refusal(ref, f"raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise _refusal(ref, f"returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def draw(ref: Ref, input_shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """Build the network with weights drawn by `seed`: theta_0. Equal seeds give equal bytes.

    Torch's global generator (the CPU's, from which all draws must come) is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build(ref, input_shape, outputs)


def identify(
    name: str,
    arguments: Mapping[str, Any],
    input_shape: tuple[int, ...],
    outputs: int,
    trial: Callable[[nn.Module], None] | None = None,
) -> Ref:
    """Resolve a model of a spec to the Ref that enters the steps' keys: defaults filled in, the user's code hashed.

    An argument marked KEYED_WHERE_SET is left out where it has its default.
    The digest of code that is not prunetune's is the SHA-256 of its module's source and of the names and shapes of
    the parameters that it builds. `trial` tries a network with examples; without one it must take two images and give
    logits. Raises ConfigError for an unknown model or argument, and for a callable that does not build a network for
    `input_shape` and `outputs` or does not draw it by the seed.
    """
    function = _find(name)
    ref = _reference(name, arguments)
    if _is_ours(name, function):
        with torch.device("meta"):  # checks the arguments without the cost of drawing
            model = build(ref, input_shape, outputs)
        if (size := sum(parameter.numel() for parameter in model.parameters())) > MOST_PARAMETERS:
            raise ConfigError(
                f"model_args: '{name}' has {size:,} parameters with {shown(ref.kwargs)}; at most {MOST_PARAMETERS:,}"
            )
        if trial is not None:
            _try_out(ref, draw(ref, input_shape, outputs, seed=0).eval(), trial)
        return Ref.of(name, _written_out(function, ref.kwargs))
    _check_draws(ref, input_shape, outputs)
    shapes = _check_forward(ref, input_shape, outputs, trial)
    content = json.dumps([source_digest(function), shapes])
    return replace(ref, digest=hashlib.sha256(content.encode()).hexdigest())


def argument(ref: Ref, name: str) -> Any:
    """The value that the model's argument `name` has: the one given, else its default; None where there is neither."""
    found = {parameter.name: parameter.default for parameter in _parameters(ref.name, _find(ref.name))}
    default = found.get(name, inspect.Parameter.empty)
    return ref.kwargs.get(name, None if default is inspect.Parameter.empty else default)


def _find(name: str) -> Callable[..., Any]:
    if not is_callable_name(name):
        return MODELS[name]
    function = load_callable(name, "model")
    if isinstance(function, nn.Module):
        raise ConfigError(f"model: '{name}' is a network itself; it must be a callable that builds a new one each time")
    return function


def _is_ours(name: str, function: Callable[..., Any]) -> bool:
    return not is_callable_name(name) and function.__module__.startswith("prunetune.")


def _reference(name: str, arguments: Mapping[str, Any]) -> Ref:
    try:
        return Ref.of(name, arguments)
    except TypeError as error:
        raise ConfigError(f"model_args: {error}; give numbers, texts, lists and mappings") from error


def _arguments(ref: Ref, function: Callable[..., Any], input_shape: tuple[int, ...], outputs: int) -> dict[str, Any]:
    parameters = _parameters(ref.name, function)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    settable = named.difference(_CONTEXT)
    for argument in ref.kwargs:
        if argument in _CONTEXT or not (takes_any or argument in settable):
            raise _unknown_argument(ref.name, argument, settable)
    context = dict(zip(_CONTEXT, (input_shape, outputs), strict=True))
    return ref.kwargs | {key: value for key, value in context.items() if takes_any or key in named}


def _parameters(name: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model: the parameters of '{name}' cannot be read: {error}") from error


def _unknown_argument(model: str, argument: str, settable: set[str]) -> ConfigError:
    if not settable:
        return ConfigError(f"model_args: unknown '{argument}'; '{model}' takes no arguments")
    return unknown("model_args", argument, settable)


def _written_out(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument with its value, but for one that came later and has its default."""
    parameters = {p.name: p for p in inspect.signature(function).parameters.values() if p.name not in _CONTEXT}
    values = {**{name: p.default for name, p in parameters.items()}, **given}
    later = {name for name, p in parameters.items() if KEYED_WHERE_SET in get_args(p.annotation)}
    return {name: v for name, v in values.items() if name not in later or v != parameters[name].default}


def _check_draws(ref: Ref, input_shape: tuple[int, ...], outputs: int) -> None:
    """Refuse a network whose weights the seed does not decide: its `reinit` or its second run would be a silent lie."""
    first, again, other = (_weights(draw(ref, input_shape, outputs, seed), ref) for seed in (0, 0, 1))
    for name, weight in first.items():
        if name not in again or not torch.equal(weight, again[name]):
            raise _refusal(ref, f"draws '{name}' anew under the same seed; draw it from torch's global CPU generator")
    for name, weight in first.items():
        is_constant = bool((weight == weight.flatten()[0]).all())  # a layer that starts at zero, for example
        if not is_constant and torch.equal(weight, other[name]):
            raise _refusal(ref, f"gives '{name}' the same values under every seed; draw it anew at each call")


def _weights(model: nn.Module, ref: Ref) -> dict[str, Tensor]:
    """The trained tensors that are drawn at random: those of two or more dimensions."""
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise _refusal(ref, "has lazy parameters; give its layers their sizes, which follow from `input_shape`")
    drawn = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: parameter.detach() for name, parameter in drawn.items() if parameter.dim() >= 2 and parameter.numel()}


def _check_forward(
    ref: Ref, input_shape: tuple[int, ...], outputs: int, trial: Callable[[nn.Module], None] | None
) -> list[tuple[str, list[int]]]:
    """Refuse a network that cannot be tried, or keeps what no store holds; returns its parameters' names and shapes."""
    model = draw(ref, input_shape, outputs, seed=0).eval()
    if trial is not None:
        _try_out(ref, model, trial)
    else:
        _try_images(ref, model, input_shape, outputs)
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            kind = value.layout if isinstance(value, Tensor) else type(value).__name__
            what = f"keeps '{name}' in its state, a {str(kind).removeprefix('torch.')}"
            raise _refusal(
                ref, f"{what}; a study stores dense tensors: register_buffer(…, persistent=False) for others"
            )
    return [(name, list(parameter.shape)) for name, parameter in model.named_parameters()]


def _try_images(ref: Ref, model: nn.Module, input_shape: tuple[int, ...], outputs: int) -> None:
    """Refuse a network that cannot take two images or gives no logits."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = model(torch.zeros(2, *input_shape))
    except Exception as error:
        raise _refusal(ref, f"cannot take images of shape {input_shape}: {type(error).__name__}: {error}") from error
    logits = found.get("logits", found) if isinstance(found, Mapping) else found  # as those of transformers
    if not isinstance(logits, Tensor) or logits.shape != (2, outputs):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise _refusal(ref, f"gives {got} for 2 images; it must give logits of shape (2, {outputs})")


def _try_out(ref: Ref, model: nn.Module, trial: Callable[[nn.Module], None]) -> None:
    """Refuse a network that cannot take examples of the data, or whose outputs the task cannot read."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            trial(model)
    except ConfigError:
        raise
    except Exception as error:
        raise _refusal(ref, f"cannot take two examples: {type(error).__name__}: {error}") from error


def _refusal(ref: Ref, why: str) -> ConfigError:
    return ConfigError(f"model: '{ref.name}' {why}")


_WIDTH = "width"


@lru_cache(maxsize=64)
def parameters_kept(ref: Ref, input_shape: tuple[int, ...], outputs: int, scope: Scope, density: float) -> int:
    """The parameters that are left of the model where `density` of its prunable weights is kept; all others stay."""
    model = draw(ref, input_shape, outputs, seed=0)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    of_masks = sum(sizes[name] for name in prunable(model, scope))
    return sum(sizes.values()) - of_masks + round(density * of_masks)


@lru_cache(maxsize=64)
def narrowed(ref: Ref, input_shape: tuple[int, ...], outputs: int, parameters: int) -> Ref:
    """The model with the argument `width` by which its number of parameters is nearest to `parameters`.

    Bisection over the whole numbers from 1 to the model's own width, or where that is a multiplier over hundredths of
    it: a wider network has more parameters. ConfigError where the model has no argument `width`, or no number as one.
    """
    widest = argument(ref, _WIDTH)
    if not isinstance(widest, int | float) or isinstance(widest, bool) or widest <= 0:
        what = f"'{ref.name}' has no such argument" if widest is None else f"it is {widest!r}"
        raise ConfigError(
            f"arms: 'dense_small' makes the model narrower by its argument `{_WIDTH}`, a number above 0; {what}: give "
            f"a callable with one, and its value in model_args, or leave the arm out"
        )
    widths = range(1, widest + 1) if isinstance(widest, int) else [round(widest * i / 100, 6) for i in range(1, 101)]

    def at(place: int) -> Ref:
        return identify(ref.name, {**ref.kwargs, _WIDTH: widths[place]}, input_shape, outputs)

    def size(place: int) -> int:
        return sum(p.numel() for p in draw(at(place), input_shape, outputs, seed=0).parameters())

    return at(_nearest(size, len(widths), parameters))


def _nearest(size: Callable[[int], int], count: int, parameters: int) -> int:
    """The place in 0 … `count` − 1 whose size is nearest; of two as near the lower. `size` does not fall."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if size(middle) >= parameters:
            high = middle
        else:
            low = middle + 1
    return min((place for place in (low - 1, low) if place >= 0), key=lambda place: abs(size(place) - parameters))
