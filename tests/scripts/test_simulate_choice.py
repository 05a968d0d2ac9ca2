"""How much the best of several equal arms is flattered: the script against the means of normal maxima."""

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
EXPECTED_MAXIMUM = {2: 1 / math.sqrt(math.pi), 4: 1.02938, 8: 1.42360}  # of so many standard normal draws


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import simulate_choice  # pyright: ignore[reportMissingImports]

        return simulate_choice


@pytest.mark.parametrize("arms", EXPECTED_MAXIMUM)
def test_inflation_is_the_mean_of_a_maximum(simulation: ModuleType, arms: int) -> None:
    noise = simulation.Noise(0.3, 0.4, 0.4)
    found = simulation.inflation(arms, noise, 40_000, np.random.default_rng(0))
    reach = EXPECTED_MAXIMUM[arms] * 0.5 / math.sqrt(5)  # .3 and .4 make .5
    # The maximum of a sum is borne by its parts in proportion to their variances, .09 and .16 of .25.
    expected = {
        "test, arm": reach,
        "held out, arm": reach * 0.09 / 0.25,
        "test, networks": reach * 0.16 / 0.25,
        "held out, networks": 0.0,
    }
    assert found == pytest.approx(expected, abs=0.005)


def test_the_script_prints_a_row_per_noise_and_number_of_arms(
    simulation: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation.main(["--studies", "20"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(simulation.NOISES) * len(simulation.ARMS)
    assert {line.count("|") for line in lines} == {9}
