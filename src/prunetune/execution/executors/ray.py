"""Run a plan on a Ray cluster: every step is a task, and what it tells streams back to the study.

The functions that Ray runs elsewhere stand at the end; they do what a local worker does.
"""

import os
import queue
import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from prunetune.core.environment import THREADS_PER_TRAINING, versions
from prunetune.errors import ConfigError
from prunetune.execution.events import Done, Event, Failed, Skipped
from prunetune.execution.executors.launch import WORKER_ENVIRONMENT, require_jobs
from prunetune.execution.executors.protocol import Assignment
from prunetune.execution.executors.worker import do
from prunetune.execution.runner import WorkerLost, drive
from prunetune.execution.scheduler import Work
from prunetune.steps.steps import device_of
from prunetune.store.backend import LEASE_FOLDER
from prunetune.store.checkpoints import EVERY
from prunetune.store.leases import Leases
from prunetune.store.store import Store, StoreWriter

try:
    import ray
    from ray._private import ray_constants  # why: docs/decisions/ray-connection.md
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise ConfigError("--executor ray needs the extra prunetune[ray]: pip install 'prunetune[ray]'") from error

GPU_SHARE = 0.25  # of a GPU for a training: a small network leaves most of a large one idle
ANSWER = 10.0  # seconds within which an address must answer
PROBE = 120.0  # seconds for all nodes to start a worker and say what they have
OBJECT_STORE = 100 * 2**20  # bytes; nothing but events passes through it

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # of HTTP/2, and no settings of ours
_SETTINGS = bytes([4])  # type of the first frame of an answer, its fourth byte
_OPTIONS: dict[str, Any] = {
    "max_retries": 0,  # what is lost is tried again by us
    "runtime_env": {"env_vars": WORKER_ENVIRONMENT},
}
_HOW = {
    "WorkerCrashedError": "was killed",
    "NodeDiedError": "was lost with its node",
    "OutOfMemoryError": "was killed by Ray, its node being out of memory",
}


class RayExecutor:
    """Runs steps as tasks of the Ray cluster at `address`, of one CPU each, or of a local one that it starts.

    `jobs` steps at once, else as many as the cluster has CPUs; a step on a GPU takes `gpus_per_training` of one. The
    store must be a folder that all nodes share. A session that the caller has opened by `ray.init` is used and kept.
    """

    def __init__(
        self,
        address: str | None = None,
        jobs: int | None = None,
        gpus_per_training: float = GPU_SHARE,
        checkpoint_every: float = EVERY,
    ) -> None:
        if not 0 < gpus_per_training <= 1:
            raise ConfigError(f"--gpus-per-training: {gpus_per_training} is no share of a GPU: above 0, at most 1")
        self.address = address or os.environ.get("RAY_ADDRESS")
        self.jobs = require_jobs(jobs)
        self.gpus_per_training = gpus_per_training
        self.checkpoint_every = checkpoint_every  # seconds

    def run(self, plan: Work, store: StoreWriter) -> Generator[Event, None, None]:
        """Do what `store` lacks of the plan, on the nodes that the cluster has and gets meanwhile.

        ConfigError where the cluster does not answer, or a node has other versions or another store.
        """
        store.prepare()
        leases = store.leases()
        with _connected(self.address, self.jobs), closing(leases):
            basis = Basis.of(store, leases)
            _check_nodes(basis)
            workers = RayWorkers(basis, self.jobs, self.gpus_per_training)
            yield from drive(plan, store, workers, leases, self.checkpoint_every)


class RayWorkers:
    """Tasks of the connected cluster; Ray chooses the nodes and starts and ends the processes."""

    def __init__(self, basis: "Basis", jobs: int | None, gpus_per_training: float) -> None:
        self._basis = basis
        self._jobs = jobs
        self._gpus = gpus_per_training
        self._do: Any = ray.remote(_do)
        self._tasks: dict[Any, str] = {}  # stream of events -> key of the step

    @property
    def limit(self) -> int:
        """As many steps as the cluster has CPUs just now, so that the plan's order holds and not that of a queue."""
        return self._jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def begin(self, assignment: Assignment) -> None:
        """Hand a step to Ray, which does it when and where there is room."""
        gpus = self._gpus if device_of(assignment.step).startswith("cuda") else 0
        options = {"num_cpus": 1, "num_gpus": gpus, "num_returns": "streaming", "name": assignment.step.label}
        task = self._do.options(**_OPTIONS, **options).remote(assignment, self._basis)
        self._tasks[task] = assignment.step.key

    def wait(self, timeout: float) -> Iterator[Event | WorkerLost]:
        """The next event of a step that has one."""
        if not self._tasks:
            time.sleep(timeout)
            return
        for task in ray.wait(list(self._tasks), timeout=timeout)[0]:
            report = self._next(task)
            if isinstance(report, Done | Failed | Skipped | WorkerLost):
                del self._tasks[task]
            yield report

    def finish(self) -> bool:
        """Tasks cannot be asked; their checkpoints are those of the last minute."""
        return False

    def end(self) -> None:
        """Kill what is still under way."""
        for task in self._tasks:
            with suppress(Exception):  # the cluster may be gone
                ray.cancel(task, force=True)

    def _next(self, task: Any) -> Event | WorkerLost:
        try:
            report: Any = ray.get(next(task))
            return report
        except StopIteration:
            return WorkerLost(self._tasks[task], "ended without a result")
        except RayTaskError as error:  # it refused to begin: whatever a step does wrong is an event
            raise _refusal(error) from error
        except RayError as error:
            how = type(error).__name__
            return WorkerLost(self._tasks[task], _HOW.get(how, f"was lost ({how})"))


