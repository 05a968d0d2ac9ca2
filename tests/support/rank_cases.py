"""Trainings that two ranks do together; run as a program, this is one of the ranks: MEETING OUTPUT."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunetune.core.references import Ref
from prunetune.data import ExampleSets
from prunetune.data.parts import from_mapping
from prunetune.store.checkpoints import Shared
from prunetune.training.admm import Penalty
from prunetune.training.distributed import SINGLE, World, join
from prunetune.training.loop import EpochEnd, Trained, train
from prunetune.training.recipe import Schedule, TrainingTime
from prunetune.training.training_state import Checkpoints
from tests.support import task_makers
from tests.support.task_makers import TwoInputs
from tests.support.train_makers import COUNT, RECIPE, Killed, Shelf, dataset, half_mask, network

RANKS = 2
UNEVEN = replace(RECIPE, batch_size=15, epochs=2)  # shares of 7 and 8, and of 2 and 3 at the end of an epoch


def plain(seed: int = 0) -> nn.Module:
    """The network without its batch norm."""
    model = network(seed)
    model[1] = nn.Identity()
    return model


def dropping() -> nn.Module:
    model = plain()
    assert isinstance(model, nn.Sequential)
    return model.insert(5, nn.Dropout(0.3))


def two_inputs() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TwoInputs()


def patients() -> ExampleSets:
    """As many as there are images elsewhere, their numbers under two names."""
    (inputs, targets), (tested, wanted) = task_makers.two_inputs().values()
    few = {name: values[:COUNT] for name, values in inputs.items()}
    return from_mapping({"train": (few, targets[:COUNT]), "test": (tested, wanted)}, "patients")[0]


NUMBERS = {"task": Ref.of("regression"), "clip_norm": 0.5, "decay_norms": False}
CASES: dict[str, dict[str, Any]] = {
    "named inputs, clipped": {"recipe": replace(UNEVEN, **NUMBERS), "model": two_inputs, "data": patients},
    "even": {"recipe": RECIPE},
    "uneven": {"recipe": UNEVEN},
    "augmented": {"recipe": replace(UNEVEN, augment=("crop", "flip"))},
    "masked": {"recipe": UNEVEN, "mask": True},
    "adam": {"recipe": replace(UNEVEN, optimizer="adam", learning_rate=0.002), "mask": True},
    "admm": {"recipe": replace(UNEVEN, schedule=Schedule("constant")), "penalty": Penalty(0.5, rho=0.5)},
    "batch norm": {"recipe": replace(RECIPE, schedule=Schedule("constant")), "model": network, "mask": True},
    "dropout": {"recipe": replace(RECIPE, epochs=4), "model": dropping},
}


def run(
    case: str,
    ranks: World = SINGLE,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[EpochEnd], None] | None = None,
    model: nn.Module | None = None,
) -> Trained:
    settings: dict[str, Any] = CASES[case]
    fresh: nn.Module = settings.get("model", plain)() if model is None else model
    return train(
        fresh,
        settings.get("data", dataset)(),
        settings["recipe"],
        order_seed=3,
        augment_seed=4,
        mask=half_mask(fresh) if "mask" in settings else None,
        penalty=settings.get("penalty"),
        snapshots=[TrainingTime(1.0, "ep")],
        on_epoch=on_epoch,
        checkpoints=checkpoints,
        ranks=ranks,
    )


def interrupted(ranks: World) -> Trained:
    """The training with dropout killed in its third epoch: every rank goes on from what the first one has kept."""
    checkpoints = Shared(Shelf(), ranks)

    def die(end: EpochEnd) -> None:
        if end.epoch == 3:
            raise Killed

    with suppress(Killed):
        run("dropout", ranks, checkpoints, die)
    return run("dropout", ranks, checkpoints)


def strayed(ranks: World) -> Trained:
    """A training in which the second rank's weights are changed after the last step."""
    model = plain()

    def change(end: EpochEnd) -> None:
        if ranks.rank == 1 and end.epoch == end.epochs:
            next(model.parameters()).data[0] += 1e-6

    return run("even", ranks, on_epoch=change, model=model)


def main(rendezvous: str, output: str) -> None:
    """Do them all as one of the ranks, and leave what came of them in OUTPUT/RANK.pt."""
    ranks = join(rendezvous)
    found = {case: run(case, ranks) for case in CASES}
    found |= {"interrupted": interrupted(ranks), "strayed": strayed(ranks)}
    torch.save(found, Path(output) / f"{ranks.rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
