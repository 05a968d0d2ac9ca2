"""Arguments of a criterion: read from a spec, in label, resolved spec and key, and in force where masks are made."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from prunetune.errors import ConfigError
from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan, plan
from prunetune.sparsity.criteria import CRITERIA, Evidence, Grasp, SynFlow
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Prune, Train, describe
from prunetune.store.store import Store
from tests.support.refusals import refused


@dataclass(frozen=True)
class Near:
    """A user's: the weights whose magnitude is nearest to `centre`, those of the other sign `apart` further away."""

    centre: float = 0.0
    sign: Literal["both", "positive"] = "both"
    apart: int = 0
    tags: list[str] = field(default_factory=list)

    needs: ClassVar[frozenset[str]] = frozenset({"weight"})

    def __post_init__(self) -> None:
        if self.apart < 0:
            raise ValueError("apart must not be negative")

    def score(self, evidence: Evidence) -> Tensor:
        distance = (evidence.weight.abs() - self.centre).abs()
        return -(distance + self.apart * (evidence.weight < 0) if self.sign == "positive" else distance)


@dataclass(frozen=True)
class Steep:
    """A user's, with a field that has no default."""

    power: float

    needs: ClassVar[frozenset[str]] = frozenset({"weight", "grad"})

    def score(self, evidence: Evidence) -> Tensor:
        assert evidence.grad is not None
        return evidence.grad.abs() ** self.power


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        CRITERIA, "_items", {**{name: CRITERIA[name] for name in CRITERIA}, "near": Near, "steep": Steep}
    )


def study(*criteria: Any, **changes: Any) -> Plan:
    fields = {
        "model": "tests.support.toy_study:net",
        "data": "tests.support.toy_study:images",
        "recipe": {"epochs": 1, "batch_size": 16, "schedule": {"kind": "constant"}},
        "learning_rates": [0.05],
        "masks": [{"kind": "one_shot", "criterion": criterion, **changes} for criterion in criteria],
        "sparsities": [0.5],
        "arms": ["ticket"],
        "seeds": 1,
    }
    return plan(load_spec(fields))


def masks(made: Plan) -> dict[str, Prune]:
    return {
        str(row.mask): row.step.mask for row in made.trials if isinstance(row.step, Train) and row.step.mask is not None
    }


@pytest.mark.parametrize(
    ("criterion", "label", "arguments"),
    [
        ("synflow", "one_shot-synflow", {"rounds": 100}),
        ({"name": "synflow"}, "one_shot-synflow", {"rounds": 100}),
        ({"name": "synflow", "rounds": 100}, "one_shot-synflow", {"rounds": 100}),
        ({"name": "synflow", "rounds": 50}, "one_shot-synflow-rounds=50", {"rounds": 50}),
        ("grasp", "one_shot-grasp", {"temperature": 200.0}),
        ({"name": "grasp", "temperature": 200}, "one_shot-grasp", {"temperature": 200.0}),
        ({"name": "grasp", "temperature": 1}, "one_shot-grasp-temperature=1.0", {"temperature": 1.0}),
        ("magnitude", "one_shot", {}),
        ({"name": "magnitude"}, "one_shot", {}),
        ("near", "one_shot-near", {"centre": 0.0, "sign": "both", "apart": 0, "tags": []}),
        (
            {"name": "near", "sign": "positive", "apart": 2, "centre": 0.5},
            "one_shot-near-apart=2-centre=0.5-sign=positive",
            {"centre": 0.5, "sign": "positive", "apart": 2, "tags": []},
        ),
        ({"name": "steep", "power": 1.0}, "one_shot-steep-power=1.0", {"power": 1.0}),
    ],
    ids=str,
)
def test_arguments_are_in_the_label_the_resolved_spec_and_the_key(
    criterion: Any, label: str, arguments: dict[str, Any]
) -> None:
    made = study(criterion)
    ((found, step),) = masks(made).items()
    assert found == label
    name = criterion if isinstance(criterion, str) else criterion["name"]
    told = describe(step)["criterion"]
    assert (told["name"], told["digest"], json.loads(told["arguments"])) == (name, "", arguments)
    resolved = json.loads(json.dumps(made.spec.resolved(), allow_nan=False))
    assert resolved["masks"][0]["criterion"] == ({"name": name, **arguments} if arguments else name)
    again = plan(load_spec(resolved))
    assert again.steps == made.steps
    assert [row.mask for row in again.trials] == [row.mask for row in made.trials]


