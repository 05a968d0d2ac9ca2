"""Results that no training made: realistic in shape and size, with a known truth, and scars where asked for."""

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

from prunetune.report.answer import answers
from prunetune.report.results_files import results_text, write_text
from prunetune.rows import Correlation, Invariant, Layer, Missing, Results, Spent, Trial

HOSTILE = '<script>alert("x")</script>'
ARMS = ("ticket", "reinit", "rewind", "finetune")
SPARSITIES = (0.5, 0.75, 0.875, 0.9375)
DENSE = {0.01: 79.3, 0.1: 85.2}
LOSS = {0.01: (0.2, -0.1, -0.5, -1.9), 0.1: (-0.1, -0.9, -2.4, -4.6)}  # ticket - dense at each of SPARSITIES
GAIN = {"ticket": 0.0, "rewind": 0.5, "finetune": 1.1, "shuffle": -1.5}  # over the ticket
OVER_REINIT = {0.01: (1.3, 2.3, 3.0, 5.7), 0.1: (0.5, 1.2, 1.8, 2.7)}  # ticket - reinit
OVERLAP = {0.01: 0.72, 0.1: 0.39}  # how far R_p(theta_0, theta_T) is from chance towards 1
EPOCHS, STEPS_PER_EPOCH = 6, 157


def planted(
    masks: Sequence[str] = ("iterative",),
    seeds: int = 5,
    arms: Sequence[str] = ARMS,
    rates: Sequence[float] = (0.01, 0.1),
) -> Results:
    """A whole study's results; equal arguments give equal results."""
    draw = random.Random(7)
    trials = [trial for rate in rates for trial in _trials(rate, masks, seeds, arms, draw)]
    correlations = [row for rate in rates for row in _correlations(rate, masks, seeds, draw)]
    return Results(
        study=_study(masks, seeds, arms, rates),
        environment=_environment(),
        trials=tuple(trials),
        correlations=tuple(correlations),
        missing=(),
        invariants=_invariants(len(trials)),
        budget=tuple(_budget(masks, arms, rates, seeds)),
        layers=_layers(masks),
        notes=("R_p at p = 0.2 is left out at 0.875 <b>",),
    )


def stored(results: Results, folder: Path) -> Path:
    """The folder with results.json alone, which is all of a report that is ever read again."""
    write_text(folder / "results.json", results_text(results, answers(results)))
    return folder


def scarred(results: Results) -> Results:
    """The same study after a diverged training, one that failed, and with hostile names."""
    trials = list(results.trials)
    at = next(i for i, row in enumerate(trials) if row.arm == "reinit" and row.sparsity == 0.9375 and row.seed == 1)
    trials[at] = dataclasses.replace(trials[at], diverged=True, test_accuracy=10.0, test_loss=None)
    gone = next(i for i, row in enumerate(trials) if row.arm == "rewind" and row.sparsity == 0.875 and row.seed == 2)
    lost = trials.pop(gone)
    why = f"failed: disk is full while writing {HOSTILE}"
    missing = Missing(lost.arm, lost.mask, lost.learning_rate, lost.sparsity, lost.seed, why, failed=True)
    layers = (*results.layers, Layer(f"aux.{HOSTILE}.weight", (4, 4), False, f"excluded by {HOSTILE}"))
    return dataclasses.replace(
        results,
        trials=tuple(trials),
        missing=(missing,),
        layers=layers,
        study=results.study | {"name": f"quick {HOSTILE}"},
        environment=results.environment | {HOSTILE: HOSTILE},
    )


def _trials(rate: float, masks: Sequence[str], seeds: int, arms: Sequence[str], draw: random.Random) -> list[Trial]:
    rows: list[Trial] = []
    for seed in range(seeds):
        level = DENSE[rate] + draw.gauss(0, 0.25)
        rows.append(_trial("dense", None, rate, 0.0, seed, level))
        for mask in masks:
            shift = {"admm": 0.4, "one_shot": -0.5}.get(mask, 0.0)
            for i, sparsity in enumerate(SPARSITIES):
                for arm in arms:
                    gain = -OVER_REINIT[rate][i] if arm == "reinit" else GAIN.get(arm, 0.0)
                    accuracy = level + LOSS[rate][i] + gain + shift + draw.gauss(0, 0.2 + 0.15 * i)
                    rows.append(_trial(arm, mask, rate, sparsity, seed, accuracy))
    return rows


def _trial(arm: str, mask: str | None, rate: float, sparsity: float, seed: int, accuracy: float) -> Trial:
    start = "init" if arm in ("dense", "ticket") else arm
    return Trial(
        key=_digest("key", arm, mask, rate, sparsity, seed),
        arm=arm,
        mask=mask,
        learning_rate=rate,
        sparsity=sparsity,
        density=1 - sparsity,
        seed=seed,
        epochs=EPOCHS,
        steps=EPOCHS * STEPS_PER_EPOCH,
        test_accuracy=round(accuracy, 2),
        test_loss=2.0 - accuracy / 60,
        diverged=False,
        cached=seed == 0,
        seconds=2.4,
        start_digest=_digest("start", start, rate, seed, mask if arm != "dense" else None, sparsity),
        mask_digest=_digest("mask", mask, rate, sparsity, seed) if mask else None,
        data_order_digest=_digest("order", seed),
    )


