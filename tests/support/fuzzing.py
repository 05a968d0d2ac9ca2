"""Any value in any field of a spec: the fields are read from the models themselves, so that a new one is fuzzed too."""

import atexit
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from datetime import date
from inspect import signature
from typing import Any, TypeVar, get_args
from zlib import crc32

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st

from prunetune.data import DATA
from prunetune.data.split import SPLIT_OPTIONS
from prunetune.errors import LONGEST_LINE, ConfigError
from prunetune.models import MODELS
from prunetune.sparsity.criteria import CRITERIA
from prunetune.spec.base import StrictModel
from prunetune.spec.study import Spec
from prunetune.spec.study_fields import Rounds
from prunetune.steps.mask_algorithms import MASKS

FULL = "PRUNETUNE_FUZZ" in os.environ  # so many examples a test, other ones at every run: `make fuzz`
EXAMPLES = int(os.environ.get("PRUNETUNE_FUZZ", "100"))

if FULL:
    atexit.register(lambda: print(f"{sum(asked):,} examples"))

Place = tuple[str | int, ...]
asked: list[int] = []  # examples, by test
Test = TypeVar("Test", bound=Callable[..., Any])


def fuzz(examples: int, salt: str = "") -> Callable[[Test], Test]:
    """Makes a fuzz test of so many examples: in CI the same at every run, others for another `salt`."""
    asked.append(examples)
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    chosen = settings(max_examples=examples, database=None, deadline=None, suppress_health_check=checks)
    return lambda test: chosen(test if FULL else seed(crc32(salt.encode()))(test))


def parts_within(annotation: Any) -> Iterator[tuple[type[StrictModel], bool]]:
    """The parts of a spec that an annotation stands for, and whether they are entries of a list."""
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        yield annotation, False
    for inner in get_args(annotation):
        yield from ((part, listed or Ellipsis in get_args(annotation)) for part, listed in parts_within(inner))


def part_places(part: type[StrictModel], at: Place = ()) -> Iterator[tuple[type[StrictModel], Place]]:
    """Every part of a spec with the place where it stands."""
    yield part, at
    for name, field in part.model_fields.items():
        for inner, listed in parts_within(field.annotation):
            yield from part_places(inner, (*at, name, 0) if listed else (*at, name))


PARTS = {**dict(part_places(Spec)), Rounds: ("sparsities",)}


def own_names(thing: Any) -> list[str]:
    """The settings of a mask algorithm or a criterion: its fields."""
    return [field.name for field in fields(thing)]


SETTINGS: list[tuple[Place, dict[str, Any]]] = [
    *((("masks", 0, name), {"masks": [{"kind": kind}]}) for kind in MASKS for name in own_names(MASKS[kind])),
    *(
        (("masks", 0, "criterion", name), {"masks": [{"kind": "one_shot", "criterion": {"name": criterion}}]})
        for criterion in CRITERIA
        for name in own_names(CRITERIA[criterion])
    ),
    *(
        (("model_args", name), {"model": model})
        for model in MODELS
        for name in sorted(signature(MODELS[model]).parameters)
    ),
    *(
        (("data_args", name), {"data": data})
        for data in DATA
        for name in sorted({*getattr(DATA[data], "options", ()), *SPLIT_OPTIONS})
        if data != "hf"  # it asks the network
    ),
]
OWN = [((*at, name), {}) for part, at in PARTS.items() for name in part.model_fields]
PLACES = [*OWN, *SETTINGS]
FIELDS = sorted({".".join(map(str, place)) for place, _ in PLACES if 0 not in place})
BASE = {
    "model": "small",
    "data": "fashion-mini",
    "recipe": {"epochs": 2, "schedule": {}},
    "seeds": 1,
    "learning_rates": [0.1],
    "masks": [{"kind": "iterative"}],
    "sparsities": [0.5],
    "scope": {},
    "verdict": {},
    "pretrained": None,
}


