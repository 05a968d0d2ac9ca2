"""A study of any number of steps, and a store in which all of them are done, without the time that this would take."""

from collections.abc import Collection, Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from prunetune.run.execute import execute
from prunetune.run.shelves import MASK, STATE
from prunetune.run.store import Store
from prunetune.study import graph
from prunetune.study.plan import Plan, plan
from prunetune.study.spec import load_spec
from prunetune.study.steps import Step
from prunetune.train.recipe import Point

KEY = 64  # digits, with which the name of an input begins
STUDY: dict[str, Any] = {
    "name": "many-steps",
    "model": "benchmarks.synthetic:network",
    "data": "benchmarks.synthetic:images",
    "recipe": {"epochs": 2, "batch_size": 32},
    "sparsities": [0.5, 0.75, 0.875, 0.9375],
    "rewind": "1ep",
}


def network(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """144 + 192 prunable weights behind a first convolution."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, outputs),
    )


def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise with a bright patch whose place is the class: 64 images to train on, 32 to test."""
    labels = torch.arange(96) % 3
    pixels = torch.randint(0, 120, (96, 1, 6, 6), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        pixels[i, :, 2 * label : 2 * label + 2, :3] += 100
    return pixels[:64], labels[:64], pixels[64:], labels[64:]


def planned(seeds: int, rates: int) -> Plan:
    """The plan of a study of four sparsities and four arms; a seed at a rate has 34 steps, and a seed two draws."""
    return plan(load_spec({**STUDY, "seeds": seeds, "learning_rates": [(1 + i) / 1000 for i in range(rates)]}))


def fill(store: Store, done: Plan) -> None:
    """Store every step of the plan: those of one seed and rate are done, the others get their results under own keys.

    Accuracies are moved a little by seed. Nothing waits for the disk.
    """
    store.prepare()
    places: dict[tuple[int, float], list[Step]] = {}
    for row in (*done.trials, *done.correlations):
        places.setdefault((row.seed, row.learning_rate), []).append(row.step)
    first, *others = places
    originals = graph.closure(places[first])
    with patch("os.fsync"):
        for step in originals:
            execute(step, store, done.snapshots.get(step.key, frozenset()))
        for place in others:  # a step has the same position in the closure of each place
            pairs = list(zip(originals, graph.closure(places[place]), strict=True))
            keys = {original.key: copy.key for original, copy in pairs}
            for original, copy in pairs:
                if not store.has(copy.key):  # draws are shared by the rates
                    points = done.snapshots.get(copy.key, frozenset())
                    _copy(store, original, copy, points, keys, moved=place[0] % 7 / 10)


def _copy(
    store: Store, original: Step, copy: Step, points: Collection[Point], keys: Mapping[str, str], moved: float
) -> None:
    """Store under the key of `copy` what `original` left, its inputs under their new keys too."""
    key, about, metrics = original.key, store.manifest(original.key), store.metrics(original.key)
    if metrics.get("test_accuracy") is not None:
        metrics["test_accuracy"] -= moved
    store.write(
        copy,
        metrics,
        state=store.state(key) if STATE in about["files"] else None,
        mask=store.mask(key) if MASK in about["files"] else None,
        snapshots={at: store.state(key, at) for at in points},
        inputs={keys[name[:KEY]] + name[KEY:]: digest for name, digest in about["inputs"].items()},
        environment=about["environment"],
        seconds=about["seconds"],
    )
