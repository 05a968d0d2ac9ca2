"""What it costs to keep results: writing, reading and verifying, a large plan, its look-up, and a report."""

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.findings import Findings
from benchmarks.material import CLASSES, SHAPE
from benchmarks.rounds import Options, Variant, compare
from prunetune import models
from prunetune.plan.compile import Plan, plan
from prunetune.report.write_report import render_again
from prunetune.spec import presets
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Init
from prunetune.store.store import Store

ROUNDS = 5
STUDIES = Path(__file__).parents[1] / "studies"
STATE_MODEL = "resnet20"
ONE_FIGURE = "paper/fig6-resnet20-cifar10"


def run(options: Options) -> Findings:
    """Everything in one process, on the disk of the system's temporary folder."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        states = _moving(folder, 2 if options.quick else 50)
        moving = compare(f"The store, states of {STATE_MODEL}", "MB/s", states, options.rounds, alike=False)
        others = _planning(folder, options.quick)
        planning = compare("Plans, look-ups and reports", "s", others, options.rounds, alike=False)
    return Findings((moving, planning))


def _moving(folder: Path, states: int) -> list[Variant]:
    """Megabytes a second of writing so many states into an empty store, reading them, and verifying the store."""
    network = models.identify(STATE_MODEL, {}, SHAPE, CLASSES)
    steps = [Init(network, SHAPE, CLASSES, seed) for seed in range(states)]
    state = models.draw(network, SHAPE, CLASSES, seed=0).state_dict()
    megabytes = states * sum(tensor.numel() * tensor.element_size() for tensor in state.values()) / 1e6
    numbers = count()

    def written() -> Store:
        store = Store(folder / f"store-{next(numbers)}")
        store.prepare()
        for step in steps:
            store.write(step, {}, state=state)
        return store

    kept = written()
    works = {
        "write": written,
        "read": lambda: [kept.state(step.key) for step in steps],
        "verify": lambda: list(kept.verify()),
    }
    return [Variant(name, _rate(work, megabytes)) for name, work in works.items()]


def _planning(folder: Path, small: bool) -> list[Variant]:
    """Seconds of planning one figure of the paper and all of it, of a look-up of all its steps, and of a report."""
    one = _planned(ONE_FIGURE, small)
    store = Store(folder / "looked-up")
    store.prepare()
    for step in one.steps:
        store.write(step, {})
    report = folder / "report"
    report.mkdir()
    shutil.copy(STUDIES / "fashion-mnist" / "results.json", report)
    names = (ONE_FIGURE,) if small else presets.members("paper/all")
    trials = render_again(report).page.stat().st_size / 1e3
    return [
        Variant(f"plan {ONE_FIGURE}, {len(one.steps):,} steps", _seconds(lambda: _planned(ONE_FIGURE, small))),
        Variant(f"look up its {len(one.steps):,} steps in a store", _seconds(lambda: one.remaining(store))),
        Variant(f"plan paper/all, {len(names)} studies", _seconds(lambda: [_planned(name, small) for name in names])),
        Variant(f"report of studies/fashion-mnist, {trials:,.0f} kB", _seconds(lambda: render_again(report))),
    ]


def _planned(name: str, small: bool) -> Plan:
    return plan(load_spec(name, ["seeds=1", "learning_rates=[0.1]", "sparsities=[0.5]"] if small else []))


def _rate(work: Callable[[], object], megabytes: float) -> Callable[[], float]:
    return lambda: megabytes / _seconds(work)()


def _seconds(work: Callable[[], object]) -> Callable[[], float]:
    def timed() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return timed
