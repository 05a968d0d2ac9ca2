"""A study whose trainings take milliseconds: networks, data and steps for the tests of `run`. Workers import it too."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.core.references import Ref
from prunetune.data import identify
from prunetune.sparsity.scope import Scope
from prunetune.steps.steps import Init, Measure, Prune, Step, Train, Transform, Weights
from prunetune.training.recipe import Recipe, Schedule, TrainingTime

SHAPE, OUTPUTS, IMAGES = (1, 6, 6), 3, 64
DATA = f"{__name__}:images"
ONE_EPOCH = TrainingTime(1.0, "ep")
TINY_AUDIT: dict[str, Any] = {  # four trainings of some seconds, of which three can be done at once
    "name": "tiny",
    "model": "tests.support.toy_study:slow_net",
    "model_args": {"seconds": 0.06},
    "data": "tests.support.toy_study:images",
    "recipe": {"epochs": 10, "batch_size": 16, "schedule": {"kind": "constant"}},
    "learning_rates": [0.05],
    "masks": ["one_shot"],
    "sparsities": [0.5],
    "arms": ["ticket", "reinit", "finetune"],
    "seeds": 1,
}


@dataclass(frozen=True)
class Work:
    """The part of a plan that an executor looks at."""

    steps: tuple[Step, ...]
    snapshots: Mapping[str, frozenset[TrainingTime]] = field(default_factory=dict)


def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise with a bright patch whose place is the class: 64 images to train on, 32 to test."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(IMAGES + 32) % OUTPUTS
    pixels = torch.randint(0, 120, (IMAGES + 32, *SHAPE), generator=generator, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        pixels[i, :, 2 * label : 2 * label + 2, :3] += 100
    return pixels[:IMAGES], labels[:IMAGES], pixels[IMAGES:], labels[IMAGES:]


def net(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Two convolutions with batch norm, and a linear layer: 4·4·9 + 64·3 prunable weights."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, outputs),
    )


def unseeded_net(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The classic bug: an initialiser that no seed reaches."""
    network = net(input_shape, outputs)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "big"))
        network[-1].weight.normal_(generator=generator)  # type: ignore[index, union-attr]
    return network


def constant_net(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Its counterpart: an initialiser that seeds itself, so that every seed gives the same network."""
    torch.manual_seed(0)
    return net(input_shape, outputs)


def slow_net(input_shape: tuple[int, ...], outputs: int, seconds: float = 0.02) -> nn.Module:
    """The network with a pause in every pass, so that a test can kill its training."""

    class Pause(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            time.sleep(seconds)
            return batch

    return nn.Sequential(*net(input_shape, outputs).children(), Pause())


def normless_net(input_shape: tuple[int, ...], outputs: int, seconds: float = 0.0) -> nn.Module:
    """The slow network without batch norm, whose shares of a batch together are the whole batch."""
    layers = list(slow_net(input_shape, outputs, seconds).children())
    return nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.BatchNorm2d)))


def deadly_net(input_shape: tuple[int, ...], outputs: int, marks: str, deaths: int) -> nn.Module:
    """Kills its own process the first `deaths` times; every time leaves a file in the folder `marks`."""
    died = len(list(Path(marks).iterdir()))
    if died < deaths:
        (Path(marks) / str(died)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return net(input_shape, outputs)


def hungry_net(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Asks for 64 TB an image."""

    class Hunger(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            return batch + batch.new_empty(len(batch) * 2**44).sum()

    return nn.Sequential(*net(input_shape, outputs).children(), Hunger())


def loss_not_a_number(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that is sound at first, and 0/0 once the network has learnt a little."""
    loss = nn.functional.cross_entropy(outputs, targets)
    return loss + (loss - loss) / (loss > 0.9)


def loss_per_image(outputs: Tensor, targets: Tensor) -> Tensor:
    """A user's mistake: one loss per image and not their mean."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def init(seed: int = 0, model: str = "net", **arguments: object) -> Init:
    return Init(Ref.of(f"tests.support.toy_study:{model}", arguments), SHAPE, OUTPUTS, seed)


def recipe(rate: float = 0.05, epochs: int = 2, **changes: object) -> Recipe:
    return Recipe(epochs, 16, rate, schedule=Schedule("constant"), **changes)  # type: ignore[arg-type]


def dense(start: Init, how: Recipe | None = None) -> Train:
    return Train(
        Weights(start),
        None,
        how or recipe(),
        identify(DATA),
        order_seed=11,
        augment_seed=12,
    )


def prune(source: Train, density: float = 0.5, within: Prune | None = None) -> Prune:
    return Prune(Weights(source), density, within, Ref.of("magnitude"), "uniform", "unstructured", Scope())


def sparse(start: Weights, mask: Prune, how: Recipe | None = None) -> Train:
    return Train(start, mask, how or recipe(), identify(DATA), order_seed=11, augment_seed=12)


def shuffled(start: Init) -> Weights:
    return Weights(start, None, Transform("shuffle", 5))


def measure(first: Weights, second: Weights, mask: Prune | None = None) -> Measure:
    return Measure(first, second, mask, (0.2, 0.4), Scope())


def small_study(model: str = "net", how: Recipe | None = None, **arguments: object) -> Work:
    """One seed: dense run, one-shot mask, ticket, reinit, rewind, finetune, R_p."""
    start, other = init(0, model, **arguments), init(1, model, **arguments)
    theta_t = dense(start, how)
    mask = prune(theta_t)
    begins = [Weights(start), Weights(other), Weights(theta_t, ONE_EPOCH), Weights(theta_t), shuffled(start)]
    arms = [sparse(begin, mask, how) for begin in begins]
    pair = measure(Weights(start), Weights(theta_t))
    return Work((start, other, theta_t, mask, *arms, pair), {theta_t.key: frozenset({ONE_EPOCH})})
