import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from prunetune.analysis.verdict import judge
from tests.support.verdict_trials import study

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_verdict.py"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulate_verdict", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "simulate_verdict", module)
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spreads", [(0.5,), (0.4, 0.8), (0.3, 0.45, 0.7, 1.1)])
def test_the_vectorised_rule_is_the_judges(simulation: ModuleType, seeds: int, spreads: tuple[float, ...]) -> None:
    world = simulation.World(seeds, spreads, 0.5)
    draws = simulation.draw(world, 120, np.random.default_rng(1)) + 0.3  # above the margin, so that many hold
    expected = simulation.holds(draws, simulation.shrunk)
    sparsities = [0.5 + 0.1 * i for i in range(len(spreads))]
    beaten = {sparsity: [5.0 + 0.01 * seed for seed in range(seeds)] for sparsity in sparsities}
    found = [
        judge(study({s: draw[:, i].tolist() for i, s in enumerate(sparsities)}, beaten))[0].winning_property == "holds"
        for draw in draws
    ]
    assert found == expected.tolist()
    assert 0 < sum(found) < len(found)


def test_shrinking_keeps_false_holds_below_alpha_where_pooling_does_not(simulation: ModuleType) -> None:
    world = simulation.World(5, (0.3, 0.45, 0.7, 1.1), 0.5)
    rates = simulation.rates(world, 20_000, np.random.default_rng(0))
    assert rates["shrunk"][0] < 0.045  # .034 in the full simulation; four standard errors of .0013 above it is .040
    assert rates["pooled"][0] > 0.07  # .087


def test_one_sparsity_alone_is_tested_at_alpha(simulation: ModuleType) -> None:
    for seeds in (2, 3, 5):
        rate, error = simulation.rates(simulation.World(seeds, (0.5,), 0.0), 40_000, np.random.default_rng(2))["shrunk"]
        assert rate == pytest.approx(0.05, abs=4 * error)


def test_the_script_prints_a_table(simulation: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"margin": len(simulation.WORLDS), "gap": 2 * len(simulation.LEAD_WORLDS), "family": 12}
    for name, count in rows.items():
        simulation.main(["--studies", "50", "--table", name])
        title, empty, *lines, end = capsys.readouterr().out.splitlines()
        assert (title.split(",")[0], empty, end) == (name, "", "")
        assert len(lines) == 2 + count
        assert len({line.count("|") for line in lines}) == 1
