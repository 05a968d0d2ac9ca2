"""R_p against a slow version, tables worked by hand, and the chance level by simulation."""

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunetune.sparsity.correlation import correlation
from prunetune.sparsity.mask import Mask
from tests.support.refusals import refused

State = dict[str, Tensor]


def top(values: list[float], k: int) -> set[int]:
    return set(sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:k])


def slow(a: State, b: State, p: float, mask: Mapping[str, Tensor] | None = None) -> tuple[float, float]:
    common, total, chance = 0, 0, 0.0
    for name in a:
        keep = mask[name].flatten().tolist() if mask is not None and name in mask else [True] * a[name].numel()
        sides = [[v for v, kept in zip(s[name].flatten().tolist(), keep, strict=True) if kept] for s in (a, b)]
        n = len(sides[0])
        k = round(p * n)
        common += len(top(sides[0], k) & top(sides[1], k))
        total += k
        chance += k * k / n if n else 0
    return common / total, chance / total


def networks(seed: int, *shapes: tuple[int, ...]) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {f"layer{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}


def test_a_table_worked_by_hand() -> None:
    a = {"x": torch.tensor([[5.0, -4.0, 3.0, 2.0, 1.0]]), "y": torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.5, 0.1]])}
    b = {"x": torch.tensor([[1.0, -9.0, 8.0, 2.0, 3.0]]), "y": torch.tensor([[9.0, 1.0], [8.0, 2.0], [0.5, 0.1]])}
    overlap = correlation(a, b, 0.4)
    # x: k = 2, {0, 1} and {1, 2} share 1. y: k = round(2.4) = 2, {3, 2} and {0, 2} share 1.
    assert (overlap.value, float(overlap)) == (0.5, 0.5)
    assert overlap.expected == pytest.approx((4 / 5 + 4 / 6) / 4, abs=1e-15)
    x, y = overlap.per_layer["x"], overlap.per_layer["y"]
    assert (x.value, x.expected, x.n, x.k, x.common) == (0.5, 0.4, 5, 2, 1)
    assert (y.value, y.expected, y.n, y.k, y.common) == (0.5, 2 / 6, 6, 2, 1)
    assert list(overlap.per_layer) == ["x", "y"]


def test_ties_go_to_the_lower_index() -> None:
    a, b = {"w": torch.ones(2, 4)}, {"w": torch.tensor([[0.1, 0.1, 9.0, 9.0], [0.1, 0.1, 0.1, 0.1]])}
    assert correlation(a, b, 0.25).value == 0.0
    assert correlation(a, b, 0.375).value == 2 / 3  # {0, 1, 2} and {2, 3, 0}


