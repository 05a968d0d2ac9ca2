"""Which quantity predicts ticket − reinit: planted relations and none, against scipy."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from prunetune.analysis.predictors import Prediction, predictions
from prunetune.analysis.regimes import LEAD, Regime
from prunetune.analysis.statistics import USUAL_RULE, holm
from tests.support.regime_makers import regime

RUNS = 12
EXCESSES = (0.3, 0.05, 0.42, 0.18, 0.55, 0.0, 0.25, 0.48, 0.11, 0.36, 0.6, 0.22)  # in no order of the lead


def with_quantity(row: Regime, name: str, values: Sequence[float]) -> Regime:
    return replace(row, quantities={**row.quantities, name: dict(enumerate(values))})


def planted(kind: str, generator: np.random.Generator | None = None) -> list[Regime]:
    """The lead rises with the number of the run; `movement.cosine` rises with the lead, falls with it, or is noise."""
    generator = generator or np.random.default_rng(5)
    rows = [regime(i, EXCESSES[i], 0.2 * i) for i in range(RUNS)]
    means = {
        "rises": [np.exp(0.3 * i) for i in range(RUNS)],  # monotone and not a line
        "falls": [-(i**3) for i in range(RUNS)],
        "not shown": generator.normal(size=RUNS),
    }[kind]
    return [
        with_quantity(row, "movement.cosine", [mean + 1e-3 * (seed - 2) for seed in range(5)])
        for row, mean in zip(rows, means, strict=True)
    ]


def judged(rows: Sequence[Regime], resamples: int = 1000) -> dict[str, Prediction]:
    return {row.predictor: row for row in predictions(rows, USUAL_RULE, resamples)}


@pytest.mark.parametrize("kind", ["rises", "falls", "not shown"])
def test_a_monotone_relation_is_found_and_noise_is_none(kind: str) -> None:
    rows = planted(kind)
    found = judged(rows)["movement.cosine"]
    assert found.answer == kind
    means = [np.mean(list(row.quantities["movement.cosine"].values())) for row in rows]
    assert found.rho == pytest.approx(stats.spearmanr(means, [row.mean(LEAD) for row in rows])[0])
    assert found.runs == RUNS
    if kind != "not shown":
        assert abs(found.rho or 0) == pytest.approx(1.0)


def test_every_predictor_that_is_there_has_a_row_and_holm_runs_over_all() -> None:
    found = judged(planted("rises"))
    assert list(found) == ["R_p excess", "kappa", "movement.cosine"]
    assert [row.p_holm for row in found.values()] == pytest.approx(holm([row.p or 0.0 for row in found.values()]))


def test_noise_is_called_a_relation_in_few_studies() -> None:
    """Three predictors without a relation, corrected together: one of them is called in about alpha of the sets."""
    generator = np.random.default_rng(11)
    called = 0
    for _ in range(60):
        leads = generator.normal(size=RUNS)
        rows = [
            with_quantity(
                regime(i, excess, lead), "movement.cosine", list(generator.normal() + 0.01 * generator.normal(size=5))
            )
            for i, (excess, lead) in enumerate(zip(EXCESSES, leads, strict=True))
        ]
        called += any(row.answer != "not shown" for row in judged(rows, 200).values())
    assert called <= stats.binom.ppf(0.999, 60, 0.05)


def test_dense_runs_without_the_quantity_take_no_part() -> None:
    rows = planted("rises")
    rows[4:] = [replace(row, quantities={}) for row in rows[4:]]
    found = judged(rows)
    assert found["movement.cosine"].runs == 4
    assert found["movement.cosine"].answer == "not shown"  # four runs are too few for any p below alpha
    assert found["R_p excess"].runs == RUNS


def test_a_quantity_that_is_the_same_everywhere_has_no_rho() -> None:
    rows = [with_quantity(regime(i, EXCESSES[i], 0.2 * i), "barriers.loss_barrier", [0.0] * 5) for i in range(RUNS)]
    found = judged(rows)["barriers.loss_barrier"]
    assert (found.rho, found.p, found.p_holm, found.answer) == (None, None, None, "not shown")
