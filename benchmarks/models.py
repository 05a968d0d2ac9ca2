"""The paper's three networks: images a second, share of the peak, and the operators on which the time goes."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
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
from prunetune.training import loop

ROUNDS = 5
MODELS = ("resnet20", "vgg11", "mobilenetv2")  # the last alone where a run is quick
WORST = 8  # operators that a table shows
WARM_UP, PROFILED = 10, 3  # training steps; in the first ones memory is asked for that is kept from then on


def operators(setting: Setting) -> Callable[[], list[tuple[str, ...]]]:
    """The worst operators of a training step: name, calls, milliseconds of their own and their share."""
    data = setting.data()
    model = setting.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = data.train_images[: setting.batch].float().div(255).contiguous(memory_format=torch.channels_last)
    labels = data.train_labels[: setting.batch]

    def steps(count: int) -> None:
        for _ in range(count):
            model.zero_grad()
            F.cross_entropy(model(images), labels).backward()

    def profiled() -> list[tuple[str, ...]]:
        steps(WARM_UP)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            steps(PROFILED)
        rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
        whole = sum(row.self_cpu_time_total for row in rows)
        return [
            (f"`{row.key}`", f"{row.count // PROFILED}", f"{own / PROFILED / 1e3:.1f}", f"{100 * own / whole:.0f} %")
            for row in rows[:WORST]
            if (own := row.self_cpu_time_total)
        ]

    return profiled


def all_in_bf16(setting: Setting) -> Callable[[], float]:
    """Training in bf16 without what we do about depthwise convolutions with a stride; for a process of its own."""
    loop.strided_depthwise_in_float32 = lambda model, recipe, device: nullcontext()
    return ours(setting, "bf16")


def run(options: Options) -> Findings:
    """Every network by prunetune's training in both precisions, then its profile in f32."""
    settings = {name: Setting.of(options, name) for name in (MODELS[-1:] if options.quick else MODELS)}
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
        worst = partial(all_in_bf16, settings["mobilenetv2"])
        variants.append(Variant("mobilenetv2 bf16, strided depthwise too", stack.enter_context(served(worst))))
        title = f"Training the paper's networks, batch {settings['mobilenetv2'].batch}, one thread"
        return compare(title, "images/s", [*variants, *peaks(stack, options)], options.rounds)


def _sizes(flops: Mapping[str, int]) -> Table:
    rows = tuple((name, f"{found / 1e9:.2f}") for name, found in flops.items())
    return Table("Arithmetic of a training step, an image", ("network", "GFLOP"), rows)


def _profile(name: str, setting: Setting) -> Table:
    with served(partial(operators, setting)) as profiled:
        return Table(
            f"Where a step of {name} goes (mean of {PROFILED} steps, f32)",
            ("operator", "calls", "ms of its own", "share"),
            tuple(profiled()),
        )
