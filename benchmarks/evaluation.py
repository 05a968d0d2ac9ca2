"""Scoring a network on test images."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch

from benchmarks.findings import Findings
from benchmarks.material import Setting, cifar10, origin
from benchmarks.peak import peak_note, peaks, with_shares
from benchmarks.rounds import Options, Variant, compare
from benchmarks.serving import served
from prunetune.data import TensorExamples
from prunetune.training.evaluate import evaluate
from prunetune.training.recipe import Precision

ROUNDS = 7
FORWARD = 3  # a training step is a forward pass and twice its arithmetic backward


def plain(setting: Setting) -> Callable[[], float]:
    """Images a second of the loop that everybody has: NCHW, batches of 128, the right answers counted."""
    data, model = cifar10(setting.root), setting.network().eval()
    images, labels = data.test_images[: setting.images], data.test_labels[: setting.images]
    normalise = data.preparation(torch.device("cpu"))

    def score() -> float:
        began = time.perf_counter()
        with torch.no_grad():
            for batch, targets in zip(images.split(128), labels.split(128), strict=True):
                model(normalise(batch)).argmax(1).eq(targets).sum().item()
        return len(images) / (time.perf_counter() - began)

    return score


def ours(setting: Setting, precision: Precision) -> Callable[[], float]:
    """Images a second of prunetune's evaluation, of a network laid out as a training leaves it."""
    data, recipe = cifar10(setting.root), setting.recipe(precision)
    model = setting.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = data.test_images[: setting.images], data.test_labels[: setting.images]

    def score() -> float:
        began = time.perf_counter()
        evaluate(model, TensorExamples(images, labels), data, recipe, "cpu")
        return len(images) / (time.perf_counter() - began)

    return score


def run(options: Options) -> Findings:
    """ResNet-20 on test images, one thread each."""
    setting = Setting.of(options)
    with ExitStack() as stack:
        variants = [
            Variant("plain loop", stack.enter_context(served(partial(plain, setting)))),
            Variant("prunetune f32", stack.enter_context(served(partial(ours, setting, "f32")))),
            Variant("prunetune bf16", stack.enter_context(served(partial(ours, setting, "bf16")))),
        ]
        title = "Scoring ResNet-20 on test images, one thread"
        found = compare(title, "images/s", [*variants, *peaks(stack, options)], options.rounds)
    flops = setting.flops()
    return Findings(
        comparisons=(with_shares(found, lambda _: flops // FORWARD),),
        notes=(origin(options.root), peak_note(found)),
    )
