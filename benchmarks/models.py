"""The paper's three networks: images a second, share of the peak, and the operators on which the time goes."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.findings import Comparison, Findings, Table
from benchmarks.loops import ours
from benchmarks.material import Setting, origin
from benchmarks.peak import peak_note, peaks, with_shares
from benchmarks.rounds import Options, Variant, compare
from benchmarks.serving import served

ROUNDS = 5
MODELS = ("resnet20", "vgg11", "mobilenetv2")
WORST = 8  # operators that a table shows


def operators(setting: Setting) -> Callable[[], list[tuple[str, ...]]]:
    """The worst operators of a training step: name, calls, milliseconds of their own and their share."""
    data = setting.data()
    model = setting.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = data.train_images[: setting.batch].float().div(255).contiguous(memory_format=torch.channels_last)
    labels = data.train_labels[: setting.batch]

    def profiled() -> list[tuple[str, ...]]:
        F.cross_entropy(model(images), labels).backward()
        with profile(activities=[ProfilerActivity.CPU]) as found:
            F.cross_entropy(model(images), labels).backward()
        rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
        whole = sum(row.self_cpu_time_total for row in rows)
        return [
            (f"`{row.key}`", f"{row.count}", f"{own / 1e3:.1f}", f"{100 * own / whole:.0f} %")
            for row in rows[:WORST]
            if (own := row.self_cpu_time_total)
        ]

    return profiled


def run(options: Options) -> Findings:
    """Every network by prunetune's training in both precisions, then its profile in f32."""
    settings = {name: Setting.of(options, name) for name in MODELS}
    flops = {name: setting.flops() for name, setting in settings.items()}
    found = _compared(settings, options)
    return Findings(
        comparisons=(with_shares(found, lambda row: flops[row.split()[0]]),),
        tables=(_sizes(flops), *(_profile(name, setting) for name, setting in settings.items())),
        notes=(origin(options.root), peak_note(found)),
    )


def _compared(settings: Mapping[str, Setting], options: Options) -> Comparison:
    with ExitStack() as stack:
        variants = [
            Variant(f"{name} {precision}", stack.enter_context(served(partial(ours, setting, precision))))
            for name, setting in settings.items()
            for precision in ("f32", "bf16")
        ]
        title = f"Training the paper's networks, batch {settings['resnet20'].batch}, one thread"
        return compare(title, "images/s", [*variants, *peaks(stack, options)], options.rounds)


def _sizes(flops: Mapping[str, int]) -> Table:
    rows = tuple((name, f"{found / 1e9:.2f}") for name, found in flops.items())
    return Table("Arithmetic of a training step, an image", ("network", "GFLOP"), rows)


def _profile(name: str, setting: Setting) -> Table:
    with served(partial(operators, setting)) as profiled:
        return Table(
            f"Where a step of {name} goes (profile of one step, f32)",
            ("operator", "calls", "ms of its own", "share"),
            tuple(profiled()),
        )
