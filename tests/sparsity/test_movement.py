"""Sign flips, distance and cosine against plain Python, and what they say of plain cases."""

import math

import pytest
import torch

from prunetune.sparsity.movement import movement
from tests.support.refusals import refused


def test_by_hand() -> None:
    """a = (3, −4, 0, 12), b = (−3, −4, 5, 12): one flip of four; ‖b − a‖² = 36 + 25, ‖a‖² = 169, ⟨a, b⟩ = 151."""
    a, b = torch.tensor([[3.0, -4.0, 0.0, 12.0]]), torch.tensor([[-3.0, -4.0, 5.0, 12.0]])
    whole, layers = movement({"w": a}, {"w": b}, ["w"])
    assert layers == {"w": whole}
    assert (whole.n, whole.sign_flips) == (4, 0.25)
    assert whole.distance == pytest.approx(math.sqrt(61) / 13)
    assert whole.cosine == pytest.approx(151 / (13 * math.sqrt(194)))


@pytest.mark.parametrize("masked", [False, True])
def test_like_plain_python(masked: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = {"conv": (4, 2, 3, 3), "fc": (5, 7), "other": (3, 3)}
    a, b = ({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(2))
    mask = {"fc": torch.rand(5, 7, generator=generator) < 0.4} if masked else None
    whole, layers = movement(a, b, ["conv", "fc"], mask)
    pairs: list[tuple[float, float]] = []
    for name in ("conv", "fc"):
        kept = mask["fc"].flatten().tolist() if mask and name == "fc" else [True] * a[name].numel()
        own = [
            (x, y)
            for x, y, keep in zip(a[name].flatten().tolist(), b[name].flatten().tolist(), kept, strict=True)
            if keep
        ]
        expect(layers[name], own)
        pairs += own
    expect(whole, pairs)


def expect(found: object, pairs: list[tuple[float, float]]) -> None:
    n = len(pairs)
    first = math.sqrt(math.fsum(x * x for x, _ in pairs))
    second = math.sqrt(math.fsum(y * y for _, y in pairs))
    moved = math.sqrt(math.fsum((y - x) ** 2 for x, y in pairs))
    flips = sum(1 for x, y in pairs if (x > 0 > y) or (x < 0 < y))
    cosine = math.fsum(x * y for x, y in pairs) / first / second
    assert vars(found) == pytest.approx(
        {"n": n, "sign_flips": flips / n, "distance": moved / first, "cosine": cosine}, rel=1e-12
    )


def test_of_a_state_with_itself_and_with_its_opposite() -> None:
    a = {"w": torch.tensor([1.0, -2.0, 3.0])}
    same, _ = movement(a, a, ["w"])
    assert (same.sign_flips, same.distance, same.cosine) == (0, 0, pytest.approx(1))
    turned, _ = movement(a, {"w": -a["w"]}, ["w"])
    assert (turned.sign_flips, turned.distance, turned.cosine) == (1, 2, pytest.approx(-1))


def test_of_nothing_and_of_zeros() -> None:
    zeros = {"w": torch.zeros(3)}
    nothing, _ = movement(zeros, zeros, [])
    assert nothing.n == 0
    assert math.isnan(nothing.sign_flips)
    found, _ = movement(zeros, {"w": torch.ones(3)}, ["w"])
    assert found.sign_flips == 0
    assert math.isnan(found.distance)
    assert math.isnan(found.cosine)


def test_shapes_that_disagree() -> None:
    with refused("", "'w'", "(3,)", "(2,)", "shape"):
        movement({"w": torch.ones(3)}, {"w": torch.ones(2)}, ["w"])
