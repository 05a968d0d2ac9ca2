"""The control `mixed`: a start between θ0 and θ0', what becomes of the distribution, and arms with settings."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from prunetune.analysis.recommend import recommend
from prunetune.plan.compile import Plan, plan
from prunetune.report.figures.accuracy import arm_order, arm_roles
from prunetune.report.figures.plot_primitives import SHAPES
from prunetune.report.figures.style import COLOURS
from prunetune.rows import Trial
from prunetune.spec.load import load_spec
from prunetune.spec.study_fields import ArmSpec
from prunetune.steps.arms import ARMS, Arm
from prunetune.steps.steps import DenseStates, Train, Transform, Weights, describe
from prunetune.steps.transforms import TRANSFORMS
from tests.support.study_specs import spec

ALPHAS = [0.25, 0.5, 0.75]
MIXES = [{"kind": "mixed", "alpha": alpha} for alpha in (0, *ALPHAS, 1)]


def planned(**fields: Any) -> Plan:
    return plan(load_spec(spec(sparsities=[0.5], learning_rates=[0.1], **fields)))


def steps_by_arm(made: Plan) -> dict[str, Train]:
    return {t.arm: t.step for t in made.trials if isinstance(t.step, Train)}


def mix(own: dict[str, Tensor], other: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    return TRANSFORMS["mixed"](own, {}, Generator(), other, alpha=alpha)


# --- the transform ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ALPHAS)
def test_every_entry_that_was_drawn_is_mixed_and_no_other(alpha: float) -> None:
    """Entry by entry, in plain floats."""
    own = {"w": torch.randn(3, 4), "b": torch.rand(3), "scale": torch.ones(3), "count": torch.tensor(3)}
    other = {"w": torch.randn(3, 4), "b": torch.rand(3), "scale": torch.ones(3), "count": torch.tensor(5)}
    other["w"][0, 0] = own["w"][0, 0]
    before = {name: tensor.clone() for name, tensor in own.items()}
    new = mix(own, other, alpha)
    for name in ("w", "b", "scale"):
        for got, mine, theirs in zip(*(state[name].flatten().tolist() for state in (new, own, other)), strict=True):
            expected = mine if mine == theirs else alpha * theirs + math.sqrt(1 - alpha**2) * mine
            assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert new["count"].item() == 3
    assert torch.equal(new["scale"], torch.ones(3))
    for tensor in new.values():
        tensor.zero_()
    assert all(torch.equal(own[name], before[name]) for name in before)


def distance_by_hand(alpha: float) -> float:
    """The distance of αU + √(1 − α²)U', a trapezoid, from U, all of them uniform on [−1, 1].

    With half-widths a ≤ b the tail above x is (a + b − x)²/(8ab) from b − a on; the uniform's is (1 − x)/2 up to 1.
    The difference is extreme at x = 1 and where both densities meet, at a + b − 2ab.
    """
    a, b = sorted((alpha, math.sqrt(1 - alpha**2)))
    return max(abs((a + b - x) ** 2 / (8 * a * b) - (1 - x) / 2) for x in (1.0, a + b - 2 * a * b))


@pytest.mark.parametrize(("alpha", "distance"), [(0.25, 0.0245), (0.5, 0.0387), (0.75, 0.0427)])
def test_of_two_uniform_draws_mean_and_variance_stay_and_the_shape_does_not(alpha: float, distance: float) -> None:
    assert distance_by_hand(alpha) == pytest.approx(distance, abs=2e-4)
    assert distance_by_hand(math.sqrt(0.5)) == pytest.approx(0.0429, abs=1e-4)  # the most there is
    generator = torch.Generator().manual_seed(0)
    own, other = ({"w": 2 * torch.rand(500, 400, generator=generator) - 1} for _ in range(2))
    values = mix(own, other, alpha)["w"].flatten().double().numpy()
    assert values.mean() == pytest.approx(0, abs=0.005)
    assert values.var() == pytest.approx(1 / 3, rel=0.01)
    assert stats.kstest(values, stats.uniform(-1, 2).cdf).statistic == pytest.approx(distance, abs=0.004)
    assert 1 < abs(values).max() <= math.sqrt(2)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_normal_draws_stay_normal_and_the_correlation_is_alpha(alpha: float) -> None:
    generator = torch.Generator().manual_seed(1)
    own, other = ({"w": torch.randn(500, 400, generator=generator)} for _ in range(2))
    new = mix(own, other, alpha)["w"].flatten()
    assert stats.kstest(new.double().numpy(), "norm").statistic < 0.005
    for state, expected in ((other, alpha), (own, math.sqrt(1 - alpha**2))):
        found = torch.corrcoef(torch.stack([new, state["w"].flatten()]))[0, 1].item()
        assert found == pytest.approx(expected, abs=0.008)


# --- the arm ----------------------------------------------------------------------------------------------------


def test_the_ends_are_the_very_steps_of_reinit_and_ticket() -> None:
    by_arm = steps_by_arm(planned(arms=["ticket", "reinit", *MIXES]))
    assert by_arm["mixed(0)"].key == by_arm["reinit"].key
    assert by_arm["mixed(1)"].key == by_arm["ticket"].key
    assert len({step.key for step in by_arm.values()}) == 1 + 2 + len(ALPHAS)
    assert planned(arms=["ticket", "reinit", *MIXES]).trainings == 1 + 2 + len(ALPHAS)


def test_it_starts_from_the_second_draw_and_reads_the_first() -> None:
    by_arm = steps_by_arm(planned(arms=["ticket", "reinit", *MIXES]))
    ticket, half = by_arm["ticket"], by_arm["mixed(0.5)"]
    transform = Transform("mixed", 0, ticket.start, '{"alpha": 0.5}')
    assert half.start == Weights(by_arm["reinit"].start.step, None, transform)
    assert half.mask == ticket.mask
    assert {ticket.start.step, by_arm["reinit"].start.step} < set(half.parents)
    described = describe(half)["start"]["transform"]
    assert described["arguments"] == '{"alpha": 0.5}'
    assert described["name"] == "mixed"


def test_it_is_a_control_and_only_adds_to_a_study() -> None:
    loaded = load_spec(spec(arms=["ticket", *MIXES]))
    assert {name for name, arm in loaded.named_arms.items() if arm.control} == {f"mixed({a['alpha']:g})" for a in MIXES}
    assert all(arm.shares_mask for arm in loaded.named_arms.values())
    before, after = planned(), planned(arms=["ticket", "reinit", "rewind", "finetune", *MIXES])
    assert {step.key for step in before.steps} < {step.key for step in after.steps}


def test_the_resolved_spec_gives_the_same_plan_again() -> None:
    given = load_spec(spec(arms=["ticket", {"kind": "reinit"}, *MIXES], sparsities=[0.5], connectivity=["mixed(0.5)"]))
    resolved = given.resolved()
    assert resolved["arms"][:3] == ["ticket", "reinit", {"kind": "mixed", "alpha": 0.0}]
    again = load_spec(resolved)
    assert again.resolved() == resolved
    assert [step.key for step in plan(again).steps] == [step.key for step in plan(given).steps]


def test_arms_may_be_set_on_the_command_line() -> None:
    loaded = load_spec(spec(), ["arms=[ticket, {kind: mixed, alpha: 0.3333333333}]"])
    assert list(loaded.named_arms) == ["ticket", "mixed(0.333333)"]
    assert loaded.arms[1].settings == {"alpha": 0.3333333333}


def test_an_arm_of_ones_own_with_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Chosen:
        which: str = "theta_t"
        times: int = 1
        control: ClassVar[bool] = False

        def start(self, states: DenseStates) -> Weights:
            return getattr(states, self.which)

    _ = list(ARMS)
    monkeypatch.setitem(ARMS._items, "chosen", Chosen)
    entries = ["chosen", {"kind": "chosen", "which": "theta_0"}, "ticket", "finetune"]
    by_arm = steps_by_arm(planned(arms=entries))
    assert by_arm["chosen(theta_t,1)"].key == by_arm["finetune"].key
    assert by_arm["chosen(theta_0,1)"].key == by_arm["ticket"].key
    assert ArmSpec.model_validate("chosen").resolved() == {"kind": "chosen", "which": "theta_t", "times": 1}


@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_is_a_control_or_not_and_says_what_it_is(name: str) -> None:
    """The contract: a plain arm has its own name; one with settings is a frozen dataclass."""
    arm = ARMS[name]
    assert isinstance(arm.control, bool)
    if isinstance(arm, Arm):
        assert (arm.name, ArmSpec(kind=name).label, ArmSpec(kind=name).resolved()) == (name, name, name)
    else:
        assert arm.__dataclass_params__.frozen  # type: ignore[attr-defined]


# --- in reports -------------------------------------------------------------------------------------------------


def test_mixes_stand_in_the_order_of_alpha_each_with_a_colour() -> None:
    labels = ["mixed(1)", "mixed(0.25)", "mixed(1e-05)", "sign_reinit", "mixed(0.5)", "ticket", "mixed(0.75)"]
    assert arm_order(labels) == [
        *("ticket", "mixed(1e-05)", "mixed(0.25)", "mixed(0.5)", "mixed(0.75)", "mixed(1)", "sign_reinit")
    ]
    roles = [*arm_roles(f"mixed({alpha:g})" for alpha in ALPHAS).values()]
    assert len(set(roles)) == 3
    assert set(roles) <= SHAPES.keys() & COLOURS.keys()
    assert arm_roles(["mixed"]) == {"mixed": "other-1"}


def test_a_mix_is_never_recommended() -> None:
    def trial(arm: str, accuracy: float, seed: int) -> Trial:
        mask, sparsity = (None, 0.0) if arm == "dense" else ("iterative", 0.5)
        return Trial(
            key=f"{arm}{seed}",
            arm=arm,
            mask=mask,
            learning_rate=0.1,
            sparsity=sparsity,
            density=1 - sparsity,
            seed=seed,
            epochs=1,
            steps=1,
            test_accuracy=accuracy + seed / 10,
            test_loss=1.0,
            diverged=False,
            cached=False,
            seconds=1.0,
            start_digest="",
            mask_digest=None,
            data_order_digest="",
        )

    loaded = load_spec(spec(arms=["ticket", "reinit", *MIXES]))
    controls = tuple(name for name, arm in loaded.named_arms.items() if arm.control)
    best = {"dense": 80, "ticket": 70, "reinit": 60, "mixed(0.5)": 90}
    trials = [trial(arm, accuracy, seed) for arm, accuracy in best.items() for seed in range(3)]
    (row,) = recommend(trials, loaded_rule(loaded), controls=controls)
    assert row.arm == "ticket"


def loaded_rule(loaded: Any) -> Any:
    from prunetune.analysis.statistics import Rule

    return Rule.of(loaded.resolved())
