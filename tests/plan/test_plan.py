"""Plans: the grid against a slow enumeration, sharing, order, and what a store spares."""

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from prunetune.plan.compile import Plan, plan
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Import, Init, Measure, Prune, Step, Train, Weights
from prunetune.training.recipe import TrainingTime
from tests.support.refusals import refused
from tests.support.study_specs import spec, specs

some = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def planned(**fields: Any) -> Plan:
    return plan(load_spec(spec(**fields)))


def keys(made: Plan, kind: type[Step] = Step) -> set[str]:
    return {step.key for step in made.steps if isinstance(step, kind)}


def dense_keys(made: Plan) -> set[str]:
    return {trial.step.key for trial in made.trials if trial.arm == "dense"}


# --- the preset -------------------------------------------------------------------------------------------------


def test_quick_is_100_distinct_trainings():
    made = plan(load_spec(None))
    assert made.trainings == len(keys(made, Train)) == len(made.trials) == 90 + 10  # the longer dense runs
    assert made.epochs == 5 * 90 + 10 * 10
    # alone: 4 arms x (dense + earlier rounds + own) = 4 x (2 + 3) and the dense run, at 2 rates and 5 seeds
    assert made.separate_trainings == 10 * (4 * (2 + 3) + 1 + 1)
    assert made.separate_epochs == 5 * (made.separate_trainings - 10) + 10 * 10
    assert len(made.snapshots) == 10
    assert set(made.snapshots.values()) == {frozenset({TrainingTime(1.0, "ep")})}


def test_quick_trains_without_augmentation_by_its_schedule():
    recipes = {step.recipe for step in plan(load_spec(None)).steps if isinstance(step, Train)}
    assert {recipe.learning_rate for recipe in recipes} == {0.01, 0.1}
    for recipe in recipes:
        assert (recipe.batch_size, recipe.weight_decay, recipe.augment) == (64, 6.3e-3, ())
        assert recipe.epochs in (5, 10)  # twice as long: the second dense training
        assert (recipe.schedule.kind, recipe.schedule.gamma) == ("step", 0.1)
        assert recipe.schedule.milestones == pytest.approx((recipe.epochs * 8 / 15, recipe.epochs * 12 / 15))
        assert recipe.precision == "f32"


def test_quick_scales_with_its_epochs():
    made = plan(load_spec("quick", ["epochs=15", "seeds=1"]))
    assert {s.recipe.schedule.milestones for s in made.steps if isinstance(s, Train)} == {(8.0, 12.0), (16.0, 24.0)}
    assert set(made.snapshots.values()) == {frozenset({TrainingTime(3.0, "ep")})}


# --- the grid against a slow enumeration ------------------------------------------------------------------------


def spelled(step: Step) -> tuple[Any, ...]:
    """A step as nested tuples of what matters, down to the draws of the initial weights."""
    if isinstance(step, Init):
        return "init", step.seed
    if isinstance(step, Prune):
        return "prune", spelled_start(step.source), step.density, step.within and spelled(step.within)
    assert isinstance(step, Train)
    penalty = step.penalty and step.penalty.density
    return "train", spelled_start(step.start), step.mask and spelled(step.mask), step.recipe.learning_rate, penalty


def spelled_start(start: Weights) -> tuple[Any, ...]:
    return spelled(start.step), start.at and str(start.at), start.transform and start.transform.name


def enumerated(draws: tuple[int, int], rate: float, densities: list[float]) -> set[tuple[Any, ...]]:
    """Every training of one seed at one rate with all three mask algorithms and all five arms, written out."""
    first, again = (("init", draw) for draw in draws)
    dense = ("train", (first, None, None), None, rate, None)
    starts = {
        "ticket": (first, None, None),
        "reinit": (again, None, None),
        "rewind": (dense, "1ep", None),
        "finetune": (dense, None, None),
        "shuffle": (first, None, "shuffle"),
    }
    masks: list[tuple[Any, ...]] = []
    admm = set()
    previous, source = None, dense
    for density in densities:
        masks.append(("prune", (dense, None, None), density, None))  # one shot
        penalised = ("train", (dense, None, None), None, rate, density)
        admm.add(penalised)
        masks.append(("prune", (penalised, None, None), density, None))
        previous = ("prune", (source, None, None), density, previous)  # iterative
        masks.append(previous)
        source = ("train", (first, None, None), previous, rate, None)
    sparse = {("train", start, mask, rate, None) for mask in masks for start in starts.values()}
    return {dense} | admm | sparse


