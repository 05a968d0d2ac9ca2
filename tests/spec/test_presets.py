"""The paper's presets: their settings, what they share, and that each of them runs, in miniature."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunetune.analysis.paper.check_claims import paper_rows
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import judge
from prunetune.cli.plan_summary import PlanGroup
from prunetune.errors import ConfigError
from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan, plan
from prunetune.results.collect import collect
from prunetune.spec import presets
from prunetune.spec.load import load_spec
from prunetune.spec.study import Spec
from prunetune.store.store import Store
from tests.support.data_makers import write_cifar10, write_cifar100

R10, R100 = ("resnet20", "cifar10"), ("resnet20", "cifar100")
M10, M100 = ("mobilenetv2", "cifar10"), ("mobilenetv2", "cifar100")
V10, V100 = ("vgg11", "cifar10"), ("vgg11", "cifar100")
ROUNDS = [0.15, 0.2775, 0.385875, 0.478, 0.5563, 0.6229, 0.6794, 0.7275, 0.7684, 0.8031, 0.8327, 0.8578]
BOTH, HIGH = [0.01, 0.1], [0.1]
THREE = ["iterative", "admm", "one_shot"]
Row = tuple[list[tuple[str, str]], list[float], list[str], list[str], list[float]]
FIGURES: dict[str, Row] = {
    "fig2": ([R10], BOTH, ["iterative"], ["ticket", "reinit"], ROUNDS),
    "fig4": ([R10], BOTH, ["iterative"], ["ticket"], ROUNDS[:1]),
    "fig5": ([R10], BOTH, ["iterative"], ["finetune"], ROUNDS),
    "fig5cd": ([R10], BOTH, ["one_shot"], ["ticket", "reinit", "finetune"], [0.3, 0.5, 0.7]),
    "fig6": ([R10], HIGH, THREE, ["finetune", "ticket", "reinit"], ROUNDS),
    "fig7": ([R10], HIGH, THREE, ["finetune", "ticket"], ROUNDS),
    "a1": ([M10, M100, R100, V100], BOTH, ["iterative"], ["ticket", "reinit"], ROUNDS),
    "a2": ([V10, V100, M10, M100], BOTH, ["iterative"], ["ticket"], ROUNDS[:1]),
    "a3": ([M10, M100], BOTH, ["iterative"], ["finetune"], ROUNDS),
    "a4": ([R100], BOTH, ["one_shot"], ["ticket", "reinit", "finetune"], [0.3, 0.5, 0.7]),
    "a5": ([V10, V100], BOTH, ["one_shot"], ["ticket", "reinit", "finetune"], [0.3, 0.5, 0.7]),
    "a6": ([M10, M100], BOTH, ["one_shot"], ["ticket", "reinit", "finetune"], [0.3, 0.5, 0.7]),
    "a7": ([M10], HIGH, THREE, ["finetune", "ticket", "reinit"], ROUNDS),
    "a8": ([M100], HIGH, THREE, ["finetune", "ticket", "reinit"], ROUNDS),
    "a9": ([R100], HIGH, THREE, ["finetune", "ticket", "reinit"], ROUNDS),
    "a10": ([V100], HIGH, THREE, ["finetune", "ticket", "reinit"], ROUNDS),
    "a11": ([M10, M100], HIGH, THREE, ["finetune", "ticket"], ROUNDS),
    "a12": ([R100, V100], HIGH, THREE, ["finetune", "ticket"], ROUNDS),
    "a13": ([R100, M100, V100], HIGH, ["admm"], ["finetune", "rewind", "ticket"], ROUNDS),
    "table-a1": ([R100, M100, V100, M10, V10], HIGH, ["admm"], ["finetune"], [0.5]),
}
NAMES = [f"paper/{figure}-{model}-{data}" for figure, row in FIGURES.items() for model, data in row[0]]
SCALED = ["epochs=15", "seeds=1"]


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    """Every preset's plan at the paper's scale: there are no CIFAR files in this test."""
    return {name: plan(load_spec(name)) for name in NAMES}


def test_the_presets_are_these():
    assert [name for name in presets.names() if name.startswith("paper/")] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_the_papers(name):
    networks, rates, masks, arms, sparsities = FIGURES[name.removeprefix("paper/").rsplit("-", 2)[0]]
    spec = load_spec(name)
    assert spec.name == name.replace("/", "-")
    assert (spec.model, spec.data) in networks
    assert name.endswith(f"-{spec.model}-{spec.data}")
    assert (spec.model_args, spec.data_args, spec.pretrained) == ({}, {}, None)
    assert list(spec.learning_rates) == rates
    assert [mask.label for mask in spec.masks] == masks
    assert list(spec.named_arms) == arms
    assert spec.sparsities == pytest.approx(sparsities, abs=5e-5)
    assert (spec.seeds, spec.rewind) == (5, "10ep")
    recipe = spec.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer, recipe.momentum) == (150, 128, "sgd", 0.9)
    assert (recipe.schedule.kind, recipe.schedule.milestones, recipe.schedule.gamma) == ("step", (80, 120), 0.1)
    assert recipe.augment == ("crop", "flip")


@pytest.mark.parametrize("name", NAMES)
def test_fewer_epochs_move_milestones_and_k_in_proportion(name):
    spec = load_spec(name, ["epochs=15"])
    assert (spec.recipe.schedule.milestones, spec.rewind) == ((8, 12), "1ep")
    spec = load_spec(name, ["epochs=3"])
    assert (spec.recipe.schedule.milestones, spec.rewind) == ((1.6, 2.4), "0.2ep")


def test_a_preset_is_made_anew_each_time():
    assert load_spec(NAMES[0], ["schedule.gamma=0.5"]) != load_spec(NAMES[0])
    assert load_spec(NAMES[0]).recipe.schedule.gamma == 0.1


def test_no_summary_calls_a_figures_networks_an_assignment():
    told = presets.summaries()
    assert not [text for text in told.values() if "assignment" in text]
    noted = [name for name in NAMES if told[name].endswith("(the paper names CIFAR-100 only)")]
    assert noted == [name for name in NAMES if name.startswith("paper/a13-")]


def test_groups():
    assert sorted(presets.members("paper/all")) == sorted(NAMES)
    assert presets.members("paper/a1") == tuple(name for name in NAMES if name.startswith("paper/a1-"))
    assert presets.members("paper/a1-vgg11-cifar100") == presets.members("quick") == ()
    keeps = ["rewind" in load_spec(name).named_arms for name in presets.members("paper/all")]
    assert keeps == sorted(keeps, reverse=True)  # what needs θk is first, so that no dense run is trained again for it
    with pytest.raises(ConfigError) as caught:
        load_spec("paper/a11")
    assert str(caught.value) == (
        "spec: 'paper/a11' stands for 2 studies; give one of them, such as paper/a11-mobilenetv2-cifar10"
    )


Training = tuple[object, ...]


def trainings_by_hand(spec: Spec) -> Iterator[tuple[Training, list[Training]]]:
    """Every row of a study as its own training, and all that it rests on, by PAPER section 2 and nothing of a plan."""
    for seed, rate in itertools.product(range(spec.looks[-1]), spec.learning_rates):
        where = (spec.model, spec.data, rate, seed)
        dense = ("dense", *where)
        yield dense, []
        for mask, (index, sparsity) in itertools.product(spec.masks, enumerate(spec.sparsities)):
            how = "one_shot" if mask.kind == "iterative" and index == 0 else mask.kind  # round 1 prunes θT once
            found = {
                "one_shot": [],
                "admm": [("penalised", *where, sparsity)],
                "iterative": [
                    ("ticket", *where, "iterative" if at else "one_shot", spec.sparsities[at]) for at in range(index)
                ],
            }[how]
            for arm in spec.named_arms:
                yield (arm, *where, how, sparsity), [dense, *found]


def test_the_whole_paper_shares_what_it_can(plans):
    by_hand: set[Training] = set()
    one_by_one = separate = 0
    for name, planned in plans.items():
        rows = list(trainings_by_hand(planned.spec))
        own = {step for last, before in rows for step in (last, *before)}
        assert planned.trainings == len(own), name
        by_hand |= own
        one_by_one += len(own)
        separate += sum(1 + len(before) for _, before in rows)
    together = PlanGroup.of(list(plans.values()))
    assert together.trainings == len(by_hand) == 4545
    assert together.epochs == 150 * 4545
    assert together.one_by_one == (one_by_one, 150 * one_by_one) == (8505, 1275750)
    assert together.separate == (separate, 150 * separate) == (33605, 5040750)


def test_no_preset_needs_the_data_to_be_planned(plans):
    assert {(planned.data.name, planned.data.digest) for planned in plans.values()} == {
        ("cifar10", "official"),
        ("cifar100", "official"),
    }
    assert {planned.outputs for planned in plans.values()} == {10, 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and CIFAR folders in the official layout with ten training images each."""
    folder = tmp_path_factory.mktemp("presets")
    write_cifar10(folder / "data", rows=2)
    write_cifar100(folder / "data", train=10, test=100, fine=2)  # so that each class outlives a held-out share
    Store(folder / "store").prepare()
    return folder


