"""A Ray cluster of two nodes on this machine, an audit on it, and one of them killed in the middle of a training.

Run by test_ray.py in a process of its own, where it can in a network namespace with nothing but loopback in it. Prints
what was told, as JSON; exit status 77 where Ray cannot be started here.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

import prunetune as pt
from prunetune.errors import ConfigError
from prunetune.execution.events import Event, Progress
from prunetune.execution.executors import ray as executor
from prunetune.execution.executors.ray import RayExecutor
from prunetune.store.store import Store
from tests.support.toy_study import TINY_AUDIT, Work, init

CANNOT_START = 77
NODE = {
    "num_cpus": 1,
    "node_ip_address": "127.0.0.1",
    "include_dashboard": False,
    "object_store_memory": 80 * 2**20,
}
# A node counts as dead after a few seconds of silence, and not after half a minute.
HEALTH = {"health_check_initial_delay_ms": 2000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
ALONE = Work((init(),))


class Killer:
    """Consumer of events that kills a node once, when it is in the middle of a training."""

    def __init__(self, node: Any) -> None:
        self.events: list[Event] = []
        self.killed = ""  # key of the training
        self._raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Progress) and event.epoch >= 2 and not self.killed:
            processes = self._raylet.children(recursive=True)
            if any(event.key[:12] in title(process) for process in processes):
                self.killed = event.key
                for process in [*processes, self._raylet]:  # none has time for a word, as when the power is lost
                    with suppress(psutil.NoSuchProcess):
                        process.kill()


def title(process: psutil.Process) -> str:
    """What a process calls itself: Ray has its own say which task they do."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def refused(address: str, store: Store) -> str:
    """What is said when this process has another torch than the nodes."""
    real = executor.versions
    executor.versions = lambda: {**real(), "torch": "0.1"}
    try:
        next(RayExecutor(address).run(ALONE, store))
    except ConfigError as error:
        return str(error)
    finally:
        executor.versions = real
    return "not refused"


def main(folder: Path) -> None:
    try:
        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"_system_config": HEALTH})
        victim = cluster.add_node(**NODE)
    except Exception as error:  # whatever the machine does not permit
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(CANNOT_START)
    try:
        address = str(cluster.address)
        said = refused(address, Store(folder / "store"))
        killer = Killer(victim)
        runs = RayExecutor(address, checkpoint_every=0.0)
        found = pt.audit(TINY_AUDIT, store=folder / "store", out=folder / "out", executor=runs, on_event=killer)
    finally:
        cluster.shutdown()
    events = [[event.kind, event.key, getattr(event, "message", "")] for event in killer.events]
    print(json.dumps({"refused": said, "killed": killer.killed, "events": events, "failures": found.failures}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