def test_the_plan_is_the_grid_written_out():
    made = planned(
        masks=["one_shot", "admm", "iterative"],
        arms=["ticket", "reinit", "rewind", "finetune", "shuffle"],
        sparsities=[0.5, 0.75, 0.9],
        learning_rates=[0.01, 0.1],
        rewind="1ep",
        seeds=2,
    )
    expected: set[tuple[Any, ...]] = set()
    for seed in range(2):
        draws = seed_draws(made, seed)
        for rate in (0.01, 0.1):
            expected |= enumerated(draws, rate, [0.5, 0.25, 0.1])
    trainings = [step for step in made.steps if isinstance(step, Train)]
    assert {spelled(step) for step in trainings} == expected
    # a one-shot mask at the first sparsity is the first round's: 2 masks there, 3 at the others
    assert len(expected) == len(trainings) == 4 * (1 + 3 + 5 * (2 + 3 + 3))


def seed_draws(made: Plan, seed: int) -> tuple[int, int]:
    def draw(arm: str) -> int:
        found = {t.step.start.step.seed for t in made.trials if t.arm == arm and t.seed == seed}  # type: ignore[union-attr]
        assert len(found) == 1
        return found.pop()

    return draw("ticket"), draw("reinit")


def test_a_round_prunes_from_the_ticket_and_within_the_mask_before():
    made = planned(masks=["iterative"], sparsities={"per_round": 0.15, "rounds": 10}, learning_rates=[0.1])
    tickets = {t.sparsity: t.step for t in made.trials if t.arm == "ticket"}
    dense = next(t.step for t in made.trials if t.arm == "dense")
    assert list(tickets)[:3] == [0.15, 0.2775, 0.385875]
    before: Step = dense
    within = None
    for sparsity, ticket in tickets.items():
        assert isinstance(ticket, Train)
        assert ticket.mask is not None
        assert ticket.mask.source == Weights(before)  # type: ignore[arg-type]
        assert ticket.mask.within == within
        assert ticket.mask.density == round(1 - sparsity, 12)
        before, within = ticket, ticket.mask
    assert made.trainings == 1 + 4 * 10


def test_without_the_ticket_arm_the_rounds_are_still_trained():
    made = planned(arms=["finetune"], sparsities=[0.5, 0.75, 0.9], learning_rates=[0.1])
    assert made.trainings == 1 + 3 + 2  # the last round's ticket prunes nothing


# --- sharing ----------------------------------------------------------------------------------------------------


def test_rewind_at_zero_is_the_ticket():
    made = planned(rewind="0ep")
    by_arm = {arm: {t.step.key for t in made.trials if t.arm == arm} for arm in ("ticket", "rewind")}
    assert by_arm["ticket"] == by_arm["rewind"]
    assert made.snapshots == {}
    assert made.trainings == planned(arms=["ticket", "reinit", "finetune"]).trainings


def test_all_trainings_of_a_seed_see_the_same_order_and_no_two_uses_share_a_seed():
    made = planned(masks=["iterative", "admm"], arms=["ticket", "reinit", "shuffle"], seeds=3)
    streams = {(s.order_seed, s.augment_seed) for s in made.steps if isinstance(s, Train)}
    assert len(streams) == 3
    for seed in range(3):
        assert len({(t.step.order_seed, t.step.augment_seed) for t in made.trials if t.seed == seed}) == 1  # type: ignore[union-attr]
    used = [n for stream in streams for n in stream]
    used += [s.seed for s in made.steps if isinstance(s, Init)]
    used += {s.start.transform.seed for s in made.steps if isinstance(s, Train) and s.start.transform}
    used += {s.seed for s in made.steps if isinstance(s, Prune)}
    assert len(used) == len(set(used)) == 3 * 6


def test_the_draws_do_not_depend_on_the_rate():
    made = planned(learning_rates=[0.01, 0.1], arms=["ticket", "reinit"], seeds=2)
    assert len(keys(made, Init)) == 4


PRUNING = [
    {"sparsities": [0.6]},
    {"masks": ["one_shot"]},
    {"masks": [{"kind": "iterative", "allocation": "global"}]},
    {"masks": [{"kind": "iterative", "criterion": "random"}]},
    {"masks": ["admm"]},
    {"arms": ["finetune"]},
    {"scope": {"exclude": ["*"]}},
    {"rewind": "2ep"},
]


