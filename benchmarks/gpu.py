"""On a GPU: ResNet-20 by the usual loop and prunetune's, whole trainings at once, and linear layers in 2:4."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from benchmarks.findings import Comparison, Findings, Goal, Table, spread
from benchmarks.loops import ours
from benchmarks.material import Setting, origin
from benchmarks.rounds import Options, Variant, compare
from benchmarks.serving import USUAL, served
from benchmarks.usual_loop import usual
from prunetune.deploy.latency import latencies, speedup
from prunetune.deploy.semi_structured import CAPABILITY, to_semi_structured
from prunetune.errors import ConfigError
from prunetune.sparsity.prune import compute_mask

ROUNDS = 3
NEEDS_GPU = True
EPOCHS = 150
AT_ONCE = (1, 2, 4, 6)
LOADERS = 4  # processes that load the images of the usual loop
LINEAR, BATCHES = ((3072, 768), (4096, 4096), (14336, 4096)), (64, 1024, 8192)  # (outputs, inputs) of 2:4
LEAST_FASTER = 20.0  # than the usual loop
MOST_ALONE, MOST_OF_SIX = 60.0, 20.0  # seconds a training, on an H200


def run(options: Options) -> Findings:
    """Images a second of the loops, seconds of whole trainings; ConfigError where there is no GPU."""
    if not torch.cuda.is_available():
        raise ConfigError("gpu: needs a CUDA device, and there is none here")
    steps, epochs = (2, 5) if options.quick else (390, EPOCHS)
    setting = replace(Setting.of(options), steps=steps)
    whole = replace(setting, epochs=epochs)
    loops, trainings = _loops(setting, whole, options.rounds), _trainings(whole, options.rounds)
    return Findings(
        comparisons=(loops, trainings),
        tables=(two_of_four(options),) if torch.cuda.get_device_capability() >= CAPABILITY else (),
        goals=(
            Goal("bf16 to the usual loop", loops.ratio("prunetune bf16", "usual loop").median, least=LEAST_FASTER),
            Goal("seconds alone, of an H200", spread(trainings["1 at once"].samples).median, most=MOST_ALONE),
            Goal("seconds each of six, of an H200", spread(trainings["6 at once"].samples).median, most=MOST_OF_SIX),
        ),
        notes=(origin(options.root), f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"),
    )


def _loops(setting: Setting, whole: Setting, rounds: int) -> Comparison:
    """An epoch of the usual loop, whole trainings of ours: recording the graph is a part of them."""
    with ExitStack() as stack:
        variants = [
            Variant("usual loop", stack.enter_context(served(partial(usual, setting, LOADERS, "cuda"), USUAL))),
            Variant("prunetune f32", stack.enter_context(served(partial(ours, whole, "f32", device="cuda")))),
            Variant("prunetune bf16", stack.enter_context(served(partial(ours, whole, "bf16", device="cuda")))),
        ]
        return compare(f"Training ResNet-20, batch {whole.batch}, on one GPU", "images/s", variants, rounds)


def _trainings(whole: Setting, rounds: int) -> Comparison:
    """Processes that share the GPU, as `--jobs` has them."""
    with ExitStack() as stack:
        training = partial(ours, whole, "bf16", device="cuda")
        calls = [stack.enter_context(served(training)) for _ in range(max(AT_ONCE))]
        variants = [Variant(f"{k} at once", partial(seconds_each, calls[:k])) for k in AT_ONCE]
        return compare(f"{whole.epochs} epochs, bf16: time over trainings", "s a training", variants, rounds)


def two_of_four(options: Options) -> Table:
    """Linear layers in half precision, dense and by torch's 2:4 kernels."""
    rows = []
    for outputs, inputs in LINEAR[:1] if options.quick else LINEAR:
        layer = nn.Sequential(nn.Linear(inputs, outputs)).half().cuda()
        sparse = to_semi_structured(layer, compute_mask(layer, 0.5, pattern="2:4")).model
        for batch in BATCHES[:1] if options.quick else BATCHES:
            given = torch.randn(batch, inputs, dtype=torch.float16, device="cuda")
            found = latencies({"dense": layer, "2:4": sparse}, given, rounds=30)
            ratio = speedup(found["dense"], found["2:4"])
            times = (f"{1e6 * found[name].median:.1f}" for name in ("dense", "2:4"))
            rows.append(
                (f"{outputs} x {inputs}", f"{batch}", *times, f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
            )
    header = ("linear layer", "batch", "dense, µs", "2:4, µs", "times as fast, 95 % interval")
    return Table("2:4 on the GPU, float16", header, tuple(rows))


def seconds_each(calls: Sequence[Callable[[], object]]) -> float:
    """Seconds until all calls, made at once, have returned, over their number."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(calls)) as threads:
        list(threads.map(lambda call: call(), calls))
    return (time.perf_counter() - began) / len(calls)
