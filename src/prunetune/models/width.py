"""Dense networks of as many parameters as a sparse one keeps: the same model, made narrower."""

from collections.abc import Callable
from functools import lru_cache

from prunetune.core.references import Ref
from prunetune.errors import ConfigError
from prunetune.models.building import argument, draw, identify
from prunetune.sparsity.scope import Scope, prunable

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