@pytest.mark.parametrize("change", PRUNING, ids=repr)
def test_a_pruning_setting_never_retrains_a_dense_network(change: dict[str, Any]):
    assert dense_keys(planned(**change)) == dense_keys(planned())


INERT = [
    {"verdict": {"margin": 1.0, "gap": 0.1, "alpha": 0.01, "nontrivial_sparsity": 0.3}},
    {"name": "another"},
    {"arms": ["finetune", "rewind", "reinit", "ticket"]},
    {"learning_rates": [0.1, 0.01]},
    {"masks": [{"kind": "iterative", "name": "imp"}]},
    {"sparsities": {"per_round": 0.15, "rounds": 10}},
]


@pytest.mark.parametrize("change", INERT, ids=repr)
def test_what_computes_nothing_else_changes_no_key(change: dict[str, Any]):
    assert keys(planned(**change)) == keys(planned())


ADDED = [
    {"seeds": 2},
    {"arms": ["ticket", "reinit", "rewind", "finetune", "shuffle"]},
    {"learning_rates": [0.01, 0.1, 0.3]},
    {"masks": ["iterative", "one_shot"]},
    {"sparsities": {"per_round": 0.15, "rounds": 11}},
]


@pytest.mark.parametrize("change", ADDED, ids=repr)
def test_more_of_something_only_adds_steps(change: dict[str, Any]):
    assert keys(planned(**change)) > keys(planned())


RETRAINING = [
    {"recipe": {"epochs": 7, "batch_size": 64}},
    {"recipe": {"epochs": 6, "batch_size": 32}},
    {"recipe": {"epochs": 6, "batch_size": 64, "momentum": 0.8}},
    {"recipe": {"epochs": 6, "batch_size": 64, "schedule": {"kind": "cosine"}}},
    {"recipe": {"epochs": 6, "batch_size": 64, "augment": ["flip"]}},
    {"recipe": {"epochs": 6, "batch_size": 64, "precision": "bf16"}},
    {"data_args": {"train_limit": 1000}},
    {"model": "resnet20"},
]


@pytest.mark.parametrize("change", RETRAINING, ids=repr)
def test_what_changes_the_training_changes_every_dense_run(change: dict[str, Any]):
    assert not dense_keys(planned(**change)) & dense_keys(planned())


def test_the_device_type_is_part_of_the_key():
    made = load_spec(spec())
    assert not keys(plan(made, "cuda"), Train) & keys(plan(made, "cpu"), Train)
    assert keys(plan(made, "cuda"), Init) == keys(plan(made, "cpu"), Init)
    assert {s.recipe.precision for s in plan(made, "cuda").steps if isinstance(s, Train)} == {"bf16"}


# --- crossed masks ----------------------------------------------------------------------------------------------


def test_a_crossed_mask_is_found_at_its_own_rate_and_trained_at_the_trials():
    made = planned(
        masks=["iterative", {"kind": "iterative", "learning_rate": 0.01}], learning_rates=[0.1], sparsities=[0.5, 0.8]
    )
    crossed = [t.step for t in made.trials if t.mask == "iterative@0.01"]
    assert len(crossed) == 8
    for step in crossed:
        assert isinstance(step, Train)
        assert step.recipe.learning_rate == 0.1
        assert step.mask is not None
        source = step.mask.source.step
        assert isinstance(source, Train)
        assert source.recipe.learning_rate == 0.01
    finetune = next(t.step for t in made.trials if t.arm == "finetune" and t.mask == "iterative@0.01")
    assert isinstance(finetune, Train)
    assert isinstance(finetune.start.step, Train)
    assert finetune.start.step.recipe.learning_rate == 0.1  # the dense run of the trial's own rate
    assert [t.learning_rate for t in made.trials if t.arm == "dense"] == [0.1]
    assert made.trainings == (1 + 8) + 8 + (1 + 1)  # plain, crossed, and at 0.01 the dense run and one round


def test_a_mask_found_at_the_trials_own_rate_is_no_other_mask():
    made = planned(masks=["one_shot", {"kind": "one_shot", "learning_rate": 0.1}], learning_rates=[0.1])
    rows = {label: {t.step.key for t in made.trials if t.mask == label} for label in ("one_shot", "one_shot@0.1")}
    assert rows["one_shot"] == rows["one_shot@0.1"]