# Figure -> how many claims of the winning property and of R_p against chance have a figure here. A verdict a rate with
# `ticket` under iterative masks at 50 % or more, and at 0.1 under the other masks; R_p(θ0, θT) a rate, and between both
# rates; R_p within masks where `finetune` meets `ticket` or `reinit` at 25 to 75 %; both R_p of Table A1.
SHOWN = {
    **dict.fromkeys(["fig2", "a1"], (2, 3)),
    **dict.fromkeys(["fig4", "a2", "fig5", "a3"], (0, 3)),
    **dict.fromkeys(["fig5cd", "a4", "a5", "a6"], (1, 7)),
    **dict.fromkeys(["fig6", "a7", "a8", "a9", "a10"], (3, 3)),
    **dict.fromkeys(["fig7", "a11", "a12"], (3, 2)),
    **{"a13": (1, 2), "table-a1": (0, 3)},
}
MORE = {("fig2", *R10), *((figure, *M100) for figure in ("a8", "a11", "a13"))}  # of the two sparse accuracies


def rows_by_hand(figure: str, network: tuple[str, str], rates: list[float]) -> tuple[Counter[str], Counter[str]]:
    """How many rows of each kind the section has, by PAPER section 5, and how many of these have a figure here."""
    published = 0 if network == V10 else 2  # accuracies of its dense network
    alone = network in (R10, M100)  # with one sparse accuracy of their own
    orderings = 13 + {R10: 2, M100: 3, V100: 2}.get(network, 0)
    there = {"winning": 4, "overlap": 9, "ordering": orderings, "accuracy": published + alone}
    winning, overlaps = SHOWN[figure]
    accuracies = (len(rates) if published else 0) + ((figure, *network) in MORE)
    here = {"winning": winning, "overlap": overlaps, "accuracy": accuracies, "correlation": 2 * (figure == "table-a1")}
    return +Counter(there | {"correlation": 0 if network == R10 else 2}), +Counter(here)  # orderings need two seeds


