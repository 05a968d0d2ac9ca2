"""A training's state between two epochs, captured and restored, so that it goes on to the very bytes it would have had.

What is drawn anew for every epoch from its seed (data order, augmentation) needs only the number of epochs done; all
else that the rest of a training depends on is here. A model that changes anything but its parameters and buffers while
it trains (a counter in a plain attribute) is beyond this.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunetune.training.admm import Admm
from prunetune.training.batches import TrainingBatches
from prunetune.training.recipe import TrainingTime
from prunetune.training.zero_check import PrunedZeroCheck

State = Mapping[str, Tensor]  # a state dict on the CPU that shares no memory with a model
Saved = Mapping[str, Any]  # dicts, lists, numbers, texts and tensors: what torch.load reads with weights_only


class Checkpoints(Protocol):
    """Where a training leaves its state between epochs, and finds it again after it was killed."""

    def load(self) -> Saved | None:
        """The state that an earlier attempt left, else None."""
        ...

    def offer(self, capture: Callable[[], Saved]) -> None:
        """An epoch is over: call `capture` and keep what it returns, or let it pass."""
        ...


@dataclass(kw_only=True, eq=False)
class TrainingState:
    """What there is of a training under way, live and on its device, and how far it has come."""

    model: nn.Module
    optimizer: Optimizer
    device: torch.device
    batches: TrainingBatches
    zero_check: PrunedZeroCheck | None  # None without a mask
    admm: Admm | None  # None without a penalty
    due: Mapping[int, Sequence[TrainingTime]]  # the snapshots asked for, by the number of optimizer steps before them
    steps: int = 0
    train_loss: list[float] = field(default_factory=list)  # per epoch
    snapshots: dict[TrainingTime, State] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)  # seconds; earlier by what a former attempt took

    @property
    def seconds(self) -> float:
        """What the training has taken so far, in all attempts."""
        return time.perf_counter() - self.began

    def keep_snapshots(self) -> None:
        """Copy the model's state for every snapshot that is due now."""
        for point in self.due.get(self.steps, ()):
            self.snapshots[point] = copied_state(self.model)

    def state_dict(self) -> dict[str, Any]:
        """The state after a whole epoch. Tensors are the live ones: write them before the next step."""
        return {
            "seconds": self.seconds,
            "steps": self.steps,
            "train_loss": self.train_loss,
            "snapshots": {str(point): dict(state) for point, state in self.snapshots.items()},
            "tensors": _live_tensors(self.model),
            "optimizer": self.optimizer.state_dict(),
            "watch": self.zero_check.seen if self.zero_check is not None else None,
            "admm": self.admm.state_dict() if self.admm is not None else None,
            "random": _generator_states(self.device),
        }

    def load_state_dict(self, saved: Saved) -> bool:
        """Bring a training that has taken no step to a captured state of itself; every memory order stays as it is.

        False, and nothing changed, where a snapshot that is asked for now was passed by without being kept.
        """
        kept = {TrainingTime.parse(text): state for text, state in saved["snapshots"].items()}
        passed = {point for step, points in self.due.items() if step <= saved["steps"] for point in points}
        if not passed <= kept.keys():
            return False
        self.began -= saved["seconds"]
        self.steps = saved["steps"]
        self.train_loss = list(saved["train_loss"])
        self.snapshots = {point: kept[point] for point in passed}
        self.batches.skip(len(self.train_loss))
        live = _live_tensors(self.model)
        for name, tensor in saved["tensors"].items():
            live[name].copy_(tensor)
        self.optimizer.load_state_dict(dict(saved["optimizer"]))
        if self.zero_check is not None:
            self.zero_check.restore(saved["watch"])
        if self.admm is not None:
            self.admm.load_state_dict(saved["admm"])
        _set_generators(self.device, saved["random"])
        return True


def copied_state(model: nn.Module) -> State:
    """The state dict on the CPU, in memory of its own, row-major."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def _live_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those too that no state dict holds."""
    return {name: tensor.detach() for name, tensor in chain(model.named_parameters(), model.named_buffers())}


def _generator_states(device: torch.device) -> list[Tensor]:
    """The state of the global generators that a model may draw from: the CPU's, and the device's own."""
    states = [torch.get_rng_state()]
    if device.type in ("cuda", "mps"):
        states.append(getattr(torch, device.type).get_rng_state())
    return states


def _set_generators(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).set_rng_state(states[1])
