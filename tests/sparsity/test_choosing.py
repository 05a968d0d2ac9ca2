"""Contracts that every registered criterion, allocation and pattern meets, and worked cases of choosing."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunetune.sparsity.allocation import ALLOCATIONS
from prunetune.sparsity.criteria import CRITERIA, Criterion, Evidence, Magnitude, Random
from prunetune.sparsity.gradients import Gathered
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_state import digest_tensors
from prunetune.sparsity.patterns import CHANNEL, PATTERNS
from prunetune.sparsity.prune import choose, compute_mask
from prunetune.sparsity.scope import Scope
from tests.support.refusals import refused

SELECTING = [name for name in PATTERNS if name != CHANNEL]  # whole channels have a contract of their own: test_channels
DENSITIES = [0.07, 0.2, 0.5, 0.75, 1.0]


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"z.weight": (8, 4, 2, 2), "a.weight": (12, 16), "m.weight": (4, 4)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def evidence(weight: Tensor, seed: int = 0) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    gathered = [torch.randn(weight.shape) for _ in range(3)]
    return Evidence(weight, torch.randn(weight.shape), torch.rand(weight.shape[1]), generator, *gathered)


def gather_evidence(criterion: Criterion, mask: Mask | None) -> Gathered:
    """Draws in place of what is gathered of a network, the same for the same layer."""
    needs = sorted(criterion.needs - {"weight"})
    return {name: {need: weights(len(need))[name] for need in needs} for name in weights()}


def at(pattern: str, density: float) -> float:
    """The density to ask for: this one, unless the pattern fixes it."""
    return getattr(PATTERNS[pattern], "density", density)


def total(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize("name", list(CRITERIA))
class TestEveryCriterion:
    def test_says_what_it_needs_and_is_a_frozen_value(self, name: str) -> None:
        assert CRITERIA[name].needs <= {field.name for field in fields(Evidence)} - {"generator"}
        assert CRITERIA[name]() == CRITERIA[name]()
        assert len({CRITERIA[name](), CRITERIA[name]()}) == 1

    @pytest.mark.parametrize("shape", [(6, 5), (4, 3, 2, 2), (1, 1)])
    def test_scores_are_finite_and_of_the_weights_shape(self, name: str, shape: tuple[int, ...]) -> None:
        score = CRITERIA[name]().score(evidence(torch.randn(shape)))
        assert score.shape == shape
        assert score.isfinite().all()

    def test_equal_evidence_gives_equal_scores(self, name: str) -> None:
        torch.manual_seed(0)
        first = evidence(torch.randn(9, 9))
        second = replace(first, generator=torch.Generator().manual_seed(0))
        assert torch.equal(CRITERIA[name]().score(first), CRITERIA[name]().score(second))

    def test_what_it_looks_at_is_left_alone(self, name: str) -> None:
        shown = evidence(torch.randn(5, 5))
        tensors = {field: t for field, t in vars(shown).items() if isinstance(t, Tensor)}
        before = digest_tensors(tensors)
        CRITERIA[name]().score(shown).fill_(-1)
        assert digest_tensors(tensors) == before


@pytest.mark.parametrize("name", list(ALLOCATIONS))
class TestEveryAllocation:
    @pytest.mark.parametrize("density", DENSITIES)
    def test_counts_fit_the_layers_and_their_total(self, name: str, density: float) -> None:
        scores = {layer: tensor.abs() for layer, tensor in weights().items()}
        counts = ALLOCATIONS[name](scores, density)
        assert counts.keys() == scores.keys()
        assert all(type(counts[layer]) is int and 0 <= counts[layer] <= scores[layer].numel() for layer in scores)
        assert abs(sum(counts.values()) - density * total(scores)) <= 0.5 * len(scores)

    def test_counts_do_not_hang_on_the_order_of_layers(self, name: str) -> None:
        scores = {layer: tensor.round().abs() for layer, tensor in weights().items()}
        backwards = dict(reversed(scores.items()))
        assert dict(ALLOCATIONS[name](scores, 0.3)) == dict(ALLOCATIONS[name](backwards, 0.3))

    def test_scores_are_left_alone(self, name: str) -> None:
        scores = {layer: tensor.abs() for layer, tensor in weights().items()}
        before = digest_tensors(scores)
        ALLOCATIONS[name](scores, 0.3)
        assert digest_tensors(scores) == before


@pytest.mark.parametrize("name", SELECTING)
class TestEveryPattern:
    def test_keeps_exactly_the_counts(self, name: str) -> None:
        scores = {layer: tensor.abs() for layer, tensor in weights().items()}
        counts = {layer: round(at(name, 0.5) * score.numel()) for layer, score in scores.items()}
        mask = PATTERNS[name](scores, counts)
        assert {layer: int(bits.sum()) for layer, bits in mask.items()} == counts
        assert {layer: bits.shape for layer, bits in mask.items()} == {layer: s.shape for layer, s in scores.items()}

    def test_is_decided_even_when_all_scores_are_equal(self, name: str) -> None:
        scores = {layer: torch.zeros_like(tensor) for layer, tensor in weights().items()}
        counts = {layer: round(at(name, 0.5) * score.numel()) for layer, score in scores.items()}
        assert PATTERNS[name](scores, counts) == PATTERNS[name](dict(reversed(scores.items())), counts)


# A pattern that fixes the density of every layer leaves nothing to another allocation than the uniform one.
EVERY = [(c, a, p) for c in CRITERIA for a in ALLOCATIONS for p in SELECTING if a == "uniform" or at(p, 0.123) == 0.123]


@pytest.mark.parametrize(("criterion", "allocation", "pattern"), EVERY)
class TestEveryCombination:
    def test_the_same_mask_for_the_same_seed_in_any_order(self, criterion: str, allocation: str, pattern: str) -> None:
        def run(tensors: dict[str, Tensor], seed: int) -> Mask:
            generator = torch.Generator().manual_seed(seed)
            return choose(
                tensors,
                at(pattern, 0.3),
                CRITERIA[criterion](),
                allocation=allocation,
                pattern=pattern,
                generator=generator,
                gather_evidence=gather_evidence,
            )

        backwards = dict(reversed(weights().items()))
        assert run(weights(), 3) == run(backwards, 3)
        assert list(run(backwards, 3)) == list(backwards)

    def test_only_survivors_are_kept(self, criterion: str, allocation: str, pattern: str) -> None:
        generator = torch.Generator().manual_seed(0)
        tensors = weights()
        rule = {
            "allocation": allocation,
            "pattern": pattern,
            "generator": generator,
            "gather_evidence": gather_evidence,
        }
        parent = choose(tensors, at(pattern, 0.5), CRITERIA[criterion](), **rule)
        # Fresh weights, so that the best ones are mostly not survivors.
        mask = choose(weights(1), at(pattern, 0.2), CRITERIA[criterion](), parent_mask=parent, **rule)
        assert all(not (mask[name] & ~parent[name]).any() for name in tensors)
        assert abs(mask.kept - at(pattern, 0.2) * total(tensors)) <= 0.5 * len(tensors)

    def test_prune_changes_nothing(self, criterion: str, allocation: str, pattern: str) -> None:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 8))
        before, buffers = digest_tensors(model.state_dict()), list(dict(model.named_buffers()))
        batches = [(torch.randn(8, 1, 6, 6), torch.arange(8))]
        mask = compute_mask(model, 1 - at(pattern, 0.25), criterion, allocation, pattern, batches=batches)
        assert digest_tensors(model.state_dict()) == before
        assert list(dict(model.named_buffers())) == buffers
        assert set(mask) == {"2.weight", "4.weight"}
        assert (mask.kept, mask.total) == (at(pattern, 0.25) * (144 + 128), 144 + 128)


def sorted_globally(tensors: dict[str, Tensor], density: float) -> dict[str, list[int]]:
    """Every (score, name, index) in one sorted list: the obvious global threshold."""
    rows = [(-abs(v), name, i) for name, t in tensors.items() for i, v in enumerate(t.flatten().tolist())]
    kept = sorted(rows)[: round(density * len(rows))]
    return {name: sorted(i for _, layer, i in kept if layer == name) for name in tensors}


@settings(deadline=None)
@given(
    layers=st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=12), min_size=1, max_size=4),
    density=st.floats(0.05, 1.0),
)
def test_global_magnitude_against_one_sorted_list(layers: list[list[int]], density: float) -> None:
    tensors = {f"l{len(layers) - i}": torch.tensor(values).float() for i, values in enumerate(layers)}
    mask = choose(tensors, density, Magnitude(), allocation="global")
    assert {name: bits.nonzero().flatten().tolist() for name, bits in mask.items()} == sorted_globally(tensors, density)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.875, 0.9375])
def test_uniform_keeps_the_rounded_share_of_each_layer(sparsity: float) -> None:
    model = nn.Sequential(nn.Linear(7, 9), nn.Linear(9, 13), nn.Linear(13, 3))
    mask = compute_mask(model, sparsity)
    for name, n in {"0.weight": 63, "1.weight": 117, "2.weight": 39}.items():
        assert int(mask[name].sum()) == round((1 - sparsity) * n)
        magnitudes = model.get_parameter(name).detach().abs()
        assert magnitudes[mask[name]].min() >= magnitudes[~mask[name]].max()


def test_rounds_count_from_the_original_number_of_weights() -> None:
    tensors = weights()
    half = choose(tensors, 0.5, Magnitude())
    quarter = choose(tensors, 0.25, Magnitude(), parent_mask=half)
    assert quarter == choose(tensors, 0.25, Magnitude())
    assert quarter.kept == 128 // 4 + 192 // 4 + 16 // 4


def test_a_survivor_of_score_zero_comes_before_the_best_of_the_dead() -> None:
    within = Mask({"w": torch.tensor([False, True, False, True])})
    mask = choose({"w": torch.tensor([9.0, 0.0, 8.0, 0.0])}, 0.25, Magnitude(), parent_mask=within)
    assert mask["w"].tolist() == [False, True, False, False]


def test_random_follows_the_generator_and_not_the_global_one() -> None:
    def run(seed: int) -> Mask:
        torch.manual_seed(seed)
        return choose(weights(), 0.3, Random(), generator=torch.Generator().manual_seed(5))

    assert run(0) == run(1)
    other = choose(weights(), 0.3, Random(), generator=torch.Generator().manual_seed(6))
    assert other != run(0)


def test_random_keeps_every_position_equally_often() -> None:
    generator = torch.Generator().manual_seed(0)
    kept = sum(choose({"w": torch.zeros(10)}, 0.3, Random(), generator=generator)["w"].int() for _ in range(2000))
    # 2000 draws of Bernoulli(0.3): standard deviation 20.5; five of them
    assert isinstance(kept, Tensor)
    assert (kept - 600).abs().max() < 103


def test_random_scores_do_not_tie() -> None:
    score = Random().score(Evidence(torch.zeros(300, 300), generator=torch.Generator().manual_seed(0)))
    assert score.unique().numel() == 90_000  # of single-precision draws, hundreds would be equal


def test_prune_draws_from_the_global_generator() -> None:
    model = nn.Linear(20, 20)
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(compute_mask(model, 0.5, "random"))
    assert masks[0] == masks[1] != masks[2]


def test_prune_takes_a_criterion_of_the_callers_and_a_scope() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    mask = compute_mask(model, 0.5, Magnitude(), scope=Scope(exclude=("1.*",)))
    assert list(mask) == ["0.weight"]


@dataclass(frozen=True)
class Broken:
    scores: Any
    needs: ClassVar[frozenset[str]] = frozenset({"weight"})

    def score(self, evidence: Evidence) -> Tensor:
        return self.scores


@dataclass(frozen=True)
class Greedy:
    needs: ClassVar[frozenset[str]] = frozenset({"weight", "grad"})

    def score(self, evidence: Evidence) -> Tensor:
        return evidence.weight


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (Broken(torch.tensor([1.0, torch.nan])), ("criterion", "'w'", "NaN", "Broken")),
        (Broken(torch.tensor([1.0, torch.inf])), ("criterion", "'w'", "NaN", "Broken")),
        (Broken(torch.ones(3)), ("criterion", "'w'", "(3,)", "(2,)", "Broken")),
        (Greedy(), ("criterion", "Greedy needs grad")),
    ],
)
def test_a_criterion_that_fails_its_contract_is_named(criterion: Criterion, message: tuple[str, ...]) -> None:
    with refused(*message):
        choose({"w": torch.ones(2)}, 0.5, criterion)


@pytest.mark.parametrize("sparsity", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_sparsity_must_lie_between_zero_and_one(sparsity: float) -> None:
    with refused("sparsity", "lie"):
        compute_mask(nn.Linear(2, 2), sparsity)


@pytest.mark.parametrize("density", [0.0, -1.0, 1.01, float("nan")])
def test_density_must_lie_above_zero(density: float) -> None:
    with refused("density", "lie"):
        choose(weights(), density, Magnitude())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"criterion": "magnitud"}, ("criterion", "magnitud", "magnitude")),
        ({"allocation": "unifrom"}, ("allocation", "unifrom", "uniform")),
        ({"pattern": "unstructred"}, ("pattern", "unstructred", "unstructured")),
    ],
)
def test_unknown_names_get_the_nearest_one(asked: dict[str, Any], message: tuple[str, ...]) -> None:
    with refused(*message):
        compute_mask(nn.Linear(2, 2), 0.5, **asked)


def test_more_than_survive_cannot_be_kept() -> None:
    within = choose(weights(), 0.25, Magnitude())
    with refused("density", "a.weight", "96", "48", "survive"):
        choose(weights(), 0.5, Magnitude(), parent_mask=within)


def test_within_must_fit_the_weights() -> None:
    with refused("parent_mask", "a.weight", "b.weight"):
        choose(
            {"a.weight": torch.ones(2)}, 0.5, Magnitude(), parent_mask=Mask({"b.weight": torch.tensor([True, True])})
        )
    with refused("parent_mask", "'w'", "(2,)", "(3,)", "shape"):
        choose({"w": torch.ones(3)}, 0.5, Magnitude(), parent_mask=Mask({"w": torch.tensor([True, True])}))


def test_a_diverged_or_bare_model_is_refused() -> None:
    model = nn.Linear(2, 2)
    diverged = deepcopy(model)
    nn.init.constant_(diverged.weight, torch.nan)
    with refused("criterion", "weight", "NaN", "infinite"):
        compute_mask(diverged, 0.5)
    with refused("scope", "nothing is prunable"):
        compute_mask(nn.BatchNorm1d(2), 0.5)
