import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_pretraining.py"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulate_pretraining", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "simulate_pretraining", module)
        spec.loader.exec_module(module)
    return module


def test_a_gain_of_exactly_the_margin_is_called_converged_at_most_alpha_of_the_time(simulation: ModuleType) -> None:
    """Beside it the plain t test over the same draws, by scipy."""
    world = simulation.World("", seeds=5, below=0.0, gain=0.5, excess=0.0)
    by_tool, by_scipy = 0, 0
    for study in range(300):
        found = simulation.judged(world, np.random.default_rng(study))
        by_tool += found.checks[1].answer == "yes"
        trials, _ = simulation.draw(world, np.random.default_rng(study))
        accuracy = {(row.arm, row.seed): row.test_accuracy for row in trials if row.learning_rate == simulation.LOW}
        gains = [accuracy["dense_longer", seed] - accuracy["dense", seed] for seed in range(5)]
        by_scipy += float(stats.ttest_1samp(gains, 0.5, alternative="less")[1]) < 0.05  # type: ignore[arg-type]
    assert by_tool == by_scipy
    assert by_tool / 300 <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


def test_it_prints_a_row_for_every_world(simulation: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    simulation.main(["--studies", "3"])
    first, _, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("3 studies a row")
    assert len(lines) == 2 + len(simulation.WORLDS)
    for line in lines[2:]:
        labels = [float(cell) for cell in line.split("|")[3:7]]
        assert sum(labels) == pytest.approx(
            1, abs=0.002
        )  # every study has one of them: the longer run is never left out
