"""How workers are started: how many, each one process or the ranks of a training under torchrun, on which GPUs."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory

import torch

from prunetune.errors import ConfigError, shown
from prunetune.execution.scheduler import Work
from prunetune.steps.steps import Train, device_of
from prunetune.store.store import StoreWriter

GPU_MEMORY = 12 * 10**9  # bytes of a GPU for each of the trainings that share it, where nobody says how many

# The worker sees exactly the modules that this process sees; -P keeps the current folder from coming first.
_BOOT = (
    "import sys; store, log, rendezvous, *sys.path[:] = sys.argv[1:]; "
    "from prunetune.execution.executors.worker import main; main(store, log, rendezvous)"
)
WORKER_ENVIRONMENT = {
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM")},
    # glibc keeps freed memory for the next step's activations instead of asking the system for it anew each time
    "MALLOC_MMAP_MAX_": "0",  # what is mapped goes back at once; a threshold for it can be 32 MiB at most
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # in pages of 2 MiB, where the system gives such to who asks
}
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
# Ranks meet by files, and the sockets on which they then add up gradients are loopback's: nothing listens beyond it.
_RANKS_ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": _LOOPBACK,
    "NCCL_SOCKET_IFNAME": _LOOPBACK,
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def default_jobs() -> int:
    """One worker per core that this process may use: each training has one thread."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_jobs(jobs: int | None) -> int | None:
    """ConfigError for a number of workers with which no step would ever begin; None leaves it to the executor."""
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise ConfigError(f"jobs: {shown(jobs)}; must be a whole number of at least 1, or None")
    return jobs


def jobs_for(plan: Work) -> int:
    """How many workers: one for every core; on GPUs as many as fit into their memory, and one for every core at most.

    Where several devices share a training, one for as many cores or GPUs as these are.
    """
    ranks = ranks_of(plan)
    if not any(device_of(step).startswith("cuda") for step in plan.steps):
        return max(1, default_jobs() // ranks)
    gpus = [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
    if ranks > 1:
        return max(1, len(gpus) // ranks)
    return max(1, min(default_jobs(), sum(max(1, memory // GPU_MEMORY) for memory in gpus)))


def ranks_of(plan: Work) -> int:
    """Of how many processes a worker is: as many as devices share a training."""
    return max((step.devices or 1 for step in plan.steps if isinstance(step, Train)), default=1)


def start(store: StoreWriter, log: Path, place: int, ranks: int, resources: ExitStack) -> subprocess.Popen[bytes]:
    """Start a worker that serves its standard streams; `resources` are what it needs until it has ended.

    Workers go round the GPUs by their `place`, counted from 0, `ranks` each. Several ranks share the streams.
    """
    if ranks == 1:
        return subprocess.Popen(_worker(store, log), stdin=PIPE, stdout=PIPE, env=environment(place, ranks))
    folder = Path(resources.enter_context(TemporaryDirectory(prefix="prunetune-", ignore_cleanup_errors=True)))
    return subprocess.Popen(
        [*_torchrun(ranks, folder), *_worker(store, log, str(folder / "ranks"))],
        stdin=PIPE,
        stdout=PIPE,
        stderr=resources.enter_context(log.open("ab")),  # what torchrun has to say
        env=environment(place, ranks) | _RANKS_ENVIRONMENT,
        start_new_session=True,  # as the ranks themselves: Ctrl-C reaches neither
    )


def environment(place: int, ranks: int) -> dict[str, str]:
    """The environment of the worker in a place: one thread, memory that is kept, and its own GPUs of several."""
    gpus = _visible_gpus()
    if len(gpus) <= ranks:
        return {**os.environ, **WORKER_ENVIRONMENT}
    own = ",".join(gpus[(place * ranks + i) % len(gpus)] for i in range(ranks))
    return {**os.environ, **WORKER_ENVIRONMENT, "CUDA_VISIBLE_DEVICES": own}


def _worker(store: StoreWriter, log: Path, rendezvous: str = "") -> list[str]:
    return [sys.executable, "-P", "-c", _BOOT, str(store.root), str(log), rendezvous, *map(str, sys.path)]


def _torchrun(ranks: int, folder: Path) -> list[str]:
    """The command before that of the ranks. Its own rendezvous is a file too."""
    settings = {
        "nproc-per-node": ranks,
        "rdzv-backend": "c10d",
        "rdzv-conf": "store_type=file",
        "rdzv-endpoint": folder / "agent",
        "local-addr": "127.0.0.1",
        "log-dir": folder,
    }
    module = [sys.executable, "-P", "-m", "torch.distributed.run"]
    return [*module, *(f"--{name}={value}" for name, value in settings.items()), "--no-python"]


def _visible_gpus() -> list[str]:
    """The names of this process's GPUs, as `CUDA_VISIBLE_DEVICES` takes them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]