def test_admm_may_last_longer_than_the_study_and_stretches_its_schedule():
    recipe = {"epochs": 6, "batch_size": 64, "schedule": {"milestones": [3, 4.5], "warmup": 1}}
    made = planned(
        masks=[{"kind": "admm", "epochs": 12, "rho": 0.5}], sparsities=[0.5], recipe=recipe, arms=["finetune"]
    )
    penalised = [s for s in made.steps if isinstance(s, Train) and s.penalty]
    assert len(penalised) == 2
    for step in penalised:
        assert step.recipe.epochs == 12
        assert step.recipe.schedule.milestones == (6.0, 9.0)
        assert step.recipe.schedule.warmup == 2.0
        assert step.penalty is not None
        assert (step.penalty.density, step.penalty.rho) == (0.5, 0.5)
        assert step.penalty.rho_every is not None  # every interval is in the key
        assert step.penalty.update_every is not None
    assert {s.recipe.epochs for s in made.steps if isinstance(s, Train) and not s.penalty} == {6}


def test_admms_rho_is_of_the_rate_at_which_the_mask_is_found_unless_it_is_given():
    masks = ["admm", {"kind": "admm", "learning_rate": 0.03}, {"kind": "admm", "rho": 0.5, "name": "given"}]
    made = planned(masks=masks, sparsities=[0.5], learning_rates=[0.01, 0.1], arms=["finetune"])
    found = {(s.recipe.learning_rate, s.penalty.rho) for s in made.steps if isinstance(s, Train) and s.penalty}
    assert found == {(0.01, 0.03), (0.1, 0.003), (0.03, 0.01), (0.01, 0.5), (0.1, 0.5)}


# --- correlations -----------------------------------------------------------------------------------------------


def test_the_correlations_are_the_papers():
    made = planned(sparsities=[0.3, 0.5, 0.8, 0.9], learning_rates=[0.1])
    rows = {(c.pair, c.sparsity, c.p, c.mask) for c in made.correlations}
    expected = {("theta_0/theta_T", 0.0, p, None) for p in (0.1, 0.2, 0.3, 0.4, 0.5)}
    for sparsity in (0.3, 0.5, 0.8, 0.9):
        expected |= {(f"{arm}_0/finetune_T", sparsity, 0.2, "iterative") for arm in ("ticket", "reinit")}
    for sparsity in (0.3, 0.5):  # p = .2 < 1 - sparsity holds no more at .8
        expected |= {(f"finetune_T/theta_{end}", sparsity, 0.2, "iterative") for end in "0T"}
    assert rows == expected
    assert len(made.correlations) == len(rows)
    assert len(made.notes) == 1
    assert made.notes[0].endswith("left out at 0.8, 0.9")


def test_a_correlation_measures_what_its_name_says():
    made = planned(sparsities=[0.5], learning_rates=[0.1])
    by_pair = {c.pair: c.step for c in made.correlations}
    arm = {t.arm: t.step for t in made.trials}
    dense, ticket, reinit, final = arm["dense"], arm["ticket"], arm["reinit"], Weights(arm["finetune"])
    assert isinstance(ticket, Train)
    assert isinstance(reinit, Train)
    first, second = ticket.start, reinit.start
    assert isinstance(by_pair["theta_0/theta_T"], Measure)
    sides = {pair: (step.first, step.second, step.mask) for pair, step in by_pair.items()}
    assert sides == {
        "theta_0/theta_T": (first, Weights(dense), None),
        "ticket_0/finetune_T": (first, final, ticket.mask),
        "reinit_0/finetune_T": (second, final, ticket.mask),
        "finetune_T/theta_0": (final, first, None),
        "finetune_T/theta_T": (final, Weights(dense), None),
    }


@pytest.mark.parametrize(
    ("arms", "pairs"),
    [
        (["ticket", "reinit", "rewind"], set()),
        (["ticket", "finetune"], {"ticket_0/finetune_T", "finetune_T/theta_0", "finetune_T/theta_T"}),
        (["finetune", "reinit"], {"reinit_0/finetune_T", "finetune_T/theta_0", "finetune_T/theta_T"}),
    ],
)
def test_only_pairs_whose_arms_are_in_the_study_are_measured(arms: list[str], pairs: set[str]):
    made = planned(arms=arms, sparsities=[0.5])
    assert {c.pair for c in made.correlations} == pairs | {"theta_0/theta_T"}
    assert bool(made.notes) == (not pairs)


# --- order ------------------------------------------------------------------------------------------------------


def longest_from(step: Step, steps: Collection[Step]) -> int:
    """Epochs of the longest chain that starts with `step`, by plain recursion over its children."""
    below = [longest_from(child, steps) for child in steps if step in child.parents]
    return (step.recipe.epochs if isinstance(step, Train) else 0) + max(below, default=0)


