"""The Jaccard index of masks and its chance level, against sets of positions and against every mask that there is."""

import random
from fractions import Fraction
from itertools import combinations, product

import pytest
import torch

from prunetune.sparsity.mask import Mask, flat, jaccard
from tests.support.refusals import refused

Position = tuple[str, int]


def mask_of(sizes: dict[str, int], kept: set[Position]) -> Mask:
    return Mask({name: torch.tensor([(name, i) in kept for i in range(n)]) for name, n in sizes.items()})


def drawn(sizes: dict[str, int], counts: dict[str, int], draw: random.Random) -> set[Position]:
    return {(name, i) for name, n in sizes.items() for i in draw.sample(range(n), counts[name])}


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_common_share_of_the_union(seed: int) -> None:
    draw = random.Random(seed)
    sizes = {"b": draw.randint(1, 40), "a": draw.randint(1, 40), "c.weight": 17}
    first, second = (drawn(sizes, {name: draw.randint(1, n) for name, n in sizes.items()}, draw) for _ in range(2))
    turned = dict(reversed(sizes.items()))  # the order of a mask's names says nothing
    found = jaccard(flat(mask_of(sizes, first)), flat(mask_of(turned, second)))
    assert found.value == len(first & second) / len(first | second)
    assert type(found.value) is type(found.expected) is float


def test_equal_disjoint_and_empty_masks() -> None:
    sizes = {"w": 4, "v": 2}
    some, rest, none = (flat(mask_of(sizes, kept)) for kept in ({("w", 0), ("v", 1)}, {("w", 1)}, set()))
    assert jaccard(some, some).value == 1.0
    assert jaccard(some, rest).value == 0.0
    assert jaccard(none, none) == (1.0, 1.0)
    assert jaccard(some, none) == (0.0, 0.0)


def test_a_tensor_is_read_in_its_rows() -> None:
    first = Mask({"w": torch.tensor([[1, 1, 0], [0, 0, 1]])})
    second = Mask({"w": torch.tensor([[1, 0, 0], [0, 1, 1]])})
    found = jaccard(flat(first), flat(second))
    assert found.value == 2 / 4
    assert found.expected == pytest.approx(1.5 / 4.5)  # 3 · 3 / 6 of 3 + 3


def test_chance_is_the_mean_intersection_of_all_masks_over_their_mean_union() -> None:
    sizes, a, b = {"p": 4, "q": 3}, {"p": 2, "q": 1}, {"p": 1, "q": 2}

    def every(counts: dict[str, int]) -> list[set[Position]]:
        chosen = [list(combinations(range(sizes[name]), counts[name])) for name in sizes]
        return [
            {(name, i) for name, part in zip(sizes, parts, strict=True) for i in part} for parts in product(*chosen)
        ]

    pairs = list(product(every(a), every(b)))
    common = Fraction(sum(len(first & second) for first, second in pairs), len(pairs))
    union = Fraction(sum(len(first | second) for first, second in pairs), len(pairs))
    for first, second in pairs[:5]:
        found = jaccard(flat(mask_of(sizes, first)), flat(mask_of(sizes, second)))
        assert found.expected == pytest.approx(float(common / union), rel=1e-12)


def test_independent_masks_of_a_network_lie_at_chance() -> None:
    draw = random.Random(5)
    sizes, a, b = {"p": 900, "q": 300}, {"p": 90, "q": 200}, {"p": 300, "q": 150}
    pairs = [
        jaccard(flat(mask_of(sizes, drawn(sizes, a, draw))), flat(mask_of(sizes, drawn(sizes, b, draw))))
        for _ in range(200)
    ]
    assert sum(pair.value for pair in pairs) / 200 == pytest.approx(pairs[0].expected, abs=0.003)
    plain = 290 * 450 / 1200  # without the layers it would be this, and wrong
    assert pairs[0].expected > plain / (740 - plain) + 0.02


@pytest.mark.parametrize("other", [{"w": 3}, {"v": 4}, {"w": 4, "v": 1}])
def test_masks_of_other_models_are_refused(other: dict[str, int]) -> None:
    with refused("masks", "come"):
        jaccard(flat(mask_of({"w": 4}, {("w", 0)})), flat(mask_of(other, {(next(iter(other)), 0)})))