@contextmanager
def _connected(address: str | None, jobs: int | None) -> Iterator[None]:
    """A session with the cluster, as long as it is needed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        quiet |= {"num_cpus": jobs, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    else:
        _require_grpc(address)
    try:
        with _loopback_only() if address is None else nullcontext():
            ray.init(address or "local", **quiet)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"--executor ray: no cluster at '{address or 'local'}' that can be used: {why}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Let `ray.init` start a cluster that listens on loopback alone (docs/decisions/ray-connection.md)."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _require_grpc(address: str) -> None:
    """ConfigError where no gRPC server answers, as which a cluster's head does (docs/decisions/ray-connection.md)."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "://" in address or not host or not port.isdecimal():
        raise ConfigError(f"--address: '{address}' is neither 'auto' nor HOST:PORT of a cluster's head")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER) as connection:
            connection.sendall(_HELLO)
            if connection.recv(4)[3:] == _SETTINGS or "RAY_USE_TLS" in os.environ:
                return
        why = "what answers there is something else"
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise ConfigError(f"--address: no Ray cluster at '{address}': {why}")


def _check_nodes(basis: "Basis") -> None:
    """Ask every node that steps may run on, before anything runs; steps ask again, for nodes that come later."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    check: Any = ray.remote(_check)
    asked = [check.options(**_OPTIONS, num_cpus=0, scheduling_strategy=place).remote(basis) for place in places]
    for answer in ray.wait(asked, num_returns=len(asked), timeout=PROBE)[0] if asked else []:
        try:
            ray.get(answer)
        except RayTaskError as error:
            raise _refusal(error) from error
        except RayError:
            continue  # a node that has just gone


def _refusal(error: Any) -> ConfigError:
    """Why a worker would not begin: it has said so, or it could not even import what it is to do."""
    if isinstance(error.cause, ConfigError):
        return ConfigError(str(error.cause))
    lines = [line.strip() for line in str(error.cause).splitlines() if line.strip()]
    return ConfigError(f"--executor ray: a worker cannot run prunetune: {lines[-1] if lines else error}")


class Basis(NamedTuple):
    """What a worker must have in common with the study."""

    store: str
    sign: str  # name of a claim in the store that the study holds
    versions: Mapping[str, str]

    @classmethod
    def of(cls, store: StoreWriter, leases: Leases) -> "Basis":
        """This process's own, with a sign by which workers know the store."""
        sign = f"study-{os.urandom(8).hex()}"
        leases.take(sign)
        return cls(str(store.root.resolve()), sign, versions())

    def check(self) -> None:
        """ConfigError where this machine differs."""
        here = socket.gethostname()
        if not Path(self.store, LEASE_FOLDER, self.sign).exists():
            raise ConfigError(f"store: '{self.store}' is not the same folder on {here}; give one that all nodes share")
        for name, version in versions().items():
            if version != self.versions[name]:
                other = f"{here} has {name} {version}, and this process {self.versions[name]}"
                raise ConfigError(f"--executor ray: {other}; install the same versions on all nodes")


def _check(basis: Basis) -> None:
    basis.check()


def _do(assignment: Assignment, basis: Basis) -> Iterator[Event]:
    """Do a step in a thread, so that what it tells can be passed on meanwhile."""
    basis.check()
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            torch.set_num_threads(THREADS_PER_TRAINING)
            events.put(do(assignment, Store(basis.store), events.put))
        finally:
            events.put(None)

    threading.Thread(target=work, daemon=True).start()
    while (event := events.get()) is not None:
        yield event