def ancestors(step: Step) -> set[Step]:
    """All that a step rests on, by plain recursion."""
    return {*step.parents}.union(*map(ancestors, step.parents))


@pytest.mark.parametrize(("nontrivial", "asked"), [(0.5, 0.5), (0.6, 0.75), (0.2, 0.3), (0.95, 0.9)])
def test_the_asked_sparsity_is_the_first_at_which_there_is_a_verdict(nontrivial: float, asked: float):
    made = planned(sparsities=[0.3, 0.5, 0.75, 0.9], verdict={"nontrivial_sparsity": nontrivial})
    assert made.spec.asked_sparsity == asked


def test_what_the_answer_needs_comes_first_and_the_step_with_the_longest_chain_before_the_others():
    made = planned(masks=["one_shot", "iterative"], sparsities=[0.3, 0.5, 0.75], learning_rates=[0.01, 0.1])
    longest = {step.key: longest_from(step, made.steps) for step in made.steps}
    assert dict(made.priority) == longest
    rows = [trial.step for trial in made.trials if trial.arm == "dense" or trial.sparsity == 0.5]
    needed = {step for step in made.steps if any(step == row or step in ancestors(row) for row in rows)}
    assert set(made.answer) == needed < set(made.steps)
    done: set[Step] = set()
    for step in made.steps:
        ready = [s for s in made.steps if s not in done and done.issuperset(s.parents)]
        best = [s for s in ready if s in needed] or ready
        assert step in best
        assert longest[step.key] == max(longest[s.key] for s in best)
        done.add(step)


# --- against a store --------------------------------------------------------------------------------------------


class Shelf:
    """A store that holds these keys, with these snapshots."""

    def __init__(self, held: Collection[str], points: Collection[TrainingTime] = ()) -> None:
        self.held, self.points = set(held), set(points)

    def has(self, key: str, points: Collection[TrainingTime] = ()) -> bool:
        return key in self.held and self.points.issuperset(points)


def test_an_empty_store_spares_nothing():
    made = planned(sparsities=[0.5, 0.75], learning_rates=[0.1], seeds=2)
    left = made.remaining(Shelf([]))
    assert left.cached == frozenset()
    assert left.left == made.steps
    assert (left.trainings_left, left.epochs_left) == (18, 108) == (made.trainings, made.epochs)
    assert (left.trainings_cached, left.epochs_cached) == (0, 0)
    assert left.longest_epochs == 18  # dense, first round, second round
    assert left.states_left == 2 * (2 + 9 + 1)  # draws, trainings, snapshots
    assert left.masks_left == 4


def test_a_full_store_leaves_nothing():
    made = planned()
    left = made.remaining(Shelf(keys(made), [TrainingTime(0.4, "ep")]))
    assert left.left == ()
    assert left.cached == keys(made)
    assert (left.trainings_left, left.epochs_left, left.longest_epochs) == (0, 0, 0)
    assert (left.states_left, left.masks_left) == (0, 0)
    assert (left.trainings_cached, left.epochs_cached) == (made.trainings, made.epochs)


def test_a_dense_run_without_its_snapshot_is_not_held():
    made = planned(learning_rates=[0.1])
    assert set(made.snapshots) == dense_keys(made)
    left = made.remaining(Shelf(keys(made), []))
    assert {step.key for step in left.left} == dense_keys(made)
    assert left.states_left == 2


# --- every plan -------------------------------------------------------------------------------------------------


@some
@given(specs)
def test_every_plan_is_sound(fields: dict[str, Any]):
    loaded = load_spec(fields)
    made = plan(loaded)
    place = {step.key: i for i, step in enumerate(made.steps)}
    assert len(place) == len(made.steps)
    assert all(place[parent.key] < place[step.key] for step in made.steps for parent in step.parents)
    assert {row.step.key for row in (*made.trials, *made.correlations)} <= set(place)
    cells = [(t.arm, t.mask, t.learning_rate, t.sparsity, t.seed) for t in made.trials]
    grid = len(loaded.masks) * len(loaded.sparsities) * len(loaded.arms)
    assert len(set(cells)) == len(cells) == loaded.looks[-1] * len(loaded.learning_rates) * (1 + grid)
    assert made.trainings == len(keys(made, Train)) <= made.separate_trainings
    assert set(made.snapshots) <= dense_keys(made)
    assert all(isinstance(trial.step, Train) for trial in made.trials)


