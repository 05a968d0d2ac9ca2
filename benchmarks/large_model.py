"""Pruning a network of 1e8 weights and holding it: processor seconds, and memory over that of the weights."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import prune

from benchmarks.findings import Comparison, Findings, Goal, Measured, spread
from benchmarks.material import SPARSITY
from benchmarks.rounds import Options, Variant, compare
from benchmarks.serving import USUAL, served
from prunetune.errors import given
from prunetune.sparsity.enforce import apply_mask, remove_mask
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.prune import compute_mask

ROUNDS = 5
LAYERS, SIDE = 24, 2048  # 100,663,296 weights, four bytes each
MOST_SECONDS, MOST_MEMORY = 2.0, 1.2
MASK = 0.25  # of the weights' memory: a byte a weight


class Cost(NamedTuple):
    """Of one call on one thread: processor seconds, and the highest memory that it took, over that of the weights."""

    seconds: float
    memory: float


@dataclass(frozen=True)
class Large:
    """Linear layers of float32, one below the other; in a process of its own, so that the memory is the call's."""

    layers: int
    side: int

    def network(self) -> nn.Sequential:
        """The layers with their first weights, without biases."""
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(self.side, self.side, bias=False) for _ in range(self.layers)))

    def usual(self) -> Callable[[], Cost]:
        """`torch.nn.utils.prune.global_unstructured`, which chooses and holds in one."""
        model = self.network()
        pairs = [(layer, "weight") for layer in model]

        def once() -> Cost:
            cost = _cost_of(
                lambda: prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=SPARSITY), self
            )
            for layer in model:
                del layer._forward_pre_hooks[next(iter(layer._forward_pre_hooks))]
                layer.weight = given(layer._parameters.pop("weight_orig"), "it was put there")
                del layer._buffers["weight_mask"]
            return cost

        return once

    def chosen(self, allocation: str) -> Callable[[], Cost]:
        """`compute_mask` alone."""
        model = self.network()
        return lambda: _cost_of(lambda: compute_mask(model, SPARSITY, allocation=allocation), self)

    def held(self) -> Callable[[], Cost]:
        """`apply_mask` alone."""
        model = self.network()
        kept = torch.zeros(self.side, self.side, dtype=torch.bool)
        kept[:, ::5] = True
        mask = Mask(dict.fromkeys((name for name, _ in model.named_parameters()), kept))

        def once() -> Cost:
            cost = _cost_of(lambda: apply_mask(model, mask), self)
            remove_mask(model)
            return cost

        return once


def run(options: Options) -> Findings:
    """The usual way, and ours in its two steps."""
    large = Large(2, 64) if options.quick else Large(LAYERS, SIDE)
    makes = {
        "torch.nn.utils.prune": large.usual,
        "compute_mask, global": partial(large.chosen, "global"),
        "compute_mask, uniform": partial(large.chosen, "uniform"),
        "apply_mask": large.held,
    }
    costs: dict[str, list[Cost]] = {name: [] for name in makes}
    with ExitStack() as stack:

        def noted(name: str, call: Callable[[], Cost]) -> Callable[[], float]:
            def work() -> float:
                costs[name].append(call())
                return costs[name][-1].seconds

            return work

        calls = {name: stack.enter_context(served(make, USUAL)) for name, make in makes.items()}
        variants = [Variant(name, noted(name, call)) for name, call in calls.items()]
        title = f"{large.layers * large.side**2:,} weights in {large.layers} layers, {100 * SPARSITY:.0f} % sparsity"
        seconds = compare(f"{title}, one thread", "processor seconds", variants, options.rounds)
    first = {name: found[0].memory for name, found in costs.items()}  # later calls use memory that earlier ones left
    memory = Comparison(
        f"{title}: highest memory beside the model, of the first call",
        "× the weights' memory",
        seconds.baseline,
        tuple(Measured(name, (value,)) for name, value in first.items()),
        (None,),
    )
    ours = [name for name in makes if name != seconds.baseline]
    times = {name: spread(seconds[name].samples).median for name in ours}
    return Findings(
        comparisons=(seconds, memory),
        goals=(
            *(Goal(f"seconds, {name}", times[name], most=MOST_SECONDS) for name in ours),
            *(Goal(f"memory beside the mask's, {name}", first[name] - MASK, most=MOST_MEMORY) for name in ours),
        ),
    )


def _cost_of(call: Callable[[], object], large: Large) -> Cost:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest memory so far is forgotten
    before, began = _status("VmRSS"), time.process_time()
    result = call()
    seconds, memory = time.process_time() - began, _status("VmHWM") - before
    del result
    return Cost(seconds, max(memory, 1) / (4 * large.layers * large.side**2))


def _status(field: str) -> int:
    """Bytes of this process, of a field in its accounts."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