def test_defaults_written_out_keep_the_key_and_other_values_change_it() -> None:
    written: list[list[Any]] = [
        ["synflow", {"name": "synflow", "rounds": 100}],
        [{"name": "synflow", "rounds": 50}],
        ["grasp", {"name": "grasp", "temperature": 200}],
        [{"name": "grasp", "temperature": 100}],
        ["near", {"name": "near", "apart": 0, "tags": []}],
        [{"name": "near", "apart": 1}],
    ]
    keys = [{step.key for each in same for step in masks(study(each)).values()} for same in written]
    assert [len(same) for same in keys] == [1] * 6
    assert len(set.union(*keys)) == 6


def test_keys_of_criteria_by_name_are_what_they_were() -> None:
    """Of a study on the embedded data, from before a spec could give arguments."""
    entries = [{"kind": "one_shot", "criterion": name} for name in GOLDEN]
    fields = {"model": "small", "data": "fashion-mini", "recipe": {"epochs": 6, "batch_size": 64}, "seeds": 1}
    rest = {"sparsities": [0.5], "learning_rates": [0.1], "arms": ["ticket"], "masks": entries}
    steps = masks(plan(load_spec({**fields, **rest}))).values()
    assert {step.criterion.name: step.key[:16] for step in steps} == GOLDEN


GOLDEN = {
    "synflow": "f882b54d128ba34c",
    "grasp": "1b70d0321abe17a3",
    "taylor": "8a2f013014f1d60b",
    "magnitude": "5316df017e1621d2",
    "random": "94a12ce624b81700",
}


