"""A training step of ResNet-20 on CIFAR-10: the field's usual loop, the least that trains, and prunetune's."""

from contextlib import ExitStack
from functools import partial

from benchmarks.findings import Findings, Goal
from benchmarks.loops import bare, ours
from benchmarks.material import Setting, origin
from benchmarks.peak import peak_note, peaks, with_shares
from benchmarks.rounds import Options, Variant, compare
from benchmarks.serving import USUAL, served
from benchmarks.usual_loop import usual

BASELINE = "usual loop"
ROUNDS = 7
MOST_OVER_BARE = 0.03
LEAST_F32, LEAST_BF16 = 1.6, 2.4


def run(options: Options) -> Findings:
    """All loops, one thread each, in processes of their own."""
    setting = Setting.of(options)
    with ExitStack() as stack:
        variants = [
            Variant(BASELINE, stack.enter_context(served(partial(usual, setting), USUAL))),
            Variant("usual loop, memory kept", stack.enter_context(served(partial(usual, setting)))),
            Variant("bare loop", stack.enter_context(served(partial(bare, setting)))),
            Variant("prunetune f32", stack.enter_context(served(partial(ours, setting)))),
            Variant("prunetune bf16", stack.enter_context(served(partial(ours, setting, "bf16")))),
        ]
        title = f"Training ResNet-20, batch {setting.batch}, one thread"
        found = compare(title, "images/s", [*variants, *peaks(stack, options)], options.rounds)
    flops = setting.flops()
    return Findings(
        comparisons=(with_shares(found, lambda _: flops),),
        goals=(
            Goal("time over the bare loop", found.ratio("bare loop", "prunetune f32").median - 1, most=MOST_OVER_BARE),
            Goal("f32 to the usual loop", found.ratio("prunetune f32", BASELINE).median, least=LEAST_F32),
            Goal("bf16 to the usual loop", found.ratio("prunetune bf16", BASELINE).median, least=LEAST_BF16),
        ),
        notes=(origin(options.root), peak_note(found)),
    )
