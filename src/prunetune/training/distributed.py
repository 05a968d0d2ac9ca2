"""The processes that train one network together, each on its share of every batch, by torch's DistributedDataParallel.

Every rank draws the whole data order and all augmentations of the epoch, as a process alone does, and uses the rows of
its share: equal seeds mean the same images. Gradients are added up by the shares' sizes, so that they are the whole
batch's, an uneven one too. Batch norm sees each share by itself, and its running statistics are the first rank's.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prunetune.errors import ConfigError, given

T = TypeVar("T")
Bucket = dist.GradBucket  # pyright: ignore[reportPrivateImportUsage]

PATIENCE = timedelta(days=30)  # with which the ranks wait for one another: torchrun notices one that has ended


class Share(NamedTuple):
    """A rank's part of a batch: the epoch's images number `start` to `stop`, `weight` of all that the batch has."""

    start: int
    stop: int
    weight: float


@dataclass(frozen=True)
class World:
    """Which of the processes that share a training this one is, and how many they are.

    Where they are several, `join` has brought them together, and all must make the same calls in the same order.
    """

    rank: int = 0
    count: int = 1

    def shares(self, n: int, batch_size: int) -> list[Share]:
        """This rank's part of every batch of an epoch of `n` images, consecutive ones; sizes differ by at most one.

        ConfigError where a rank would get no image.
        """
        smallest = n % batch_size or batch_size
        if smallest < self.count:
            batch = f"the last batch of an epoch has {smallest} of {n} images"
            raise ConfigError(f"devices: {self.count}; {batch}; choose another recipe.batch_size or fewer devices")
        return [self._share(start, min(batch_size, n - start)) for start in range(0, n, batch_size)]

    def _share(self, start: int, size: int) -> Share:
        first, last = (size * rank // self.count for rank in (self.rank, self.rank + 1))
        return Share(start + first, start + last, (last - first) / size)

    def replicated(self, model: nn.Module, weight: Callable[[], float]) -> nn.Module:
        """`model`, or its DDP form, whose gradients are the sum over ranks, each times its `weight` at that moment.

        The first rank's parameters are everybody's from here on, and its buffers at every forward pass.
        """
        if self.count == 1:
            return model

        def add_up(state: object, bucket: Bucket) -> torch.futures.Future[Tensor]:
            summed = dist.all_reduce(bucket.buffer().mul_(weight()), async_op=True)
            return given(summed, "this process is a rank").get_future().then(lambda future: future.value()[0])

        network = DistributedDataParallel(model)
        network.register_comm_hook(None, add_up)
        return network

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_first(self, value: T) -> T:
        """The first rank's value, for all."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]


SINGLE = World()


def join(rendezvous: str | Path) -> World:
    """Meet the other ranks that torchrun has started, by the file `rendezvous`: gloo, and NCCL where each has a GPU."""
    ranks = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    backend = "gloo"
    if torch.cuda.device_count() >= ranks.count:
        torch.cuda.set_device(ranks.rank)
        backend = "cpu:gloo,cuda:nccl"
    where: dict[str, Any] = {"init_method": f"file://{rendezvous}", "rank": ranks.rank, "world_size": ranks.count}
    dist.init_process_group(backend, timeout=PATIENCE, **where)
    return ranks
