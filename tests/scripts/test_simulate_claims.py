"""Simulated studies in which the truth is known: what *Paper and here* answers to the paper's orderings."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_claims.py"
STUDIES = 120
MOST = 13  # of 120 at a rate of .05: more than this happens in 0.3 % of simulations, and the seed is fixed


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulate_claims", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "simulate_claims", module)
        spec.loader.exec_module(module)
    return module


def test_equal_arms_agree_with_a_superiority_at_most_alpha_of_the_time(simulation: ModuleType) -> None:
    found = simulation.count(STUDIES, 0.0, np.random.default_rng(3))
    shares = {kind: [answers for (of, _), answers in found.items() if of == kind] for kind, _ in found}
    assert {kind: len(rows) for kind, rows in shares.items()} == {
        "superiority": 8, "non-inferiority": 4, "equivalence": 3
    }  # fmt: skip
    assert max(answers["agrees"] for answers in shares["superiority"]) <= MOST
    assert max(answers["disagrees"] for answers in shares["superiority"]) <= MOST
    true = [answers for kind in ("non-inferiority", "equivalence") for answers in shares[kind]]
    assert min(answers["agrees"] for answers in true) == STUDIES


def test_what_leads_by_half_a_point_a_step_is_found(simulation: ModuleType) -> None:
    found = simulation.count(20, 0.5, np.random.default_rng(4))
    assert {answers["agrees"] for (kind, _), answers in found.items() if kind == "superiority"} == {20}


def test_the_script_prints_a_table(simulation: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    simulation.main(["--studies", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 15
    assert {line.count("|") for line in lines} == {6}
