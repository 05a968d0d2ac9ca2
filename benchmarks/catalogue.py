"""The benchmarks by name."""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from benchmarks import (
    cold_start,
    evaluation,
    gpu,
    growth,
    large_model,
    mask_cost,
    memory,
    models,
    ordering,
    quick_audit,
    scale,
    sharing,
    sparse_network,
    store,
    training_step,
)
from benchmarks.findings import Findings
from benchmarks.rounds import Options


class Benchmark(NamedTuple):
    """What is run, in how many rounds unless somebody asks for others, and the drawing made of what it finds."""

    about: str
    run: Callable[[Options], Findings]
    rounds: int
    draw: Callable[[Findings], str] | None
    needs_gpu: bool


def _benchmark(module: ModuleType) -> Benchmark:
    about, draw = (module.__doc__ or "").strip(), getattr(module, "draw", None)
    return Benchmark(about, module.run, module.ROUNDS, draw, getattr(module, "NEEDS_GPU", False))


BENCHMARKS = {
    module.__name__.rpartition(".")[2]: _benchmark(module)
    for module in (
        training_step,
        mask_cost,
        evaluation,
        models,
        store,
        cold_start,
        quick_audit,
        sharing,
        memory,
        growth,
        large_model,
        ordering,
        scale,
        sparse_network,
        gpu,
    )
}
