"""Executors by their names, and what is said of options that are another one's, or of an extra that is missing."""

import sys

import pytest

from prunetune.api import plan_study
from prunetune.cli.options import executor_named
from prunetune.errors import ConfigError
from prunetune.execution.executors.local import LocalExecutor
from tests.support.refusals import refused
from tests.support.toy_study import TINY_AUDIT


def test_the_local_one() -> None:
    local = executor_named("local", 7)
    assert isinstance(local, LocalExecutor)
    assert local.jobs == 7


def test_ray_with_its_options() -> None:
    pytest.importorskip("ray", reason="needs the extra prunetune[ray]")
    from prunetune.execution.executors.ray import RayExecutor

    ray = executor_named("ray", 3, "10.0.0.1:6379", 0.5)
    assert isinstance(ray, RayExecutor)
    assert (ray.jobs, ray.address, ray.gpus_per_training) == (3, "10.0.0.1:6379", 0.5)
    with refused("--gpus-per-training", "1.5", "GPU", "share"):
        executor_named("ray", gpus_per_training=1.5)


def test_slurm_with_its_options() -> None:
    pytest.importorskip("submitit", reason="needs the extra prunetune[slurm]")
    from prunetune.execution.executors.slurm import SlurmExecutor

    slurm = executor_named("slurm", 5, slurm=["time=5"])
    assert isinstance(slurm, SlurmExecutor)
    assert (slurm.jobs, slurm.parameters) == (5, {"time": 5})


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("rya", {}, "--executor: unknown 'rya'; did you mean 'ray'?"),
        ("local", {"address": "auto"}, "--address: 'auto': only with --executor ray"),
        ("slurm", {"gpus_per_training": 0.5}, "--gpus-per-training: 0.5: only with --executor ray"),
        ("ray", {"slurm": ["time=5"]}, "--slurm: 'time=5': only with --executor slurm"),
    ],
)
def test_refused(name: str, options: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        executor_named(name, **options)  # type: ignore[arg-type]
    assert str(caught.value) == why


@pytest.mark.parametrize(("name", "library"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_extra_that_is_missing(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"prunetune.execution.executors.{name}", raising=False)
    with pytest.raises(ConfigError) as caught:
        executor_named(name)
    assert str(caught.value).endswith(f"needs the extra prunetune[{name}]: pip install 'prunetune[{name}]'")


def test_steps_elsewhere_need_a_shared_folder() -> None:
    with refused("store", "memory://steps", "URL", "folder"):
        plan_study(TINY_AUDIT, store="memory://steps", remote=True)
