"""A study of any number of steps, and a store in which all of them are done, without the time that this would take."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from prunetune.core.files import publish_folder
from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan, plan
from prunetune.spec.load import load_spec
from prunetune.steps import graph
from prunetune.steps.steps import Step, describe
from prunetune.store.layout import MANIFEST, METRICS, STEP, digest_bytes, json_bytes
from prunetune.store.store import Store

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
        left = [Left.of(store, step) for step in originals]
        for place in others:  # a step has the same position in the closure of each place
            copies = graph.closure(places[place])
            keys = {original.key: copy.key for original, copy in zip(originals, copies, strict=True)}
            for copy, one in zip(copies, left, strict=True):
                publish_folder(store.folder(copy.key), one.under(copy, keys, moved=place[0] % 7 / 10))


class Left(NamedTuple):
    """What a step left in a store."""

    about: Mapping[str, Any]
    metrics: Mapping[str, Any]
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, store: Store, step: Step) -> "Left":
        """Read all of it."""
        about = store.manifest(step.key)
        return cls(about, store.metrics(step.key), {name: store.read(step.key, name) for name in about["files"]})

    def under(self, copy: Step, keys: Mapping[str, str], moved: float) -> dict[str, bytes]:
        """The files of another step with the same results, made from the inputs that `keys` names."""
        accuracy = self.metrics.get("test_accuracy")
        metrics = {**self.metrics, **({} if accuracy is None else {"test_accuracy": accuracy - moved})}
        files = {**self.files, STEP: json_bytes(describe(copy)), METRICS: json_bytes(metrics)}
        about = {
            **self.about,
            "key": copy.key,
            "inputs": {keys[name[:KEY]] + name[KEY:]: digest for name, digest in self.about["inputs"].items()},
            "files": {name: {"sha256": digest_bytes(one), "size": len(one)} for name, one in files.items()},
        }
        return files | {MANIFEST: json_bytes({**about, "sha256": digest_bytes(json_bytes(about))})}
