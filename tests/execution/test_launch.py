"""Which GPUs a worker sees, and how many workers there are, on machines that are made up."""

from types import SimpleNamespace

import pytest
import torch

from prunetune import api
from prunetune.execution.executors import launch
from prunetune.execution.executors.launch import environment, jobs_for
from prunetune.plan.compile import plan
from prunetune.spec.load import load_spec
from tests.support.refusals import refused


def have_gpus(monkeypatch: pytest.MonkeyPatch, *memory: int) -> None:
    """A machine with GPUs of so many gigabytes each, and 16 cores."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(memory))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(memory))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: SimpleNamespace(total_memory=memory[number] * 10**9)
    )
    monkeypatch.setattr(launch, "default_jobs", lambda: 16)


@pytest.mark.parametrize(
    ("gpus", "named", "ranks", "seen"),
    [
        (0, None, 1, [None, None, None]),
        (1, None, 1, [None, None, None]),
        (2, None, 1, ["0", "1", "0"]),
        (3, "4,GPU-5,7", 1, ["4", "GPU-5", "7"]),
        (4, None, 2, ["0,1", "2,3", "0,1"]),
        (2, None, 2, [None, None, None]),
    ],
)
def test_workers_go_round_the_gpus(
    gpus: int, named: str | None, ranks: int, seen: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    have_gpus(monkeypatch, *[80] * gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert [environment(place, ranks).get("CUDA_VISIBLE_DEVICES") for place in range(3)] == [
        named if one is None else one for one in seen
    ]


@pytest.mark.parametrize(
    ("device", "devices", "memory", "jobs"),
    [
        ("cpu", 1, (), 16),
        ("cpu", 3, (), 5),
        ("cpu", 32, (), 1),
        ("cuda", 1, (85,), 7),
        ("cuda", 1, (8,), 1),
        ("cuda", 1, (150, 150), 16),
        ("cuda", 2, (80, 80, 80, 80), 2),
    ],
)
def test_trainings_at_once(
    device: str, devices: int, memory: tuple[int, ...], jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_gpus(monkeypatch, *memory)
    assert jobs_for(plan(load_spec("quick", [f"devices={devices}", "seeds=1"]), device)) == jobs


def test_several_devices_elsewhere() -> None:
    with refused("devices", "2", "1", "local"):
        api.plan_study("quick", ["devices=2"], remote=True)


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    have_gpus(monkeypatch, 80, 80)
    assert api.resolve_device("auto", 2) == "cuda"
    assert api.resolve_device("cpu", 64) == "cpu"
    with refused("devices", "cuda", "3", "2", "devices"):
        api.resolve_device("cuda", 3)
