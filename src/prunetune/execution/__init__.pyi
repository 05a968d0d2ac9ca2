from prunetune.execution.executors.local import LocalExecutor as LocalExecutor
from prunetune.execution.executors.ray import RayExecutor as RayExecutor
from prunetune.execution.executors.slurm import SlurmExecutor as SlurmExecutor
