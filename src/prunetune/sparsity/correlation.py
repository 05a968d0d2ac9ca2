"""R_p, the paper's weight correlation indicator: how far the largest weights of two networks are the same."""

# scipy has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import fsum, nan

from scipy.special import ndtr
from torch import Tensor, nn

from prunetune.errors import ConfigError, unknown
from prunetune.sparsity.argument_checks import as_share, require_type, wrong_type
from prunetune.sparsity.mask import as_mask, require_tensor
from prunetune.sparsity.model_state import FLOAT8, require_values
from prunetune.sparsity.selection import largest

State = Mapping[str, Tensor]
_ROUNDING = 0.02  # of sin² + cos² in half precision


@dataclass(frozen=True)
class LayerCorrelation:
    """R_p of one tensor: `k` of its `n` weights are compared. With k = 0 it counts as nothing and the rest is NaN."""

    value: float
    expected: float
    n: int
    k: int
    common: int  # weights among the k largest of both


@dataclass(frozen=True)
class WeightCorrelation:
    """R_p of two networks. `value` in [0, 1]; `expected` is what independent weights give on average.

    `float(found)` is `value`. `per_layer` has a row for every tensor compared, in the order of the first network.
    `left_out` has the tensors that are constants rather than weights, and why; they count as nothing, with
    k = 0.
    """

    value: float
    expected: float
    per_layer: Mapping[str, LayerCorrelation]
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])

    def __float__(self) -> float:
        return self.value


def correlation(
    a: nn.Module | State, b: nn.Module | State, p: float, mask: State | None = None, names: Iterable[str] | None = None
) -> WeightCorrelation:
    """R_p(a, b) of Liu et al. 2021, eq. 1: the share of the p * 100 % largest magnitudes that both have in common.

    Of a layer with N_l weights the k_l = round(p * N_l) largest are compared, ties to the lower flat index:
    R_p = sum |T(a_l) and T(b_l)| / sum k_l, so that R_p(a, a) = 1; `expected` = sum(k_l^2 / N_l) / sum k_l.

    Without `names`, the tensors of `constants` are left out, and `left_out` of the result names them, unless nothing
    else is there to compare. Frozen layers, and others that are equal on both sides, count: they do agree. Tensors
    that `names` lists are compared, whatever they hold.

    Args:
        a: A module or a state dict.
        b: Another one of the same model.
        p: The share of the weights of each layer that is compared, in (0, 1).
        mask: Parameter name to bool tensor, True = kept: only kept weights count on both sides (N_l = kept; tensors
            that it does not name count whole). Without one all weights count, and where a side is sparse p must be
            below the layer's share of non-zeros: above it, zeros would be ranked.
        names: The tensors to compare; by default all shared floating-point tensors of two or more dimensions, a tied
            weight of a module once.

    Returns:
        R_p with `value`, `expected`, `per_layer` and `left_out`; `float()` gives the value.

    Raises:
        ConfigError: For p outside (0, 1), nothing to compare, unknown names, shapes that disagree, and weights that
            are not finite.
        TooSparseError: For p too large for a sparse layer.

    >>> import torch
    >>> a, b = torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[4.0, 0.1, -9.0, 1.0]])
    >>> found = correlation({"w": a}, {"w": b}, p=0.5)
    >>> float(found), found.expected
    (0.5, 0.5)
    """
    p = as_share("p", p, "a share of weights", example=0.2)
    first, second = _state("a", a), _state("b", b)
    compared = _shared(first, second) if names is None else _listed(names)
    _require_same_shapes(compared, first, second)
    kept = _checked(mask, first, second)
    left_out = constants(first, second, compared, mask) if names is None else {}
    if len(left_out) == len(compared):
        left_out = {}  # something must be compared
    layers = {
        name: LayerCorrelation(nan, nan, first[name].numel(), 0, 0)
        if name in left_out
        else _layer(name, first[name], second[name], p, kept.get(name))
        for name in compared
    }
    total = sum(layer.k for layer in layers.values())
    if not total:
        raise ConfigError(f"p: {p} selects no weight of any tensor; it must be larger for tensors this small")
    expected = fsum(layer.k**2 / layer.n for layer in layers.values() if layer.k) / total
    return WeightCorrelation(sum(layer.common for layer in layers.values()) / total, expected, layers, left_out)