def _correlations(rate: float, masks: Sequence[str], seeds: int, draw: random.Random) -> list[Correlation]:
    rows: list[Correlation] = []
    for seed in range(seeds):
        for p in (0.1, 0.2, 0.3, 0.4, 0.5):
            value = p + (1 - p) * OVERLAP[rate] + draw.gauss(0, 0.01)
            rows.append(Correlation("theta_0/theta_T", rate, None, 0.0, seed, p, value, p))
        for mask in masks:
            rows += _sparse_correlations(rate, mask, seed, draw)
    return rows


def _sparse_correlations(rate: float, mask: str, seed: int, draw: random.Random) -> list[Correlation]:
    rows: list[Correlation] = []
    for sparsity in SPARSITIES:
        for pair, excess in (("ticket_0/finetune_T", OVERLAP[rate]), ("reinit_0/finetune_T", 0.02)):
            value = 0.2 + 0.8 * excess + draw.gauss(0, 0.01)
            rows.append(Correlation(pair, rate, mask, sparsity, seed, 0.2, value, 0.2))
        if 1 - sparsity > 0.2:
            for pair, excess in (("finetune_T/theta_0", OVERLAP[rate] / 2), ("finetune_T/theta_T", 0.6)):
                value = 0.2 + 0.8 * excess + draw.gauss(0, 0.01)
                rows.append(Correlation(pair, rate, mask, sparsity, seed, 0.2, value, 0.2))
    return rows


def _study(masks: Sequence[str], seeds: int, arms: Sequence[str], rates: Sequence[float]) -> dict[str, object]:
    return {
        "name": "quick",
        "model": "small_conv",
        "model_args": {},
        "data": "fashion-mini",
        "data_args": {},
        "recipe": {
            "epochs": EPOCHS,
            "batch_size": 64,
            "optimizer": "sgd",
            "momentum": 0.9,
            "weight_decay": 0.0001,
            "schedule": {"kind": "step", "milestones": [3.2, 4.8], "gamma": 0.1, "warmup": 0.0},
            "augment": [],
            "precision": "f32",
        },
        "learning_rates": list(rates),
        "masks": [{"kind": mask, "criterion": "magnitude", "allocation": "uniform"} for mask in masks],
        "sparsities": list(SPARSITIES),
        "scope": {"include": [], "exclude": []},
        "arms": list(arms),
        "rewind": "1ep",
        "seeds": seeds,
        "verdict": {"margin": 0.5, "gap": 0.5, "alpha": 0.05, "nontrivial_sparsity": 0.5},
    }


def _environment() -> dict[str, object]:
    return {
        "command": "prunetune audit quick --jobs 2",
        "prunetune": "0.1.0",
        "python": "3.11.2",
        "torch": "2.13.0",
        "cpu": "x86_64, 2 cores, AVX2",
        "device": "cpu",
        "mixed": False,
    }


def _invariants(trials: int) -> tuple[Invariant, ...]:
    return (
        Invariant("zeros stay zero", "pruned weights are exactly zero after every optimizer step", trials),
        Invariant("ticket starts at θ0", "on the kept weights, bit for bit", trials // 4),
        Invariant("same data order", "arms compared at a seed saw the same batches", trials),
    )


def _budget(masks: Sequence[str], arms: Sequence[str], rates: Sequence[float], seeds: int) -> list[Spent]:
    return [
        Spent(
            rate,
            mask,
            sparsity,
            arm,
            pretraining_epochs=EPOCHS * seeds,
            mask_epochs=EPOCHS * seeds * i if mask == "iterative" else 0,
            training_epochs=EPOCHS * seeds,
            note="the next round's training" if arm == "ticket" and mask == "iterative" else "",
        )
        for rate in rates
        for mask in masks
        for i, sparsity in enumerate(SPARSITIES)
        for arm in arms
    ]


def _layers(masks: Sequence[str]) -> tuple[Layer, ...]:
    kept = {f"{mask} @ {sparsity:g}": 1 - sparsity for mask in masks for sparsity in SPARSITIES}
    return (
        Layer("features.0.weight", (16, 1, 5, 5), False, "first convolution"),
        Layer("features.1.weight", (16,), False, "normalisation"),
        Layer("features.3.weight", (32, 16, 3, 3), True, "convolution weight", kept),
        Layer("features.6.weight", (64, 32, 3, 3), True, "convolution weight", kept),
        Layer("head.weight", (10, 64), True, "linear weight", kept),
        Layer("head.bias", (10,), False, "bias"),
    )


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
