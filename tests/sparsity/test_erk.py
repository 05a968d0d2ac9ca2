"""The Erdős–Rényi-Kernel allocation: a hand-worked table, one sorted list of quotients, and RigL's published FLOPs."""

import math
from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetune.sparsity.allocation import ALLOCATIONS, BY_SHAPE, erk

Shape = tuple[int, ...]
shapes = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6).map(
    lambda found: {f"l{i}": shape for i, shape in enumerate(found)}
)


def allocated(layers: Mapping[str, Shape], density: float) -> dict[str, int]:
    return dict(erk({name: torch.empty(shape) for name, shape in layers.items()}, density))


def by_one_sorted_list(layers: Mapping[str, Shape], density: float) -> dict[str, int]:
    """Rounding eps * S_l at every eps at once: a layer's k-th weight is in from eps = (k - 1/2) / S_l on."""
    quotients = [
        (Fraction(2 * k - 1, 2 * sum(shape)), name)
        for name, shape in layers.items()
        for k in range(1, math.prod(shape) + 1)
    ]
    chosen = [name for _, name in sorted(quotients)[: round(density * len(quotients))]]
    return {name: chosen.count(name) for name in layers}


@pytest.mark.parametrize(
    ("density", "counts"),
    [
        # S = 10, 60, 32 and N = 36, 800, 60. A tenth of 896 is 90: eps = 90/102, so 8.82, 52.94 and 28.24
        (0.1, {"conv": 9, "wide": 53, "head": 28}),
        # 269: eps = 2.64 gives the head 84 of its 60; then 209/70 = 2.99: 29.86 and 179.14
        (0.3, {"conv": 30, "wide": 179, "head": 60}),
        # 448: the head is full, 388/70 = 5.54 fills the convolution too, and the rest is the wide layer's
        (0.5, {"conv": 36, "wide": 352, "head": 60}),
        (1.0, {"conv": 36, "wide": 800, "head": 60}),
        # 1: eps = 1/102, so .1, .59 and .31
        (0.001, {"conv": 0, "wide": 1, "head": 0}),
    ],
)
def test_a_table_worked_by_hand(density: float, counts: dict[str, int]) -> None:
    assert allocated({"conv": (2, 2, 3, 3), "wide": (20, 40), "head": (2, 30)}, density) == counts


def test_rounding_that_misses_the_total_is_settled_by_the_nearest_and_by_name() -> None:
    # three alike: 10 of 27 is 3.33 each, and 11 of 27 is 3.67 each
    alike = dict.fromkeys("bca", (3, 3))
    assert allocated(alike, 10 / 27) == {"a": 4, "b": 3, "c": 3}
    assert allocated(alike, 11 / 27) == {"a": 4, "b": 4, "c": 3}


@settings(deadline=None)
@given(layers=shapes, density=st.floats(0.01, 1.0))
def test_against_one_sorted_list(layers: dict[str, Shape], density: float) -> None:
    assert allocated(layers, density) == by_one_sorted_list(layers, density)


@settings(deadline=None)
@given(layers=shapes, first=st.floats(0.01, 1.0), second=st.floats(0.01, 1.0))
def test_no_layer_keeps_more_at_a_smaller_density(layers: dict[str, Shape], first: float, second: float) -> None:
    less, more = (allocated(layers, density) for density in sorted((first, second)))
    assert all(less[name] <= more[name] for name in layers)


def resnet50() -> dict[str, tuple[Shape, int]]:
    """Every convolution and linear weight of ResNet-50 for ImageNet, with the side of its output."""
    layers: dict[str, tuple[Shape, int]] = {"stem": ((64, 3, 7, 7), 112)}
    inputs, side = 64, 56
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            name = f"{stage}.{block}"
            layers[f"{name}.1"] = ((width, inputs, 1, 1), side)
            side //= 2 if stage and not block else 1
            layers[f"{name}.2"] = ((width, width, 3, 3), side)
            layers[f"{name}.3"] = ((4 * width, width, 1, 1), side)
            if not block:
                layers[f"{name}.skip"] = ((4 * width, inputs, 1, 1), side)
            inputs = 4 * width
    return layers | {"fc": ((1000, 2048), 1)}


@pytest.mark.parametrize(("sparsity", "published"), [(0.8, 0.42), (0.9, 0.24), (0.95, 0.12), (0.965, 0.09)])
def test_the_flops_that_rigl_publishes_for_resnet50(sparsity: float, published: float) -> None:
    """Its README gives inference FLOPs to two digits, and counts a little that is no weight's."""
    layers = resnet50()
    counts = allocated({name: shape for name, (shape, _) in layers.items()}, 1 - sparsity)
    total = sum(math.prod(shape) for shape, _ in layers.values())
    assert total == 25_502_912
    assert sum(counts.values()) == round((1 - sparsity) * total)
    dense = sum(math.prod(shape) * side**2 for shape, side in layers.values())
    assert dense / 1e9 == pytest.approx(8.2 / 2, abs=0.05)  # multiplications; published: 8.2e9 operations
    assert sum(counts[name] * side**2 for name, (_, side) in layers.items()) / dense == pytest.approx(
        published, abs=0.007
    )


@pytest.mark.parametrize("name", sorted(BY_SHAPE))
def test_what_is_said_to_follow_from_shapes_does(name: str) -> None:
    first, second = ({"a": torch.rand(7, 9), "b": torch.rand(3, 4, 2, 2)} for _ in range(2))
    assert ALLOCATIONS[name](first, 0.37) == ALLOCATIONS[name](second, 0.37)