@pytest.mark.parametrize(
    ("criterion", "line"),
    [
        ({"name": "synflow", "round": 50}, "masks.0.criterion.round: unknown 'round'; did you mean 'rounds'?"),
        ({"name": "magnitude", "rounds": 50}, "masks.0.criterion.rounds: unknown 'rounds'; known: name"),
        ({"name": "near", "center": 1}, "masks.0.criterion.center: unknown 'center'; did you mean 'centre'?"),
        ({"name": "near", "needs": []}, "masks.0.criterion.needs: unknown 'needs'; "),
        ({"name": "synflow", "rounds": 0}, "masks.0.criterion.rounds: 0; must be at least 1"),
        ({"name": "synflow", "rounds": 2.5}, "masks.0.criterion.rounds: 2.5; must be a whole number"),
        ({"name": "synflow", "rounds": True}, "masks.0.criterion.rounds: True; must be a whole number"),
        ({"name": "synflow", "rounds": "50"}, "masks.0.criterion.rounds: '50'; must be a whole number"),
        ({"name": "synflow", "rounds": None}, "masks.0.criterion.rounds: None; must be a whole number"),
        ({"name": "grasp", "temperature": 0}, "masks.0.criterion.temperature: 0.0; must be a number above 0"),
        (
            {"name": "grasp", "temperature": float("inf")},
            "masks.0.criterion.temperature: inf; must be a number above",
        ),
        ({"name": "near", "centre": float("nan")}, "masks.0.criterion.centre: nan; must be a finite number"),
        ({"name": "near", "sign": "minus"}, "masks.0.criterion.sign: 'minus'; must be 'both' or 'positive'"),
        ({"name": "near", "apart": -1}, "masks.0.criterion: {'apart': -1}; apart must not be negative"),
        ({"name": "near", "apart": 1.5, "centre": "x"}, "masks.0.criterion.centre: 'x'; must be a number (and 1 more)"),
        ({"name": "near", "tags": 3}, "masks.0.criterion.tags: 3; must be a list, such as [a, b]"),
        ("steep", "masks.0.criterion.power: missing; it has no default"),
        ({"name": "synflo", "rounds": 5}, "masks.0.criterion: unknown 'synflo'; did you mean 'synflow'?"),
        ("synflo", "masks.0.criterion: unknown 'synflo'; did you mean 'synflow'?"),
        (
            {"rounds": 5},
            "masks.0.criterion: {'rounds': 5}; must be a criterion (grasp, magnitude, near, random, ",
        ),
        ({"name": ["snip"]}, "masks.0.criterion: {'name': ['snip']}; must be a criterion ("),
        (3, "masks.0.criterion: 3; must be a criterion ("),
        (None, "masks.0.criterion: None; must be a criterion ("),
        (["snip"], "masks.0.criterion: ['snip']; must be a criterion ("),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(criterion: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study(criterion)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_an_argument_beside_the_criterion_is_sent_into_it() -> None:
    with refused("masks.0.rounds", "one_shot", "criterion.rounds"):
        study("synflow", rounds=50)


def test_two_settings_of_one_criterion_are_two_masks() -> None:
    made = study({"name": "synflow", "rounds": 2}, "synflow", {"name": "synflow", "rounds": 3})
    assert list(masks(made)) == ["one_shot-synflow-rounds=2", "one_shot-synflow", "one_shot-synflow-rounds=3"]
    with refused("masks.1", "one_shot-synflow", "0", "name"):
        study("synflow", {"name": "synflow", "rounds": 100})


def test_a_criterion_that_reads_gradients_is_shown_images_whatever_its_arguments() -> None:
    (step,) = masks(study({"name": "steep", "power": 2.0}, probe=12)).values()
    assert step.probe is not None
    assert step.probe.images == 12
    with refused("masks.0.probe", "near", "12", "looks"):
        study({"name": "near", "centre": 1.0}, probe=12)


def test_a_users_argument_is_in_force_where_the_mask_is_made(store: Store) -> None:
    made = study("near", {"name": "near", "centre": 0.1, "sign": "positive", "apart": 9})
    for step in made.steps:
        execute(step, store, made.snapshots.get(step.key, frozenset()))
    plain, moved = masks(made).values()
    state = store.state(plain.source.step.key)
    for name in ("3.weight", "6.weight"):
        weight = state[name].flatten().tolist()
        smallest = sorted(range(len(weight)), key=lambda i: abs(weight[i]))[: len(weight) // 2]
        near = sorted(range(len(weight)), key=lambda i: (weight[i] < 0, abs(abs(weight[i]) - 0.1)))[: len(weight) // 2]
        for step, places in ((plain, smallest), (moved, near)):
            assert store.mask(step.key)[name].flatten().nonzero().flatten().tolist() == sorted(places)


@pytest.mark.parametrize("rounds", [1, 4])
def test_synflow_scores_each_of_its_rounds(rounds: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[torch.Size] = []
    score = SynFlow.score

    def counted(self: SynFlow, evidence: Evidence) -> Tensor:
        scored.append(evidence.weight.shape)
        return score(self, evidence)

    monkeypatch.setattr(SynFlow, "score", counted)
    made = study({"name": "synflow", "rounds": rounds}, allocation="global")
    (step,) = masks(made).values()
    for each in (*step.parents, step):
        execute(each, store)
    assert scored == [(4, 4, 3, 3), (3, 64)] * rounds


def test_the_criteria_check_their_own_arguments() -> None:
    assert asdict(SynFlow()) == {"rounds": 100}
    assert asdict(Grasp()) == {"temperature": 200.0}
    with refused("rounds", "10,000", "-1", "1", "least"):
        SynFlow(rounds=-1)
    with refused("temperature", "0", "nan"):
        Grasp(temperature=float("nan"))
