"""Every benchmark runs at its smallest, its record comes back, and what it counts is right."""

import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.__main__ import main, measure
from benchmarks.catalogue import BENCHMARKS
from benchmarks.findings import read, save
from benchmarks.gpu import seconds_each
from benchmarks.growth import draw
from benchmarks.material import SHAPE, Setting
from benchmarks.rounds import Options
from benchmarks.serving import PRODUCT
from benchmarks.sharing import study
from benchmarks.tables import markdown
from prunetune.training import loop

QUICK = Options(rounds=1, quick=True)
COUNTED = ("sharing", "ordering")  # the others train, or start processes
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def marks(name: str) -> list[pytest.MarkDecorator]:
    if BENCHMARKS[name].needs_gpu:
        return NEEDS_GPU
    return [] if name in COUNTED else [pytest.mark.slow]


@contextmanager
def served_here(
    make: Callable[[], Callable[[], object]], environment: Mapping[str, str] = PRODUCT
) -> Iterator[Callable[[], object]]:
    yield pickle.loads(pickle.dumps(make))()


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variants without a process of their own, which would import torch for seconds; test_benchmark_rounds has such."""
    for name, module in [*sys.modules.items()]:
        if name.startswith("benchmarks.") and hasattr(module, "served"):
            monkeypatch.setattr(module, "served", served_here)
    monkeypatch.setattr(loop, "strided_depthwise_in_float32", loop.strided_depthwise_in_float32)  # one replaces it


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in BENCHMARKS])
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    found = measure(name, QUICK, idle=None)
    assert read(save(found, tmp_path)) == found
    samples = [sample for one in found.findings.comparisons for row in one.rows for sample in row.samples]
    assert samples or found.findings.tables
    assert all(sample > 0 for sample in samples)
    assert all(share > 0 for one in found.findings.comparisons for row in one.rows for share in row.shares)
    assert markdown(found).endswith("\n")
    if name == "growth":
        drawn = draw(found.findings)
        assert drawn.count("<svg") == 1
        assert "mathdefault" not in drawn  # a label that matplotlib would typeset, which an SVG of ours does not


def test_sharing_counts_what_can_be_counted_by_hand() -> None:
    """One-shot at ten sparsities: a dense run, and 4 arms x 10; apart, each of the 40 needs a dense run of its own."""
    found = study([0.1], 1, ["one_shot"])
    assert (found.trainings, found.separate_trainings) == (41, 81)


def test_the_arithmetic_of_a_convolution_is_counted() -> None:
    """lenet_300_100, three linear layers: 2 operations a weight forward, and twice that backward but for the input."""
    weights = SHAPE[0] * SHAPE[1] * SHAPE[2] * 300, 300 * 100, 100 * 10
    assert Setting("lenet_300_100").flops() == 6 * sum(weights) - 2 * weights[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_its_benchmark_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "--force"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "benchmarks: gpu: needs a CUDA device, and there is none here"


def test_trainings_at_once_are_divided_by_their_number() -> None:
    began: list[float] = []
    barrier = threading.Barrier(3)

    def call() -> None:
        began.append(time.perf_counter())
        barrier.wait()  # returns only when all three run at once

    before = time.perf_counter()
    each = seconds_each([call] * 3)
    assert len(began) == 3
    assert 0 < each <= (time.perf_counter() - before) / 3


def test_the_arithmetic_of_convolutions_in_groups_is_counted() -> None:
    """By the multiply-adds of every layer: 2 operations each forward, 4 backward but 2 in the first layer."""
    setting = Setting("mobilenetv2")
    model, layers = setting.network(), []

    def count(module: nn.Conv2d | nn.Linear, _: object, output: Tensor) -> None:
        layers.append(output.numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.zeros(2, *SHAPE))
    assert setting.flops() == (6 * sum(layers) - 2 * layers[0]) // 2
