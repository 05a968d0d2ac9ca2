"""A training step of ResNet-20 on CIFAR-10: the field's usual loop, the least that trains, and prunetune's."""

from contextlib import ExitStack
from functools import partial

from benchmarks.findings import Comparison, Findings, Goal
from benchmarks.loops import bare, ours
from benchmarks.material import Setting, origin
from benchmarks.peak import peak_note, peaks, with_shares
from benchmarks.rounds import Options, Variant, compare
from benchmarks.serving import CORES, PRODUCT, USUAL, USUAL_ALL_CORES, served, several
from benchmarks.usual_loop import usual

BASELINE = "usual loop"
ROUNDS = 7
MOST_OVER_BARE = 0.03
LEAST_F32, LEAST_BF16 = 1.6, 2.4


def run(options: Options) -> Findings:
    """All loops, first with one thread each, then with the whole machine; every process has its own settings."""
    setting = Setting.of(options)
    alone, everything = _one_thread(setting, options), _whole_machine(setting, options)
    flops = setting.flops()
    return Findings(
        comparisons=(with_shares(alone, lambda _: flops), everything),
        goals=(
            Goal("time over the bare loop", alone.ratio("bare loop", "prunetune f32").median - 1, most=MOST_OVER_BARE),
            *_goals("one thread", alone),
            *_goals("whole machine", everything),
        ),
        notes=(origin(options.root), peak_note(alone)),
    )


def _one_thread(setting: Setting, options: Options) -> Comparison:
    with ExitStack() as stack:
        variants = [
            Variant(BASELINE, stack.enter_context(served(partial(usual, setting), USUAL))),
            Variant("usual loop, memory kept", stack.enter_context(served(partial(usual, setting)))),
            Variant("bare loop", stack.enter_context(served(partial(bare, setting)))),
            Variant("prunetune f32", stack.enter_context(served(partial(ours, setting)))),
            Variant("prunetune bf16", stack.enter_context(served(partial(ours, setting, "bf16")))),
        ]
        title = f"Training ResNet-20, batch {setting.batch}, one thread"
        return compare(title, "images/s", [*variants, *peaks(stack, options)], options.rounds)


def _whole_machine(setting: Setting, options: Options) -> Comparison:
    """One process that trains with all cores, as torch does by itself, against a worker of ours for every core."""
    kept = PRODUCT | USUAL_ALL_CORES
    loading = partial(usual, setting, CORES)
    with ExitStack() as stack:
        variants = [
            Variant(BASELINE, stack.enter_context(served(partial(usual, setting), USUAL_ALL_CORES))),
            Variant("usual loop, loader workers", stack.enter_context(served(loading, USUAL_ALL_CORES))),
            Variant("usual loop, memory kept", stack.enter_context(served(partial(usual, setting), kept))),
            Variant("prunetune f32", stack.enter_context(several(partial(ours, setting), CORES))),
            Variant("prunetune bf16", stack.enter_context(several(partial(ours, setting, "bf16"), CORES))),
        ]
        title = f"Training ResNet-20, batch {setting.batch}, all {CORES} cores"
        return compare(title, "images/s", variants, options.rounds)


def _goals(where: str, found: Comparison) -> tuple[Goal, Goal]:
    return (
        Goal(f"f32 to the usual loop, {where}", found.ratio("prunetune f32", BASELINE).median, least=LEAST_F32),
        Goal(f"bf16 to the usual loop, {where}", found.ratio("prunetune bf16", BASELINE).median, least=LEAST_BF16),
    )