def constants(first: State, second: State, names: Iterable[str], mask: State | None = None) -> dict[str, str]:
    """The tensors whose largest weights are no result of drawing or training, and why.

    Such is a tensor that on one side is zero throughout, as heads, class tokens and tables of biases begin; or whose
    values other than zero have one magnitude alone (scales that begin at one, tables of zeros and ones); or that has
    the same magnitudes in every row (Mamba's `A_log` as it begins), or is a table of sinusoids (Whisper's positions).
    With a `mask` only the weights that it keeps are looked at. It takes the values of one side alone to tell, so that a
    tensor does not drop out when both sides become equal. ConfigError as `correlation` raises it.

    >>> import torch
    >>> constants({"head": torch.zeros(2, 3)}, {"head": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])}, ["head"])
    {'head': 'is zero throughout'}
    """
    listed, kept = list(names), _checked(mask, first, second)
    _require_same_shapes(listed, first, second)
    reasons = {
        name: _constant(name, first[name], kept.get(name)) or _constant(name, second[name], kept.get(name))
        for name in listed
    }
    return {name: why for name, why in reasons.items() if why}


def chance(p: float, n: int) -> float:
    """What independent weights give on average in a layer of n weights: k / n, where k = round(p * n) are compared."""
    return round(p * n) / n


def _listed(names: Iterable[str]) -> list[str]:
    right = "a list of tensors' names"
    require_type("names", names, Iterable, right)
    if isinstance(names, str):
        raise wrong_type("names", names, right)
    return list(dict.fromkeys(names))


def _state(argument: str, network: nn.Module | Mapping[str, object]) -> State:
    require_type(argument, network, (nn.Module, Mapping), "a torch.nn.Module or a state dict")
    if not isinstance(network, nn.Module):
        return {name: tensor for name, tensor in network.items() if isinstance(tensor, Tensor)}
    live = network.state_dict(keep_vars=True)
    first_names = {id(tensor): name for name, tensor in reversed(live.items())}
    return {name: live[name] for name in reversed(first_names.values()) if isinstance(live[name], Tensor)}


def _shared(first: State, second: State) -> list[str]:
    def counts(*sides: Tensor) -> bool:
        return all(side.is_floating_point() for side in sides) and max(side.dim() for side in sides) >= 2

    found = [name for name, tensor in first.items() if name in second and counts(tensor, second[name])]
    if not found:
        raise ConfigError(
            f"nothing to compare: no floating-point tensor of two or more dimensions is in both; the first has "
            f"{_some(first)}, the second {_some(second)}"
        )
    return found


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "") or "no tensor"


def _require_same_shapes(names: list[str], first: State, second: State) -> None:
    for name in names:
        for state in (first, second):
            if name not in state:
                raise unknown("names", name, state)
    odd = [name for name in names if first[name].shape != second[name].shape]
    if odd:
        listed = "; ".join(f"'{name}' {tuple(first[name].shape)} and {tuple(second[name].shape)}" for name in odd)
        raise ConfigError(f"shapes disagree: {listed}; both must come from the same model")


def _checked(mask: State | None, first: State, second: State) -> Mapping[str, Tensor]:
    if mask is None:
        return {}
    kept = as_mask(mask)
    for name, tensor in kept.items():
        require_tensor(name, tensor, first)
        require_tensor(name, tensor, second)
    return kept


def _constant(name: str, tensor: Tensor, kept: Tensor | None) -> str | None:
    """Why one side's tensor is a constant, if it is."""
    values = _magnitudes(name, tensor, kept)
    above = values[values > 0]
    if values.numel() and not above.numel():
        return "is zero throughout"
    if above.numel() > 1 and bool((above == above[0]).all()):
        return "has one magnitude alone"
    if values.numel() < tensor.numel() or tensor.dim() < 2:
        return None  # rows with holes are not to be compared
    magnitudes = values.reshape(tensor.shape)
    if len(magnitudes) > 1 and bool((magnitudes == magnitudes[:1]).all()):
        return "has the same magnitudes in every row"
    return "is a table of sinusoids" if _is_sinusoids(magnitudes) else None


