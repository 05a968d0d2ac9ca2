"""A reduced version of the simulation that docs/how-to/compare.md quotes."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_thesis.py"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulate_thesis", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:  # dataclasses look their module up by name
        patch.setitem(sys.modules, "simulate_thesis", module)
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("number", [0, 2, 4, 8])
def test_what_would_be_false_is_seldom_said(simulation: ModuleType, number: int) -> None:
    """Forty sets: six false ones have a probability of .014 at a rate of .05."""
    world = simulation.WORLDS[number]
    found = simulation.rates(world, 40, 5, 0.35, 0.0, 120, 0)
    for word in ("holds", "fails") if world.false == "both" else (world.false,):
        assert found[word] < 6 / 40


@pytest.mark.parametrize(("number", "word"), [(7, "holds"), (8, "fails")])
def test_what_is_so_is_mostly_said(simulation: ModuleType, number: int, word: str) -> None:
    assert simulation.rates(simulation.WORLDS[number], 10, 5, 0.35, 0.0, 120, 0)[word] >= 0.7


def test_a_brief_judgement_is_the_full_one(simulation: ModuleType) -> None:
    import numpy as np

    random = np.random.default_rng(5)
    for world in simulation.WORLDS:
        rows = simulation.draw(world, 5, 0.35, 0.0, random)
        brief, full = (
            simulation.judge_thesis(rows, simulation.USUAL_RULE, resamples=100, brief=brief) for brief in (True, False)
        )
        assert brief.explanation == full.explanation


def test_the_script_prints_a_table(simulation: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    simulation.main(["--studies", "1", "--resamples", "50"])
    assert {line.count("|") for line in capsys.readouterr().out.splitlines()} == {8}
