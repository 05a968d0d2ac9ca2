"""R_p, the paper's correlation indicator: how far two networks agree on which weights are the largest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import fsum, nan

import torch
from torch import Tensor, nn

from prunetune.errors import RequestError, unknown
from prunetune.sparsity.copying import FLOAT8, require_values
from prunetune.sparsity.mask import Mask, require_tensor
from prunetune.sparsity.ranking import largest

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class LayerOverlap:
    """R_p of one tensor: `k` of its `n` weights are compared. With k = 0 it counts as nothing and the rest is NaN."""

    value: float
    expected: float
    n: int
    k: int
    common: int  # weights among the k largest of both


@dataclass(frozen=True)
class Overlap:
    """R_p of two networks. `value` in [0, 1]; `expected` is what independent weights give on average.

    `float(overlap)` is `value`. `per_layer` has a row for every tensor compared, in the order of the first network.
    `left_out` names the tensors that have no ranking, and why; they count as nothing, with k = 0.
    """

    value: float
    expected: float
    per_layer: Mapping[str, LayerOverlap]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __float__(self) -> float:
        return self.value


def correlation(
    a: nn.Module | State, b: nn.Module | State, p: float, mask: State | None = None, names: Iterable[str] | None = None
) -> Overlap:
    """R_p(a, b) of Liu et al. 2021, eq. 1: the share of the p * 100 % largest magnitudes that both have in common.

    Of a layer with N_l weights the k_l = round(p * N_l) largest are compared, ties to the lower flat index:
    R_p = sum |T(a_l) and T(b_l)| / sum k_l, so that R_p(a, a) = 1; `expected` = sum(k_l^2 / N_l) / sum k_l.

    `a`, `b`: modules or state dicts. `names`: the tensors to compare; by default all shared floating-point tensors of
    two or more dimensions, a tied weight of a module once. With a `mask` only its kept weights count on both sides
    (N_l = kept; tensors that it does not name count whole). Without one all weights
    count, and where a side is sparse p must be below the layer's share of non-zeros: above it, zeros would be ranked.

    A tensor that on one side has one value alone, such as a head that begins at zero, or the same values in every row,
    such as Mamba's `A_log`, is left out: its ranking says nothing. So is, without
    `names`, one that both have the same, such as a table of sinusoids, where other tensors differ. `Overlap.left_out`
    names them.

    RequestError for p outside (0, 1) or too large for a sparse layer, nothing to compare, unknown names, shapes that
    disagree, and weights that are not finite.

    >>> import torch
    >>> a, b = torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[4.0, 0.1, -9.0, 1.0]])
    >>> overlap = correlation({"w": a}, {"w": b}, p=0.5)
    >>> float(overlap), overlap.expected
    (0.5, 0.5)
    """
    if not 0 < p < 1:
        raise RequestError(f"p: {p} is not a share of weights; it must lie in (0, 1)")
    first, second = _state(a), _state(b)
    compared = _shared(first, second) if names is None else list(dict.fromkeys(names))
    _require_same_shapes(compared, first, second)
    kept = _checked(mask, first, second)
    left_out = _without_ranking(compared, first, second, kept)
    if names is None:
        left_out |= _untrained(compared, first, second, left_out)
    layers = {
        name: LayerOverlap(nan, nan, first[name].numel(), 0, 0)
        if name in left_out
        else _layer(name, first[name], second[name], p, kept.get(name))
        for name in compared
    }
    total = sum(layer.k for layer in layers.values())
    if left_out and not total:
        raise RequestError("nothing to compare: " + "; ".join(f"'{name}' {why}" for name, why in left_out.items()))
    if not total:
        raise RequestError(f"p: {p} selects no weight of any tensor; it must be larger for tensors this small")
    expected = fsum(layer.k**2 / layer.n for layer in layers.values() if layer.k) / total
    return Overlap(sum(layer.common for layer in layers.values()) / total, expected, layers, left_out)


def chance(p: float, n: int) -> float:
    """What independent weights give on average in a layer of n weights: k / n, where k = round(p * n) are compared."""
    return round(p * n) / n


def _state(network: nn.Module | State) -> State:
    if not isinstance(network, nn.Module):
        return network
    live = network.state_dict(keep_vars=True)
    first_names = {id(tensor): name for name, tensor in reversed(live.items())}
    return {name: live[name] for name in reversed(first_names.values()) if isinstance(live[name], Tensor)}


def _shared(first: State, second: State) -> list[str]:
    def counts(*sides: Tensor) -> bool:
        return all(side.is_floating_point() for side in sides) and max(side.dim() for side in sides) >= 2

    found = [name for name, tensor in first.items() if name in second and counts(tensor, second[name])]
    if not found:
        raise RequestError(
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
        raise RequestError(f"shapes disagree: {listed}; both must come from the same model")


def _checked(mask: State | None, first: State, second: State) -> Mapping[str, Tensor]:
    if mask is None:
        return {}
    kept = mask if isinstance(mask, Mask) else Mask(mask)
    for name, tensor in kept.items():
        require_tensor(name, tensor, first)
        require_tensor(name, tensor, second)
    return kept


def _without_ranking(names: list[str], first: State, second: State, kept: Mapping[str, Tensor]) -> dict[str, str]:
    """The tensors whose largest weights are a matter of chance or of design, with the reason."""
    return {name: why for name in names if (why := _constant(first[name], second[name], kept.get(name)))}


def _untrained(names: list[str], first: State, second: State, left_out: Mapping[str, str]) -> dict[str, str]:
    """The tensors that both sides have the same, where others differ."""
    others = [name for name in names if name not in left_out]
    same = [name for name in others if torch.equal(first[name], second[name].to(first[name]))]
    return dict.fromkeys(same, "is the same on both sides") if len(same) < len(others) else {}


def _constant(a: Tensor, b: Tensor, kept: Tensor | None) -> str | None:
    for side in (a, b):
        values = side.detach() if kept is None else side.detach()[kept.to(side.device)]
        if not values.isfinite().all():
            return None
        if values.numel() > 1 and bool((values == values.flatten()[0]).all()):
            return "has one value alone"
        if kept is None and side.dim() > 1 and len(side) > 1 and bool((values == values[0]).all()):
            return "has the same values in every row"
    return None


def _layer(name: str, a: Tensor, b: Tensor, p: float, kept: Tensor | None) -> LayerOverlap:
    sides = [_magnitudes(name, tensor, kept) for tensor in (a, b)]
    n = sides[0].numel()
    k = round(p * n)
    if not k:
        return LayerOverlap(nan, nan, n, 0, 0)
    if kept is None:
        for side in sides:
            _require_nonzeros(name, side, p)
    common = int((largest(sides[0], k) & largest(sides[1], k)).sum())
    return LayerOverlap(common / k, chance(p, n), n, k, common)


def _magnitudes(name: str, tensor: Tensor, kept: Tensor | None) -> Tensor:
    if tensor.is_quantized:
        raise RequestError(f"weights: '{name}' is quantised; compare what its dequantize() gives")
    require_values({name: tensor}, "weights")
    found = tensor.detach().cpu()
    magnitudes = (found.float() if found.dtype in FLOAT8 else found).abs()  # exact: a float holds every 8 bits' value
    magnitudes = magnitudes.flatten() if kept is None else magnitudes[kept]
    if not magnitudes.isfinite().all():
        raise RequestError(f"weights: '{name}' holds NaN or infinite values; there is no ranking of these")
    return magnitudes


class TooSparseError(RequestError):
    """A layer has no p·N non-zero weights, so that its largest cannot be told from its zeros."""


def _require_nonzeros(name: str, magnitudes: Tensor, p: float) -> None:
    limit = int(magnitudes.count_nonzero()) / magnitudes.numel()
    if p >= limit:
        raise TooSparseError(
            f"p: {p} is too large for '{name}', of which {1 - limit:.6g} is zero; it must be below {limit:.6g}"
        )