def _is_sinusoids(magnitudes: Tensor) -> bool:
    """Whether columns are pairs of sine and cosine of the same angles: next to each other, or half a row apart."""
    if magnitudes.dim() != 2 or len(magnitudes) < 2 or magnitudes.shape[1] < 4 or magnitudes.shape[1] % 2:
        return False
    squares = magnitudes.double() ** 2
    half = squares.shape[1] // 2
    pairs = (squares[:, :half] + squares[:, half:], squares[:, ::2] + squares[:, 1::2])
    return any(bool(((sums - 1).abs() < _ROUNDING).all()) for sums in pairs)


def _layer(name: str, a: Tensor, b: Tensor, p: float, kept: Tensor | None) -> LayerCorrelation:
    sides = [_magnitudes(name, tensor, kept) for tensor in (a, b)]
    n = sides[0].numel()
    k = round(p * n)
    if not k:
        return LayerCorrelation(nan, nan, n, 0, 0)
    if kept is None:
        for side in sides:
            _require_nonzeros(name, side, p)
    common = int((largest(sides[0], k) & largest(sides[1], k)).sum())
    return LayerCorrelation(common / k, chance(p, n), n, k, common)


def _magnitudes(name: str, tensor: Tensor, kept: Tensor | None) -> Tensor:
    if tensor.is_quantized:
        raise ConfigError(f"weights: '{name}' is quantised; compare what its dequantize() gives")
    require_values({name: tensor}, "weights")
    found = tensor.detach().cpu()
    magnitudes = (found.float() if found.dtype in FLOAT8 else found).abs()  # exact: a float holds every 8 bits' value
    magnitudes = magnitudes.flatten() if kept is None else magnitudes[kept]
    if not magnitudes.isfinite().all():
        raise ConfigError(f"weights: '{name}' holds NaN or infinite values; there is no ranking of these")
    return magnitudes


class TooSparseError(ConfigError):
    """A layer has no p·N non-zero weights, so that its largest cannot be told from its zeros."""


def _require_nonzeros(name: str, magnitudes: Tensor, p: float) -> None:
    limit = int(magnitudes.count_nonzero()) / magnitudes.numel()
    if not limit:
        raise TooSparseError(f"p: '{name}' is zero throughout on one side, so that it has no largest weights")
    if p >= limit:
        raise TooSparseError(
            f"p: {p} is too large for '{name}', of which {1 - limit:.6g} is zero; it must be below {limit:.6g}"
        )


@dataclass(frozen=True)
class Independence:
    """R_p of independent networks has mean `expected` and standard deviation `deviation`; where a value lies in it."""

    expected: float
    deviation: float
    errors: float  # standard deviations that the value lies above the mean
    p: float  # two-sided: independent networks are so far from the mean with this probability


def independence(observed: WeightCorrelation) -> Independence:
    """How an observed R_p lies among those of networks whose weights are ranked independently.

    If the weights of a layer are exchangeable in one network (drawn alike, as initial weights are) and independent of
    the other network, then of the k largest of N weights C ~ Hypergeometric(N, k, k) are in common, with mean k² / N
    and variance k² (N - k)² / (N² (N - 1)); layers are independent. R_p = sum C / sum k, taken as normal: many
    thousands of weights are compared. See `p_above` for one layer without that.
    """
    layers = [layer for layer in observed.per_layer.values() if layer.k]
    deviation = math.sqrt(math.fsum(map(_variance, layers))) / sum(layer.k for layer in layers)
    errors = (observed.value - observed.expected) / deviation if deviation else 0.0
    return Independence(observed.expected, deviation, errors, float(2 * ndtr(-abs(errors))))


def p_above(layer: LayerCorrelation) -> float:
    """The exact probability that independent rankings have so many or more of a layer's largest weights in common."""
    from scipy.stats import hypergeom  # the import costs most of a second, which every worker would pay

    return float(hypergeom.sf(layer.common - 1, layer.n, layer.k, layer.k)) if layer.k else 1.0


def _variance(layer: LayerCorrelation) -> float:
    n, k = layer.n, layer.k
    return (k * (n - k) / n) ** 2 / (n - 1) if n > 1 else 0.0
