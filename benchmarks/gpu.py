"""ResNet-20 on CIFAR-10 on a GPU: the usual loop and prunetune's, then whole trainings, alone and several at once."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch

from benchmarks.findings import Comparison, Findings, Goal, spread
from benchmarks.loops import ours
from benchmarks.material import Setting, origin
from benchmarks.rounds import Options, Variant, compare
from benchmarks.serving import USUAL, served
from benchmarks.usual_loop import usual
from prunetune.errors import ConfigError

ROUNDS = 3
NEEDS_GPU = True
EPOCHS = 150
AT_ONCE = (1, 2, 4, 6)
LOADERS = 4  # processes that load the images of the usual loop
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


def seconds_each(calls: Sequence[Callable[[], object]]) -> float:
    """Seconds until all calls, made at once, have returned, over their number."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(calls)) as threads:
        list(threads.map(lambda call: call(), calls))
    return (time.perf_counter() - began) / len(calls)