@some
@given(specs)
def test_a_resolved_spec_gives_the_same_plan_again(fields: dict[str, Any]):
    made = load_spec(fields)
    again = load_spec(made.resolved())
    assert again.resolved() == made.resolved()
    first, second = plan(made), plan(again)
    assert keys(first) == keys(second)
    assert first.trials == second.trials


def test_the_pretrained_pair_replaces_the_dense_run(tmp_path: Any):
    paths = {}
    for field, text in (("theta_0", b"first"), ("theta_T", b"last")):
        for seed in (0, 1):
            (tmp_path / f"{field}-{seed}").write_bytes(text + bytes([seed]))
        paths[field] = str(tmp_path / field) + "-{seed}"
    fields = {"pretrained": paths, "arms": ["ticket", "reinit", "finetune"], "seeds": 2, "learning_rates": [0.1]}
    made = planned(**fields, sparsities=[0.5, 0.75])
    assert made.trainings == 2 * 2 * 3
    assert len(keys(made, Import)) == 4
    assert len(keys(made, Init)) == 2  # the second draw only
    assert made.snapshots == {}
    for trial in made.trials:
        if trial.arm == "dense":
            assert isinstance(trial.step, Import)
            assert trial.step.path.endswith(f"theta_T-{trial.seed}")
    first_masks = [s for s in made.steps if isinstance(s, Prune) and s.density == 0.5]
    assert len(first_masks) == 2
    assert all(isinstance(mask.source.step, Import) for mask in first_masks)
    # the content is the key, the place is not
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in tmp_path.glob("theta_*"):
        (moved / file.name).write_bytes(file.read_bytes())
    there = {field: path.replace(str(tmp_path), str(moved)) for field, path in paths.items()}
    assert keys(planned(**{**fields, "pretrained": there}, sparsities=[0.5, 0.75])) == keys(made)
    (moved / "theta_T-0").write_bytes(b"other")
    assert keys(planned(**{**fields, "pretrained": there}, sparsities=[0.5, 0.75])) != keys(made)


def test_a_given_theta_k_serves_rewind_and_none_is_refused(tmp_path: Any):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    pair = {"theta_0": str(tmp_path / "a"), "theta_T": str(tmp_path / "b")}
    fields = {"arms": ["rewind"], "learning_rates": [0.1], "sparsities": [0.5]}
    made = planned(pretrained={**pair, "theta_k": str(tmp_path / "c")}, **fields)
    step = next(t.step for t in made.trials if t.arm == "rewind")
    assert isinstance(step, Train)
    assert isinstance(step.start.step, Import)
    assert step.start.step.path.endswith("c")
    with refused("pretrained.theta_k", "missing", "rewind"):
        planned(pretrained=pair, **fields)


@pytest.mark.parametrize("mask", ["one_shot", "gradual", "admm"])
def test_a_trained_state_alone_serves_finetune_and_leaves_its_keys(tmp_path: Any, mask: str):
    """What needs no θ0 is the same step with it and without it; only R_p against θ0 is not measured."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    pair = {"theta_0": str(tmp_path / "a"), "theta_T": str(tmp_path / "b")}
    fields = {"arms": ["finetune"], "learning_rates": [0.1], "sparsities": [0.5], "masks": [mask]}
    both, alone = planned(pretrained=pair, **fields), planned(pretrained={"theta_T": pair["theta_T"]}, **fields)
    assert alone.trials == both.trials
    assert {row.pair for row in alone.correlations} == {"finetune_T/theta_T"}
    assert keys(alone) < keys(both)
    assert "correlations with theta_0 are left out: pretrained.theta_0 is not given" in alone.notes
    assert not any("theta_0" in note and "not given" in note for note in both.notes)


@pytest.mark.parametrize(
    "fields",
    [
        {"masks": ["iterative"], "sparsities": [0.5, 0.75]},
        {"masks": [{"kind": "one_shot", "at": "init"}]},
        {"masks": ["one_shot"], "arms": ["ticket"]},
        {"masks": ["one_shot"], "arms": ["shuffle", "finetune"]},
    ],
)
def test_what_goes_back_to_theta_0_asks_for_it(tmp_path: Any, fields: dict[str, Any]):
    (tmp_path / "b").write_text("b")
    whole = {"arms": ["finetune"], "sparsities": [0.5], "learning_rates": [0.1], **fields}
    with refused("pretrained.theta_0", "one_shot"):
        planned(pretrained={"theta_T": str(tmp_path / "b")}, **whole)
