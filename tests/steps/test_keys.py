"""Keys: what names a step, what changes the name, and literal ones, so that no change of a key goes unnoticed."""

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from prunetune.core.references import Ref
from prunetune.models import identify
from prunetune.sparsity.scope import Scope
from prunetune.steps.steps import (
    Connect,
    Import,
    Init,
    Measure,
    Probe,
    Prune,
    Step,
    Train,
    Transform,
    Weights,
    describe,
)
from prunetune.training.admm import Penalty
from prunetune.training.recipe import Distill, Recipe, Schedule, TrainingTime

MODEL = Ref.of("lenet", {"width": 2})
DATA = Ref.of("images", {"train_limit": 9}, digest="abc", root="/somewhere")
RECIPE = Recipe(epochs=2, batch_size=4, learning_rate=0.1, schedule=Schedule("step", (1.0,)), augment=("flip",))
INIT = Init(MODEL, (1, 5, 5), 3, seed=7)
DENSE = Train(Weights(INIT), None, RECIPE, DATA, order_seed=1, augment_seed=2)
PRUNE = Prune(Weights(DENSE), 0.5, None, Ref.of("magnitude"), "uniform", "unstructured", Scope((), ("fc*",)))
TICKET = Train(Weights(INIT, None, Transform("shuffle", 3)), PRUNE, RECIPE, DATA, order_seed=1, augment_seed=2)
PENALISED = replace(
    DENSE,
    start=Weights(DENSE, TrainingTime(1.0, "ep")),
    penalty=Penalty(0.5, Scope(), rho=0.1, rho_every=1.0, update_every=0.5),
)
TWO_FOUR = replace(PENALISED, penalty=Penalty(0.5, Scope(), rho=0.1, rho_every=1.0, update_every=0.5, pattern="2:4"))
NEXT = replace(PRUNE, source=Weights(TICKET), density=0.25, within=PRUNE)
SIGNS = replace(TICKET, start=Weights(INIT, None, Transform("sign_reinit", 0, Weights(DENSE, TrainingTime(1.0, "ep")))))
MIXED = replace(TICKET, start=Weights(INIT, None, Transform.of("mixed", second=Weights(DENSE), alpha=0.5)))
LIKE = replace(PRUNE, like=NEXT)
SEQUENCES = replace(PRUNE, pattern="channel", sequences=True)
HEADS = replace(SEQUENCES, heads=True, round_to=8)
PART = replace(DENSE, recipe=replace(RECIPE, schedule=replace(RECIPE.schedule, part=(1, 3))))
MEASURE = Measure(Weights(INIT), Weights(TICKET), PRUNE, (0.1, 0.2), Scope())
IMPORT = Import(MODEL, (1, 5, 5), 3, DATA, "f" * 64, RECIPE, path="/home/me/theta.safetensors")
SHOWN = replace(PRUNE, criterion=Ref.of("snip"), probe=Probe(DATA, 30, 4, seed=5, loss=None))
CONNECT = Connect(Weights(TICKET), Weights(replace(TICKET, order_seed=8, augment_seed=9)), PRUNE, DATA, RECIPE)
SHARED = replace(DENSE, devices=2)
TAUGHT = replace(
    TICKET,
    recipe=replace(RECIPE, accumulate=2, label_smoothing=0.1, distill=Distill(0.5, 4.0)),
    teacher=Weights(DENSE),
)
STEPS = [
    INIT,
    DENSE,
    PRUNE,
    TICKET,
    PENALISED,
    NEXT,
    MEASURE,
    IMPORT,
    SHOWN,
    SIGNS,
    MIXED,
    LIKE,
    SEQUENCES,
    HEADS,
    PART,
    TWO_FOUR,
    CONNECT,
    SHARED,
    TAUGHT,
]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_key_is_the_hash_of_every_field_in_sorted_compact_json():
    assert INIT.key == sha256(
        '{"input_shape":[1,5,5],"model":{"arguments":"{\\"width\\": 2}","digest":"","name":"lenet"},'
        '"outputs":3,"seed":7,"step":"Init","version":1}'
    )


def test_a_parent_enters_by_its_key():
    weights = f'{{"at":null,"step":"{DENSE.key}","transform":null}}'
    assert PRUNE.key == sha256(
        '{"allocation":"uniform","criterion":{"arguments":"{}","digest":"","name":"magnitude"},"density":0.5,'
        '"pattern":"unstructured","scope":{"exclude":["fc*"],"include":[]},"seed":0,'
        f'"source":{weights},"step":"Prune","version":1,"within":null}}'
    )


@pytest.mark.parametrize(
    ("step", "key"),
    [
        (INIT, "1bf2d5a3cc163093"),
        (DENSE, "23801509ca989fc2"),
        (PRUNE, "2905a631329f9054"),
        (TICKET, "f408539872a6bc3a"),
        (PENALISED, "43f172cc1084c321"),
        (NEXT, "ba9815ca25fe8df5"),
        (MEASURE, "abfc2a46352eb4de"),
        (IMPORT, "5c9e950e0f7d1124"),
        (SIGNS, "7b1fd4837eeae7ea"),
        (LIKE, "5a2481f685fc7156"),
        (PART, "05d006ae5b8a1f2c"),
        (CONNECT, "57319aec8f70adba"),
        (TWO_FOUR, "51df69a668b1575c"),
    ],
)
def test_keys_are_what_they_were(step: Step, key: str):
    """A failure here means that every store in the world is void: raise KEY_VERSION, and say so in the CHANGELOG."""
    assert step.key[:16] == key


