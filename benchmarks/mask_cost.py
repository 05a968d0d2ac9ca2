"""What holding a mask and watching its zeros adds to a training step."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from benchmarks.findings import Comparison, Findings, Goal
from benchmarks.loops import ours
from benchmarks.material import SPARSITY, Setting, origin
from benchmarks.rounds import Options, Variant, compare
from benchmarks.serving import served

ROUNDS = 9
MOST = 0.02
MODELS = ("resnet20", "vgg11")
EPOCHS = {"vgg11": 4}  # more steps: setting a training up weighs little in thousands of them, and much in eight


def run(options: Options) -> Findings:
    """The same training with and without a mask, for a slim network and a wide one."""
    found = [_compared(model, options) for model in MODELS]
    return Findings(
        comparisons=tuple(found),
        goals=tuple(
            Goal(f"time that a mask adds, {model}", comparison.ratio("no mask", "mask").median - 1, most=MOST)
            for model, comparison in zip(MODELS, found, strict=True)
        ),
        notes=(origin(options.root),),
    )


def _compared(model: str, options: Options) -> Comparison:
    setting = replace(Setting.of(options, model), epochs=1 if options.quick else EPOCHS.get(model, 1))
    with ExitStack() as stack:
        variants = [
            Variant(name, stack.enter_context(served(partial(ours, setting, masked=masked))))
            for name, masked in (("no mask", False), ("mask", True))
        ]
        title = f"Training {model}, batch {setting.batch}, one thread, mask of {100 * SPARSITY:.0f} % sparsity"
        return compare(title, "images/s", variants, options.rounds)
