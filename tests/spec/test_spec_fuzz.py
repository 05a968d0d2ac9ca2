"""Any value in any field: a plan, or one clear line, within a bounded time and memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.data.fashion import FashionMNIST
from prunetune.errors import ConfigError
from prunetune.models import building
from prunetune.plan.compile import plan
from prunetune.spec import study as spec_module
from prunetune.spec.base import StrictModel
from prunetune.spec.load import load_spec
from tests.support.fuzzing import (
    BASE,
    EXAMPLES,
    FIELDS,
    PARTS,
    PLACES,
    Place,
    anything,
    assert_one_clear_line,
    base,
    fuzz,
    names,
    replaced,
    texts,
)

WORDS = {str(part) for place, _ in PLACES for part in place} | {"spec", "allocation", "updates", "initial", "data"}
MEMORY = 1_000_000  # kB that all of it may take at the most, beside what the process holds before


@pytest.fixture(autouse=True, scope="module")
def small_studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Plans of at most hundreds of steps, networks of thousands of weights, no large data: time for many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNETUNE_DATA", str(tmp_path_factory.getbasetemp() / "no-data"))
        patch.setattr(FashionMNIST, "system_folders", ())
        patch.setattr(spec_module, "MOST_STEPS", 200)
        patch.setattr(building, "MOST_PARAMETERS", 300_000)
        if not Path("/proc/self/clear_refs").exists():  # but on Linux
            yield
            return
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
        before = _memory("VmRSS")
        yield
    assert _memory("VmHWM") - before < MEMORY


def _memory(field: str) -> int:
    """What Linux says of this process, in kB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(f"{field}:")).split()[1])


def line_of(source: Any, *changes: str) -> str | None:
    """The line with which a spec is refused, or None where it is one; anything else that is raised fails the test."""
    try:
        plan(load_spec(source, changes))
    except ConfigError as error:
        return assert_one_clear_line(error)
    return None


def assert_names_a_field(line: str) -> None:
    head = line.partition(": ")[0].removeprefix("--set ")
    assert WORDS & set(head.split(".")) or "unknown" in line, line


def test_every_part_of_a_spec_is_fuzzed() -> None:
    ours = {part for part in StrictModel.__subclasses__() if part.__module__.startswith("prunetune.")}
    assert set(PARTS) == ours
    places = {place for place, _ in PLACES}
    assert {("recipe", "schedule", "gamma"), ("masks", 0, "rho"), ("sparsities", "rounds"), ("seeds",)} <= places
    assert line_of(BASE) is None


@pytest.mark.parametrize(("place", "beside"), PLACES, ids=[".".join(map(str, (*p, *b))) for p, b in PLACES])
def test_any_value_in_one_field(place: Place, beside: dict[str, Any]) -> None:
    @fuzz(max(2, EXAMPLES // len(PLACES)), salt=f"{place}{beside}")
    @given(anything)
    def attempt(value: Any) -> None:
        if line := line_of(replaced(base(place, beside), place, value)):
            assert_names_a_field(line)

    attempt()


@fuzz(EXAMPLES)
@given(st.lists(st.tuples(st.sampled_from(PLACES), anything), min_size=2, max_size=4))
def test_any_values_in_several_fields(changes: list[tuple[tuple[Place, dict[str, Any]], Any]]) -> None:
    found: Any = BASE
    for (place, beside), value in changes:
        found = replaced({**found, **beside}, place, value)
    line_of(found)


@fuzz(EXAMPLES // 2)
@given(st.dictionaries(names, anything, max_size=4))
def test_any_mapping(fields: dict[Any, Any]) -> None:
    line_of(fields)
    line_of(BASE | fields)


YAML = ["[", "]", "{a: b}", "&a [*a]", "*a", "!!binary AA==", "!!set {a}", "!!float x", "0x" + "f" * 9000, "2020-99-99"]
YAML += ['"\\ud800"', '"\\0"', "[" * 3000, "1:" * 300 + "1", "? [a]\n: b", "<<: 3", "- a", "'", "|", ">", "%", "@", "~"]
pieces = st.one_of(st.sampled_from(YAML), texts, st.sampled_from(["model: small\n", "data: x\n", ": ", "\n  ", ", "]))


@fuzz(EXAMPLES)
@given(st.lists(pieces, max_size=6).map("".join))
def test_any_text_in_a_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    line_of(file)


@fuzz(EXAMPLES)
@given(st.one_of(st.sampled_from(FIELDS), texts), st.lists(pieces, max_size=3).map("".join))
def test_any_override(name: str, text: str) -> None:
    line_of(BASE, f"{name}={text}")
    line_of(BASE, f"{name}{text}")