def base(place: Place, beside: Mapping[str, Any]) -> dict[str, Any]:
    """A small sound spec in which there is something at the place."""
    spec: dict[str, Any] = {**BASE, **beside}
    if place[0] == "pretrained":
        spec["pretrained"] = {"theta_T": "nowhere.pt"}
    if place[:1] == ("sparsities",) and len(place) > 1:
        spec["sparsities"] = {"per_round": 0.5, "rounds": 1}
    return spec


def replaced(value: Any, place: Place, new: Any) -> Any:
    """A copy of `value` with `new` at a place in it."""
    if not place:
        return new
    first, *rest = place
    if isinstance(value, list) and isinstance(first, int):
        return [replaced(inner, tuple(rest), new) if i == first else inner for i, inner in enumerate(value)]
    inner = value.get(first, {}) if isinstance(value, Mapping) else {}
    return {**(value if isinstance(value, Mapping) else {}), first: replaced(inner, tuple(rest), new)}


def nested(depth: int, kind: type) -> Any:
    """Lists, or mappings, within one another."""
    value: Any = 0
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


WORDS = """10ep 500it 1/3 1/0 7/6 99999999999/1 2:4 4:2 1:1 0:1 channel unstructured global erk admm gradual synflow
one_shot ticket dense finetune crop flip auto bf16 small resnet20 vgg11 lenet_300_100 conv2 mobilenetv2 fashion-mini
cifar10 fashion_mnist imagefolder imagefolder: imagefolder:/nowhere nowhere:load prunetune.errors:LONGEST_LINE
json:loads ../../etc/passwd /dev/zero ~nobody-of-this-name/x {seed} {learning_rate} {sed} * ** [z-a] [ 0.* nan inf 1e400
0x10 1_000 <script>alert(1)</script> "/><b> θ ٣ep ３/５"""
TEXTS = WORDS.split()
LONG = ["x" * 100_000, "é" * 150, "9" * 5000, "1/" + "9" * 5000]
HOSTILE_TEXTS = ["", " ", "\0", "\x1b[2J", "a\nb", "\ud800", "\u202ex", *LONG]
COUNTS = [0, 1, 2, 5, 50, 10**9, 10**12, 10**30, 2**63, -1, -(10**30)]
NUMBERS = [*COUNTS, 0.5, 1.0, 1.5, 50.0, 1e-300, 5e-324, 1e300, 1 - 1e-16, -0.0, math.nan, math.inf, -math.inf]
texts = st.one_of(
    st.sampled_from(TEXTS), st.sampled_from(HOSTILE_TEXTS), st.text(st.characters(exclude_categories=()), max_size=30)
)
numbers = st.one_of(st.sampled_from(NUMBERS), st.integers(-3, 40), st.integers(), st.floats(0, 1), st.floats())
oddities = st.one_of(
    st.sampled_from([None, True, False, date(2020, 1, 1), b"\xff", {1, 2}]),
    st.builds(lambda bits: 1 << bits, st.just(40_000)),  # more digits than Python writes
    st.builds(nested, st.integers(10, 5000), st.sampled_from([list, dict])),
)
many = st.sampled_from([["ticket"] * 2000, [0.1 + i / 1e6 for i in range(2000)], ["iterative"] * 500, [[]] * 5000])
scalars = st.one_of(numbers, texts, oddities)
names = st.one_of(texts, st.sampled_from(["kind", "name", "epochs", "rounds", "width"]), st.integers(), st.none())
likely = st.one_of(
    st.integers(1, 9), st.floats(0.01, 0.99), st.sampled_from(TEXTS), st.lists(st.sampled_from(TEXTS[:24]), max_size=3)
)
anything = st.one_of(
    likely.map(lambda value: value),  # or its branches would each be no likelier than any other
    scalars,
    many,
    st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
        max_leaves=8,
    ),
)


def assert_one_clear_line(error: ConfigError) -> str:
    """What an error must be like, whatever was wrong; returns it."""
    line = str(error)
    assert line == line.strip()
    assert line.isprintable(), line
    assert 0 < len(line) <= LONGEST_LINE
    assert ": " in line, line
    return line
