"""A training's state between two epochs, captured and restored, so that it goes on to the very bytes it would have had.

What is drawn anew for every epoch from its seed (data order, augmentation) needs only the number of epochs done; all
else that the rest of a training depends on is here. A model that changes anything but its parameters and buffers while
it trains (a counter in a plain attribute) is beyond this.
"""

import time
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunetune.training.admm import Admm
from prunetune.training.batches import Feed
from prunetune.training.recipe import Point
from prunetune.training.zero_check import PrunedZeroCheck

Saved = Mapping[str, Any]  # dicts, lists, numbers, texts and tensors: what torch.load reads with weights_only


class Checkpoints(Protocol):
    """Where a training leaves its state between epochs, and finds it again after it was killed."""

    def load(self) -> Saved | None:
        """The state that an earlier attempt left, else None."""
        ...

    def offer(self, capture: Callable[[], Saved]) -> None:
        """An epoch is over: call `capture` and keep what it returns, or let it pass."""
        ...


class Underway(Protocol):
    """What there is of a training under way."""

    model: nn.Module
    optimizer: Optimizer
    device: torch.device
    feed: Feed
    watch: PrunedZeroCheck | None
    admm: Admm | None
    steps: int
    train_loss: list[float]
    snapshots: dict[Point, Mapping[str, Tensor]]
    points: dict[int, list[Point]]
    began: float


def capture(training: Underway) -> dict[str, Any]:
    """The state after a whole epoch. Tensors are the live ones: write them before the next step."""
    return {
        "seconds": time.perf_counter() - training.began,
        "steps": training.steps,
        "train_loss": training.train_loss,
        "snapshots": {str(point): dict(state) for point, state in training.snapshots.items()},
        "tensors": _tensors(training.model),
        "optimizer": training.optimizer.state_dict(),
        "watch": training.watch.state() if training.watch is not None else None,
        "admm": training.admm.state() if training.admm is not None else None,
        "random": _random(training.device),
    }


def restore(training: Underway, saved: Saved) -> bool:
    """Bring a training that has taken no step to a captured state of itself; every memory order stays as it is.

    False, and nothing changed, where a snapshot that is asked for now was passed by without being kept.
    """
    kept = {Point.parse(text): state for text, state in saved["snapshots"].items()}
    due = {point for step, points in training.points.items() if step <= saved["steps"] for point in points}
    if not due <= kept.keys():
        return False
    training.began -= saved["seconds"]
    training.steps = saved["steps"]
    training.train_loss = list(saved["train_loss"])
    training.snapshots = {point: kept[point] for point in due}
    training.feed.skip(len(training.train_loss))
    live = _tensors(training.model)
    for name, tensor in saved["tensors"].items():
        live[name].copy_(tensor)
    training.optimizer.load_state_dict(dict(saved["optimizer"]))
    if training.watch is not None:
        training.watch.restore(saved["watch"])
    if training.admm is not None:
        training.admm.restore(saved["admm"])
    _set_random(training.device, saved["random"])
    return True


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those too that no state dict holds."""
    return {name: tensor.detach() for name, tensor in chain(model.named_parameters(), model.named_buffers())}


def _random(device: torch.device) -> list[Tensor]:
    """The state of the global generators that a model may draw from: the CPU's, and the device's own."""
    states = [torch.get_rng_state()]
    if device.type in ("cuda", "mps"):
        states.append(getattr(torch, device.type).get_rng_state())
    return states


def _set_random(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).set_rng_state(states[1])
