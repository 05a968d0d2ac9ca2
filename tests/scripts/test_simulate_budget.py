"""The error rate of a search within a budget, reduced: at most alpha, and the planted mistakes are seen."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
STUDIES = 1500
ALLOWED = 0.05 + 3 * (0.05 * 0.95 / STUDIES) ** 0.5  # alpha, and what 1,500 studies may be off by


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import simulate_budget  # pyright: ignore[reportMissingImports]

        return simulate_budget


@pytest.mark.parametrize("chains", [1, 4])
@pytest.mark.parametrize("choice", [0.0, 0.3])
def test_at_the_boundary_a_network_is_returned_in_at_most_alpha(
    simulation: ModuleType, chains: int, choice: float
) -> None:
    world = simulation.World("boundary", simulation.BOUNDARY, simulation.GROWING, choice=choice)
    false, some = simulation.error_rates(world, 5, chains, STUDIES, np.random.default_rng(0))
    assert false == some
    assert false <= ALLOWED


def test_one_chain_of_seeds_alone_spends_all_of_alpha(simulation: ModuleType) -> None:
    """The t test is exact for normal noise: it would show here if its level were cut."""
    world = simulation.World("boundary", simulation.BOUNDARY, simulation.EVEN, correlation=0.0)
    false, _ = simulation.error_rates(world, 5, 1, STUDIES, np.random.default_rng(1))
    assert false == pytest.approx(0.05, abs=0.017)


def test_without_the_examples_share_the_error_would_be_seen(simulation: ModuleType) -> None:
    world = simulation.World("boundary", simulation.BOUNDARY, simulation.EVEN, choice=0.3)
    false, _ = simulation.error_rates(world, 5, 1, STUDIES, np.random.default_rng(2), of_examples=False)
    assert false > 0.1


def test_without_sharing_alpha_the_error_would_be_seen(simulation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "chain_level", lambda alpha, chains: alpha)
    world = simulation.World("boundary", simulation.BOUNDARY, simulation.EVEN, correlation=0.0)
    false, _ = simulation.error_rates(world, 5, 4, STUDIES, np.random.default_rng(3))
    assert false > 0.1


def test_good_networks_are_returned(simulation: ModuleType) -> None:
    world = simulation.World("no drop", simulation.NONE, simulation.EVEN, choice=0.05)
    false, some = simulation.error_rates(world, 10, 4, 200, np.random.default_rng(4))
    assert (false, some > 0.9) == (0.0, True)


def test_the_script_prints_a_row_each(simulation: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    simulation.main(["--studies", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(simulation.WORLDS) * len(simulation.SEEDS) * len(simulation.CHAINS)
    assert {line.count("|") for line in lines} == {10}