def sinusoids(length: int, columns: int, interleaved: bool) -> Tensor:
    """Vaswani et al. 2017, section 3.5, its sines and cosines in turns or in two halves."""
    table = torch.zeros(length, columns)
    for position in range(length):
        for i in range(columns // 2):
            angle = position / 10000 ** (2 * i / columns)
            places = (2 * i, 2 * i + 1) if interleaved else (i, columns // 2 + i)
            table[position, places[0]], table[position, places[1]] = math.sin(angle), math.cos(angle)
    return table


CONSTANT = {
    "head": (torch.zeros(4, 6), "is zero throughout"),
    "scale": (torch.ones(4, 6), "has one magnitude alone"),
    "signs": (torch.ones(4, 6).tril() * torch.tensor([1.0, -1, 1, -1, 1, -1]), "has one magnitude alone"),
    "a_log": (torch.arange(1.0, 7).log().repeat(4, 1), "has the same magnitudes in every row"),
    "halves": (sinusoids(4, 6, interleaved=False), "is a table of sinusoids"),
    "turns": (sinusoids(4, 6, interleaved=True).half(), "is a table of sinusoids"),
}


def test_constants_are_left_out_by_name() -> None:
    drawn, others = networks(0, (4, 6))["layer0"], networks(1, (4, 6))["layer0"]
    a = {"w": drawn, **{name: table for name, (table, _) in CONSTANT.items()}}
    for b in ({"w": others} | dict.fromkeys(CONSTANT, others), a | {"w": others}):
        for pair in ((a, b), (b, a)):
            overlap = correlation(*pair, 0.4)
            assert overlap.left_out == {name: why for name, (_, why) in CONSTANT.items()}
            assert (overlap.value, overlap.expected) == slow({"w": pair[0]["w"]}, {"w": pair[1]["w"]}, 0.4)
            assert {name for name, layer in overlap.per_layer.items() if layer.k} == {"w"}
    named = correlation(a, b, 0.4, names=["w", "scale"])
    assert list(named.per_layer) == ["w", "scale"]
    assert not named.left_out


def test_only_kept_weights_tell_a_constant() -> None:
    drawn, others = networks(0, (2, 4))["layer0"], networks(1, (2, 4))["layer0"]
    first = {"w": drawn, "v": torch.tensor([[1.0, 2, 3, 4], [1, 1, 1, 1]])}
    second = {"w": others, "v": others}
    assert not correlation(first, second, 0.5).left_out
    mask = {"v": torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])}
    assert correlation(first, second, 0.5, mask).left_out == {"v": "has one magnitude alone"}


def test_equal_layers_count_and_r_p_of_a_network_and_itself_is_one() -> None:
    a = networks(0, (4, 6), (5, 3))
    frozen = a | {"layer1": networks(1, (5, 3), (5, 3))["layer1"]}
    overlap = correlation(a, frozen, 0.4)
    assert (overlap.value, overlap.expected) == slow(a, frozen, 0.4)
    assert overlap.per_layer["layer0"].value == 1.0
    for more in ({}, {"head": torch.zeros(3, 3)}, {"a_log": torch.arange(4.0).repeat(2, 1)}):
        assert correlation(a | more, a | more, 0.4).value == 1.0
        model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4)).requires_grad_(False)
        assert correlation(model, model, 0.4).value == 1.0
    nothing_else = {"w": torch.ones(4, 5)}
    assert correlation(nothing_else, nothing_else, 0.4).value == 1.0
    with refused("p", "'w'", "throughout"):
        correlation({"w": torch.zeros(4, 5)}, {"w": torch.randn(4, 5)}, 0.1)


def test_no_matrix_of_a_network_is_taken_for_a_constant() -> None:
    orthogonal = torch.linalg.qr(networks(0, (8, 8))["layer0"])[0]
    turned = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])  # a rotation: each row a sine and a cosine
    a = {"one": torch.tensor([[2.0]]), "row": torch.tensor([[1.0, 2, 3]]), "orthogonal": orthogonal, "turned": turned}
    assert not correlation(a, {name: tensor.flip(0) for name, tensor in a.items()}, 0.5).left_out


@pytest.mark.parametrize("p", [0.1, 0.2, 0.3, 0.4, 0.5, 0.99])
def test_a_network_overlaps_with_itself_and_its_negative_completely(p: float) -> None:
    a = networks(0, (7, 9), (5, 3, 2, 2))
    assert correlation(a, {name: -tensor for name, tensor in a.items()}, p).value == 1.0


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(2, 25), min_size=1, max_size=3),
    p=st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.73]),
    masked=st.booleans(),
    data=st.data(),
)
def test_against_the_slow_version_with_many_ties(sizes: list[int], p: float, masked: bool, data: st.DataObject) -> None:
    def draw(low: int) -> State:
        numbers = st.integers(low, 3).flatmap(lambda v: st.sampled_from([v, -v]))
        return {
            f"l{i}": torch.tensor([data.draw(st.lists(numbers, min_size=n, max_size=n))]).float()
            for i, n in enumerate(sizes)
        }

    a, b = draw(0 if masked else 1), draw(0 if masked else 1)
    bits = {name: torch.tensor(data.draw(st.lists(st.booleans(), min_size=t.numel(), max_size=t.numel())))[None]
            for name, t in a.items()}  # fmt: skip
    mask = bits if masked else None
    counted = sum(round(p * (int(bits[n].sum()) if masked else a[n].numel())) for n in a)
    if not counted:
        with refused("p", "selects no weight"):
            correlation(a, b, p, mask, list(a))
        return
    overlap = correlation(a, b, p, mask, list(a))
    value, chance = slow(a, b, p, mask)
    assert overlap.value == value
    assert overlap.expected == pytest.approx(chance, abs=1e-12)
    assert correlation(b, a, p, mask, list(a)).value == overlap.value


