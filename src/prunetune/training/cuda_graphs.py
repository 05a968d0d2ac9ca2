"""A training step recorded once and replayed: on a GPU the hundreds of kernels of a small network start as one.

The step is the very function that runs where nothing is recorded. It reads a batch from tensors that stay where they
are, and leaves everything in such tensors, on the device; what the host does between steps (the learning rate, ADMM's
updates, snapshots) is no part of it. Random numbers that a model draws on the device come from the global generator,
which a CUDA graph advances by itself.
"""

import random
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch

from prunetune.training.batches import BatchIndices
from prunetune.training.distributed import World

WARM_UP = 3  # steps that run as they are: what is made when first needed (momentum, handles, algorithms) is there then

Work = Callable[[], None]


class Recorder(Protocol):
    """What turns work on a device into something that can be done again."""

    def rehearse(self, work: Work) -> str | None:
        """Do the work; why it cannot be recorded, where that shows."""
        ...

    def record(self, work: Work) -> Work:
        """The replay of the work, which is not done now; RuntimeError where it cannot be recorded after all."""
        ...


class CudaGraphs:
    """Records CUDA graphs, on the current stream."""

    def rehearse(self, work: Work) -> str | None:
        """Do the work, and look for what a graph would leave out: waits for the device, draws on the host.

        To look first is better than to fail: a recording that fails may leave the process's CUDA context unusable.
        """
        mode, drawn = torch.cuda.get_sync_debug_mode(), _host_generators()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        if any("called a synchronizing CUDA operation" in str(warning.message) for warning in caught):
            return "the host waits for the device in every step"
        return None if _host_generators() == drawn else "random numbers are drawn on the host in every step"

    def record(self, work: Work) -> Work:
        """Capture the work as a graph with memory of its own."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            work()
        return graph.replay


def recorder_for(device: torch.device, ranks: World) -> Recorder | None:
    """What records the steps of a training; None where they run as they are: elsewhere than on CUDA, and under DDP."""
    return CudaGraphs() if device.type == "cuda" and ranks.count == 1 else None


class GraphedStep:
    """Does `step` for one batch after another: a few times as it is, then by replay, with a recording for every size.

    Where a step cannot be recorded, all run as they are, and `tell` gets the reason.
    """

    def __init__(self, step: Callable[[BatchIndices], None], recorder: Recorder, tell: Callable[[str], None]) -> None:
        self._step = step
        self._recorder = recorder
        self._tell = tell
        self._met: Counter[int] = Counter()
        self._replays: dict[int, tuple[BatchIndices, Work]] = {}
        self._refused = False

    def __call__(self, batch: BatchIndices) -> None:
        """Do the step for a batch."""
        size = len(batch.indices)
        self._met[size] += 1
        if self._refused or self._met[size] < WARM_UP:
            self._step(batch)
        elif self._met[size] == WARM_UP:
            self._refuse(self._recorder.rehearse(partial(self._step, batch)))
        elif size in self._replays or self._record(batch):
            self._replay(batch)
        else:
            self._step(batch)

    def forget(self) -> None:
        """Something that is no tensor has changed, or a tensor was replaced: record anew."""
        self._replays.clear()

    def _record(self, batch: BatchIndices) -> bool:
        static = batch.copy()
        try:
            self._replays[len(batch.indices)] = static, self._recorder.record(partial(self._step, static))
        except RuntimeError as error:  # the end of a recording that failed raises again: the first says why
            self._refuse(str(error.__context__ or error).partition("\n")[0])
        return not self._refused

    def _replay(self, batch: BatchIndices) -> None:
        static, replay = self._replays[len(batch.indices)]
        for own, given in zip(static.tensors, batch.tensors, strict=True):
            own.copy_(given)
        replay()

    def _refuse(self, why: str | None) -> None:
        if why is not None:
            self._refused = True
            self.forget()
            self._tell(f"runs step by step, without a CUDA graph: {why}")


def _host_generators() -> tuple[bytes, object]:
    """The state of the generators that a model may draw from on the host."""
    return torch.get_rng_state().numpy().tobytes(), random.getstate()
