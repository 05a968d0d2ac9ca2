"""Studies of a task other than classification, made of planted accuracies."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from prunetune.core.metric import Metric
from prunetune.rows import Connectivity, Quantity, Results, Trial

PERPLEXITY = Metric("perplexity", "", "", higher_is_better=False, margin=0.5, gap=0.5)
REWARD = Metric("reward", "", "", higher_is_better=True, margin=0.5, gap=0.5)  # what a perplexity is, negated
ERROR = Metric("RMSE", "kWh", "kWh", higher_is_better=False, margin=0.02, gap=0.02)


def rescored(trials: Sequence[Trial], scored: Callable[[float], float]) -> list[Trial]:
    """The same trainings without accuracies, with scores that are made of them."""
    return [_rescored(row, scored) for row in trials]


def of_metric(results: Results, metric: Metric, scored: Callable[[float], float]) -> Results:
    """The results of a study as if its task had this metric: no classes, no images, the scores made of accuracies."""
    rule = results.study["verdict"] | {"margin": metric.margin, "gap": metric.gap}
    unknown = {"outputs", "test_images", "chance"}
    return dataclasses.replace(
        results,
        study=results.study | {"verdict": rule} | metric.described(),
        environment={name: value for name, value in results.environment.items() if name not in unknown},
        trials=tuple(rescored(results.trials, scored)),
    )


def measured(results: Results) -> Results:
    """With a row of every quantity and of connectivity."""
    rates = sorted({row.learning_rate for row in results.trials})
    whole: dict[str, float | None] = {"whole": 120.0, "images": 64.0}
    layers: dict[str, dict[str, float | None]]
    layers = {layer.name: {"0.5": 121.0, "0.9": 140.0} for layer in results.layers if layer.prunable}
    kinds: dict[str, dict[str, float | None]] = {
        "movement": {"n": 9.0, "sign_flips": 0.1, "distance": 1.0, "cosine": 0.5},
        "barriers": {"loss_barrier": 0.5, "accuracy_barrier": None, "score_barrier": 3.0},
        "curvature": {"n": 9.0, "largest": 5.0, "residual": 0.1, "trace": 50.0, "trace_error": 1.0},
    }
    quantities = [
        Quantity(kind, "theta_0/theta_T", rate, None, 0.0, 0, values)
        for rate in rates
        for kind, values in kinds.items()
    ]
    quantities += [Quantity("sensitivity", "theta_T", rate, None, 0.0, 0, whole, layers) for rate in rates]
    paths = [
        Connectivity(
            "dense",
            rate,
            None,
            0.0,
            0,
            (0.0, 0.5, 1.0),
            (1.0, 1.5, 1.0),
            (),
            0.5,
            math.nan,
            (120.0, 150.0, 121.0),
            29.5,
        )
        for rate in rates
    ]
    return dataclasses.replace(results, quantities=tuple(quantities), connectivity=tuple(paths))


def _rescored(row: Trial, scored: Callable[[float], float]) -> Trial:
    score, held_out = (None if value is None else scored(value) for value in (row.score, row.validation_score))
    return dataclasses.replace(
        row, test_accuracy=None, validation_accuracy=None, score=score, validation_score=held_out
    )