def test_the_chance_level_by_simulation() -> None:
    shapes = ((6, 7), (11, 3), (4, 2))
    values = [correlation(networks(2 * s, *shapes), networks(2 * s + 1, *shapes), 0.3) for s in range(400)]
    mean = sum(map(float, values)) / len(values)
    spread = math.sqrt(sum((float(v) - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    assert abs(mean - values[0].expected) < 4 * spread
    assert spread < 0.01


def test_sparse_against_sparse_counts_only_what_is_kept() -> None:
    mask = Mask({"w": torch.tensor([[1, 0, 1, 0, 1, 1]])})
    a = {"w": torch.tensor([[4.0, 99.0, 3.0, 98.0, 2.0, 1.0]])}
    b = {"w": torch.tensor([[4.0, 0.0, 1.0, 0.0, 3.0, 2.0]])}
    overlap = correlation(a, b, 0.5, mask)
    # n = 4 kept, k = 2: of 4 3 2 1 and 4 1 3 2 the first is common
    assert (overlap.value, overlap.expected) == (0.5, 0.5)
    assert (overlap.per_layer["w"].n, overlap.per_layer["w"].k) == (4, 2)


def test_a_tensor_outside_the_mask_counts_whole() -> None:
    a = {"w": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "v": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    overlap = correlation(a, a, 0.5, Mask({"w": torch.tensor([[1, 1, 0, 0]])}))
    assert {name: layer.n for name, layer in overlap.per_layer.items()} == {"w": 2, "v": 4}


def test_sparse_against_dense_below_the_density_counts_all_weights() -> None:
    sparse = {"w": torch.tensor([[0.0, 5.0, 0.0, 6.0, 0.0, 7.0, 0.0, 8.0, 9.0, 0.0]])}
    dense = {"w": torch.tensor([[9.0, 8.0, 0.1, 7.0, 0.1, 0.1, 0.1, 0.1, 0.2, 0.1]])}
    overlap = correlation(sparse, dense, 0.2)
    assert (overlap.value, overlap.expected, overlap.per_layer["w"].n) == (0.0, 0.2, 10)
    assert correlation(sparse, dense, 0.4).value == 2 / 4  # {8, 7, 5, 3} and {0, 1, 3, 8}


@pytest.mark.parametrize("p", [0.5, 0.6])
@pytest.mark.parametrize("swapped", [False, True])
def test_sparse_against_dense_from_the_density_on_is_refused(p: float, swapped: bool) -> None:
    sparse = {"ok": torch.ones(2, 5), "thin": torch.tensor([[1.0, 0.0, 2.0, 0.0, 3.0, 0.0]])}
    dense = {"ok": torch.ones(2, 5), "thin": torch.ones(1, 6)}
    a, b = (dense, sparse) if swapped else (sparse, dense)
    with refused("p", p, "thin", "0.5", "below"):
        correlation(a, b, p)
    assert correlation(a, b, 0.49).per_layer["thin"].k == 3


def test_a_layer_too_small_for_p_counts_as_nothing() -> None:
    a = {"big": torch.arange(1.0, 21.0).reshape(4, 5), "small": torch.zeros(1, 2)}
    overlap = correlation(a, a, 0.2)
    small = overlap.per_layer["small"]
    assert (overlap.value, overlap.expected) == (1.0, 0.2)
    assert (small.n, small.k) == (2, 0)
    assert math.isnan(small.value)
    assert math.isnan(small.expected)


def test_modules_and_states_and_tied_weights() -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6))
        model[2].weight = model[0].weight
        return model

    first, second = tied(), tied()
    overlap = correlation(first, second, 0.3)
    assert list(overlap.per_layer) == ["0.weight"]
    assert overlap == correlation(first, second.state_dict(), 0.3)
    both = correlation(first.state_dict(), second.state_dict(), 0.3)
    assert list(both.per_layer) == ["0.weight", "2.weight"]


def test_only_shared_floating_tensors_of_two_dimensions_are_compared_unless_named() -> None:
    a = {
        "w": torch.rand(4, 4) + 1,
        "bias": torch.rand(10) + 1,
        "table": torch.ones(3, 3, dtype=torch.int64),
        "mine": torch.rand(3, 3),
    }
    b = {**{name: tensor.clone() for name, tensor in a.items() if name != "mine"}, "yours": torch.rand(3, 3)}
    assert list(correlation(a, b, 0.5).per_layer) == ["w"]
    assert list(correlation(a, b, 0.5, names=["bias"]).per_layer) == ["bias"]


def test_nothing_that_is_given_is_changed() -> None:
    a, b = networks(0, (5, 5)), networks(1, (5, 5))
    copies = [{name: tensor.clone() for name, tensor in state.items()} for state in (a, b)]
    correlation(a, b, 0.3, {"layer0": torch.eye(5)})
    assert torch.equal(a["layer0"], copies[0]["layer0"])
    assert torch.equal(b["layer0"], copies[1]["layer0"])


@pytest.mark.parametrize("p", [0, 1, -0.2, 1.2, float("nan")])
def test_p_must_lie_between_zero_and_one(p: float) -> None:
    with refused("p", "lie"):
        correlation(networks(0, (3, 3)), networks(1, (3, 3)), p)


W = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"w": W}, {"w": W.t()}, ("", "'w'", "(2, 3)", "(3, 2)", "disagree")),
        ({"w": W}, {"w": W.flatten()}, ("", "'w'", "(2, 3)", "(6,)", "disagree")),
        (
            {"v": W, "w": W, "x": W},
            {"v": W, "w": W.t(), "x": W[:1]},
            ("", "'w'", "'x'", "(2, 3)", "(3, 2)", "(1, 3)"),
        ),
        ({"w": W}, {"v": W}, ("", "compare", "w", "v")),
        ({"w": W}, {}, ("", "compare", "no tensor")),
        ({"w": W * torch.nan}, {"w": W}, ("weights", "'w'", "NaN", "infinite")),
        ({"w": W}, {"w": W / 0}, ("weights", "'w'", "NaN", "infinite")),
    ],
)
def test_networks_that_do_not_compare_are_refused(a: State, b: State, message: tuple[str, ...]) -> None:
    with refused(*message):
        correlation(a, b, 0.5)


def test_unknown_names_and_masks_that_do_not_fit_are_refused() -> None:
    state = {"fc.weight": W}
    with refused("names", "fc.wieght", "fc.weight"):
        correlation(state, state, 0.5, names=["fc.wieght"])
    with refused("mask", "fc.wieght", "fc.weight"):
        correlation(state, state, 0.5, {"fc.wieght": W})
    with refused("mask", "fc.weight", "(3, 2)", "(2, 3)", "shape"):
        correlation(state, state, 0.5, {"fc.weight": W.t()})


def test_p_that_selects_nothing_anywhere_is_refused() -> None:
    with refused("p", "0.1", "selects"):
        correlation({"w": torch.ones(1, 3)}, {"w": torch.ones(1, 3)}, 0.1)