@pytest.mark.parametrize(
    ("model", "outputs", "key"),
    [("vgg11", 10, "190935f7bb7f7b68"), ("vgg16", 10, "624a21b9ef57d5f8"), ("mobilenetv2", 100, "ad31b2cd4b815498")],
)
def test_networks_that_gained_an_argument_keep_their_keys(model: str, outputs: int, key: str):
    """As stores had them when these models took no arguments."""
    shape = (3, 32, 32)
    assert Init(identify(model, {}, shape, outputs), shape, outputs, seed=7).key[:16] == key


def leaves(value: Any, put: Callable[[Any], Any], keyed: bool = True):
    """(whether it is keyed, the whole with this one leaf changed) for every plain value below a dataclass."""
    for f in fields(value):
        old = getattr(value, f.name)

        def put_here(new: Any, name: str = f.name) -> Any:
            return put(replace(value, **{name: new}))

        inner_keyed = keyed and f.metadata.get("keyed", True)
        if is_dataclass(old):
            yield from leaves(old, put_here, inner_keyed)
        else:
            yield f.name, inner_keyed, put_here(changed(old))


def changed(old: Any) -> Any:
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float):
        return old + 1
    if isinstance(old, str):
        return {"f32": "bf16", "step": "cosine"}.get(old, '{"x": 1}' if old.startswith("{") else old + "x")
    if isinstance(old, tuple):
        return (*old, *old[:1]) if old else ("x",)
    return Ref.of("user.code:thing")  # None


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{type(step).__name__}")
def test_every_keyed_field_changes_the_key_and_a_place_on_disk_does_not(step: Step):
    seen = {step.key}
    unkeyed = 0
    for name, keyed, other in leaves(step, lambda whole: whole):
        if keyed:
            assert other.key not in seen, name
            seen.add(other.key)
        else:
            assert other.key == step.key, name
            unkeyed += 1
    assert unkeyed  # the root of the model's Ref at least


def test_a_field_that_came_later_is_in_the_key_only_where_it_is_set():
    assert describe(TICKET)["start"]["transform"] == {"name": "shuffle", "seed": 3}
    second = {"at": {"unit": "ep", "value": 1.0}, "step": DENSE.key, "transform": None}
    assert describe(SIGNS)["start"]["transform"] == {"name": "sign_reinit", "seed": 0, "second": second}
    second = {"at": None, "step": DENSE.key, "transform": None}
    mixed = {"name": "mixed", "seed": 0, "second": second, "arguments": '{"alpha": 0.5}'}
    assert describe(MIXED)["start"]["transform"] == mixed
    assert "sequences" not in describe(PRUNE)
    assert describe(SEQUENCES) == describe(PRUNE) | {"pattern": "channel", "sequences": True}
    assert describe(HEADS) == describe(SEQUENCES) | {"heads": True, "round_to": 8}
    assert "like" not in describe(PRUNE)
    assert describe(LIKE)["like"] == NEXT.key
    assert "devices" not in describe(DENSE)
    assert describe(SHARED) == describe(DENSE) | {"devices": 2}
    assert not {"teacher", "accumulate", "label_smoothing", "distill"} & {*describe(DENSE), *describe(DENSE)["recipe"]}
    assert describe(TAUGHT)["teacher"] == {"at": None, "step": DENSE.key, "transform": None}
    assert describe(TAUGHT)["recipe"]["distill"] == {"temperature": 4.0, "weight": 0.5}
    assert "part" not in describe(DENSE)["recipe"]["schedule"]
    assert describe(PART)["recipe"]["schedule"]["part"] == [1, 3]
    assert "pattern" not in describe(PENALISED)["penalty"]
    assert describe(TWO_FOUR)["penalty"] == describe(PENALISED)["penalty"] | {"pattern": "2:4"}


def test_equality_and_hash_are_the_keys():
    again = Init(Ref.of("lenet", {"width": 2}), (1, 5, 5), 3, seed=7)
    assert again is not INIT
    assert again == INIT
    assert len({again, INIT, replace(INIT, seed=8)}) == 2
    assert INIT != "INIT"


def test_parents_are_the_steps_that_are_read_once_each():
    assert INIT.parents == ()
    assert DENSE.parents == (INIT,)
    assert set(TICKET.parents) == {INIT, PRUNE}
    assert set(NEXT.parents) == {TICKET, PRUNE}
    assert set(SIGNS.parents) == {INIT, DENSE, PRUNE}
    assert set(LIKE.parents) == {DENSE, NEXT}
    assert set(TAUGHT.parents) == {INIT, PRUNE, DENSE}
    assert set(MEASURE.parents) == {INIT, TICKET, PRUNE}
    assert set(CONNECT.parents) == {TICKET, CONNECT.second.step, PRUNE}
    assert Measure(Weights(INIT), Weights(INIT), None, (0.1,), Scope()).parents == (INIT,)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{type(step).__name__}")
def test_a_description_is_strict_json_and_hashes_to_the_key(step: Step):
    text = json.dumps(describe(step), allow_nan=False, sort_keys=True, separators=(",", ":"))
    assert json.loads(text)["step"] == type(step).__name__
    assert sha256(text) == step.key


def test_a_chain_of_sixty_rounds_has_keys_and_travels_to_a_worker():
    mask = PRUNE
    for _ in range(60):
        mask = Prune(
            Weights(Train(Weights(INIT), mask, RECIPE, DATA, 1, 2)),
            0.5,
            mask,
            Ref.of("magnitude"),
            "uniform",
            "unstructured",
            Scope(),
        )
    assert pickle.loads(pickle.dumps(mask)).key == mask.key