# Each experiment once, and each network under one of them at least; all of the others are planned above.
RUN = [
    *(f"paper/{figure}-resnet20-cifar10" for figure in ("fig2", "fig4", "fig5", "fig5cd", "fig6", "fig7")),
    *("paper/a5-vgg11-cifar100", "paper/a8-mobilenetv2-cifar100", "paper/a13-resnet20-cifar100"),
    *("paper/table-a1-mobilenetv2-cifar10", "paper/table-a1-vgg11-cifar10"),
]
NARROW = {"resnet20": "{width: 2}", "vgg11": "{width: 2}", "mobilenetv2": "{width: 0.1}"}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_each_experiment_runs_in_miniature(name, folder):
    """One epoch of two steps, one seed, at most two sparsities, on the preset's own network, narrow."""
    figure = name.removeprefix("paper/").rsplit("-", 2)[0]
    networks, rates, masks, arms, sparsities = FIGURES[figure]
    kept = [sparsities[2], sparsities[5]] if sparsities == ROUNDS else sparsities[:2]
    network = next(pair for pair in networks if name.endswith("-".join(pair)))
    small = [
        *("epochs=1", "seeds=1", "batch_size=4", "rewind=1/2", f"sparsities={kept}"),
        *(f"model_args={NARROW[network[0]]}", f"data_args.root={folder / 'data'}"),
        "data_args.validation=0.2",  # of ten images
    ]
    planned = plan(load_spec(name, small))
    store = Store(folder / "store")
    before = planned.remaining(store)
    for step in before.left:
        execute(step, store, planned.snapshots.get(step.key, frozenset()))
    assert planned.remaining(store).left == ()
    results = collect(planned, store, before.cached, {})
    assert not [breach for rule in results.invariants for breach in rule.breaches]
    assert results.environment["chance"] >= 100 / results.environment["outputs"]
    assert all(trial.validation_accuracy is not None for trial in results.trials if not trial.diverged)
    assert results.missing == ()
    there = Counter((t.arm, t.mask, t.learning_rate, t.sparsity) for t in results.trials)
    sparse = itertools.product(arms, masks, rates, kept)
    assert there == Counter([("dense", None, rate, 0) for rate in rates] + list(sparse))
    rule = Rule.of(results.study)
    found = paper_rows(results, judge(results.trials, rule, correlations=results.correlations), rule)
    kinds = Counter(row.kind for row in found), Counter(row.kind for row in found if row.here is not None)
    assert kinds == rows_by_hand(figure, network, rates)
    assert {(row.answer, row.paper_scale) for row in found} == {("not tested at this scale", False)}  # one seed
