"""The executors by their names, as the command line has them."""

from collections.abc import Sequence

from prunetune.errors import ConfigError, unknown
from prunetune.execution.executors.local import LocalExecutor
from prunetune.execution.runner import Executor

NAMES = ("local", "ray", "slurm")


def executor_named(
    name: str,
    jobs: int | None = None,
    address: str | None = None,
    gpus_per_training: float | None = None,
    slurm: Sequence[str] = (),
) -> Executor:
    """The executor called `name`; ConfigError for a name that there is not, or an option that is another one's."""
    if name not in NAMES:
        raise unknown("--executor", name, NAMES)
    if name != "ray" and address is not None:
        raise ConfigError(f"--address: '{address}': only with --executor ray")
    if name != "ray" and gpus_per_training is not None:
        raise ConfigError(f"--gpus-per-training: {gpus_per_training}: only with --executor ray")
    if name != "slurm" and slurm:
        raise ConfigError(f"--slurm: '{slurm[0]}': only with --executor slurm")
    if name == "ray":
        from prunetune.execution.executors.ray import GPU_SHARE, RayExecutor

        return RayExecutor(address, jobs, GPU_SHARE if gpus_per_training is None else gpus_per_training)
    if name == "slurm":
        from prunetune.execution.executors.slurm import SlurmExecutor, read_parameters

        return SlurmExecutor(jobs, read_parameters(slurm))
    return LocalExecutor(jobs)
