"""Where a wider default scope, or more channels, change a mask, its key changes too, and no other key does."""

from dataclasses import replace
from typing import Any

import pytest

from prunetune.plan.compile import Plan, plan
from prunetune.sparsity.scope import Scope
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Measure, Prune, Step, Train
from tests.support.study_specs import spec

pytest.importorskip("torch_pruning", reason="needs the extra prunetune[channels]")


def planned(net: str, pattern: str = "unstructured", **fields: Any) -> Plan:
    masks = [{"kind": "one_shot", "pattern": pattern}, {"kind": "admm"}]
    given: dict[str, Any] = {"sparsities": [0.5], "learning_rates": [0.1], "masks": masks[: 1 + (pattern[0] == "u")]}
    return plan(load_spec(spec(model=f"tests.support.attention_nets:{net}", model_args={}, **given, **fields)))


def of_kind(made: Plan, kind: type[Step]) -> list[Any]:
    return [step for step in made.steps if isinstance(step, kind)]


@pytest.mark.parametrize(
    ("net", "include", "exclude", "written"),
    [
        ("convolutions", [], [], ()),
        ("rows", [], [], ()),
        ("attention", [], [], ("attention.in_proj_weight",)),
        ("attention", ["*in_proj_weight"], [], ("*in_proj_weight",)),  # as they were for whoever had asked for them
        ("attention", [], ["*in_proj*"], ()),
    ],
)
def test_what_the_default_scope_gained_is_in_the_key(
    net: str, include: list[str], exclude: list[str], written: tuple[str, ...]
) -> None:
    made = planned(net, scope={"include": include, "exclude": exclude})
    wanted, before = Scope(written, tuple(exclude)), Scope(tuple(include), tuple(exclude))
    prunes, measures = of_kind(made, Prune), of_kind(made, Measure)
    penalised = [step for step in of_kind(made, Train) if step.penalty]
    assert prunes
    assert measures
    assert penalised
    assert {step.scope for step in (*prunes, *measures)} | {step.penalty.scope for step in penalised} == {wanted}
    for step in (*prunes, *measures):
        assert (replace(step, scope=before).key == step.key) == (wanted == before)
    assert all(step.sequences is None for step in prunes)


@pytest.mark.parametrize(("net", "told"), [("convolutions", None), ("rows", True)])
def test_channels_of_sequences_are_in_the_key(net: str, told: bool | None) -> None:
    prunes = of_kind(planned(net, "channel"), Prune)
    assert {step.sequences for step in prunes} == {told}
    assert {replace(step, sequences=None).key == step.key for step in prunes} == {told is None}
