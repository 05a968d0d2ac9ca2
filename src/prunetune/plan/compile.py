"""A study compiled to its steps: each distinct computation once, in an order in which it can be run."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Protocol

from prunetune.core.limits import DIGITS
from prunetune.core.references import Ref
from prunetune.core.seeding import derive
from prunetune.errors import ConfigError, counted
from prunetune.models import argument
from prunetune.plan import measurements
from prunetune.plan.context import StudyContext, require_inputs_fit, require_patterns_fit
from prunetune.plan.measurements import (
    PlannedConnection,
    PlannedCorrelation,
    PlannedMoment,
    PlannedTrial,
    moments,
    require_moments,
)
from prunetune.plan.planned_quantities import (
    SENSITIVITIES,
    PlannedQuantity,
    quantities,
    require_held_out,
    sensitivity_of,
)
from prunetune.rows import DENSE, DENSE_LONGER
from prunetune.sparsity.allocation import SENSITIVITY
from prunetune.spec.mask_fields import MaskSpec
from prunetune.spec.recipe_fields import steps_per_epoch, summarise
from prunetune.spec.study import Spec
from prunetune.steps import graph
from prunetune.steps.arms import Arm
from prunetune.steps.mask_algorithms import Choice, MaskAt
from prunetune.steps.quantities import MeasureSensitivity
from prunetune.steps.steps import DenseStates, Import, Init, Prune, Step, Train
from prunetune.training.recipe import RecipeSummary, TrainingTime

Cell = tuple[float, str]
"""A learning rate and a mask algorithm's label: what a verdict is about."""


class Has(Protocol):
    """What a plan asks of a store."""

    def has(self, key: str, points: Collection[TrainingTime] = ()) -> bool:
        """Whether the step of this key is stored whole, with its states at these points."""
        ...


@dataclass(frozen=True)
class Remaining:
    """What a store spares a plan, and what is left to do."""

    cached: frozenset[str]  # keys of the plan's steps that are stored whole
    left: tuple[Step, ...]  # the others, in the plan's order
    trainings_cached: int
    trainings_left: int
    epochs_cached: int
    epochs_left: int
    longest_epochs: int  # of the longest chain among the steps left: no number of jobs ends sooner
    states_left: int  # network states still to be written, snapshots included
    masks_left: int


@dataclass(frozen=True)
class Plan:
    """A study's steps (topological order, each once), and the rows that they fill.

    `separate_*` is what the same table would cost without sharing: every trial an experiment of its own, which trains
    whatever its result rests on (its dense run, the trainings that find its mask), then itself, and its sibling
    run where the study measures its connectivity.
    """

    spec: Spec
    steps: tuple[Step, ...]  # those of `answer` first; of those that could run next, that with the longest chain
    trials: tuple[PlannedTrial, ...]
    correlations: tuple[PlannedCorrelation, ...]
    connections: tuple[PlannedConnection, ...]
    trajectory: tuple[PlannedMoment, ...]  # R_p along the dense runs
    quantities: tuple[PlannedQuantity, ...]  # what the spec's `measure` asks for
    snapshots: Mapping[str, frozenset[TrainingTime]]  # key of a Train -> the moments whose states must be kept
    notes: tuple[str, ...]  # what was left out, and why
    model: Ref
    data: Ref
    input_shape: tuple[int, ...]
    outputs: int
    recipes: tuple[RecipeSummary, ...]  # one for every rate that has a dense run
    trainings: int
    epochs: int
    separate_trainings: int
    separate_epochs: int
    priority: Mapping[str, int] = field(repr=False)  # key -> epochs of the longest chain that starts with the step

    def remaining(self, store: Has) -> Remaining:
        """What of this plan `store` holds already. A training without a snapshot that is needed is not held."""
        held = [step for step in self.steps if store.has(step.key, self.snapshots.get(step.key, frozenset()))]
        cached = frozenset(step.key for step in held)
        left = tuple(step for step in self.steps if step.key not in cached)
        return Remaining(
            cached=cached,
            left=left,
            trainings_cached=graph.trainings(held),
            trainings_left=graph.trainings(left),
            epochs_cached=graph.total_epochs(held),
            epochs_left=graph.total_epochs(left),
            longest_epochs=max(graph.longest_below(left, graph.epochs_of).values(), default=0),
            states_left=sum(self.states(step) for step in left),
            masks_left=sum(isinstance(step, Prune) for step in left),
        )

    @property
    def answer(self) -> tuple[Step, ...]:
        """What the verdict at the asked sparsity rests on: the trainings there, the dense runs, and all before them."""
        return _answer(self.spec, self.trials)

    def states(self, step: Step) -> int:
        """How many network states a step leaves in the store, snapshots included."""
        return isinstance(step, Init | Import | Train) + len(self.snapshots.get(step.key, ()))


def plan(spec: Spec, device: str = "cpu", seeds: Mapping[Cell, int] | None = None) -> Plan:
    """Compile a study. Trains nothing, and loads no more of the data than its identity takes.

    `seeds`: how many each learning rate and mask label has; without it all have the number at the spec's first look.
    More seeds only add steps.

    Raises ConfigError, one line, where the spec asks for what there is not.
    """
    context = StudyContext.of(spec, device)
    require_patterns_fit(context)
    require_inputs_fit(context)
    require_moments(context)
    require_held_out(context)
    states_at, arms = cache(context.dense_states), spec.named_arms
    trials: list[PlannedTrial] = []
    measured: list[PlannedCorrelation] = []
    trajectory: list[PlannedMoment] = []
    counts = every_cell(spec, spec.looks[0]) if seeds is None else seeds
    for seed in range(max(counts.values())):
        for rate in spec.learning_rates:
            masks = [mask for mask in spec.masks if seed < counts[rate, mask.label]]
            if not masks:
                continue
            states = states_at(seed, rate)
            trials.extend(_dense_trials(states, spec.pretraining.longer))
            measured.extend(measurements.dense_pair(states, context.scope))
            trajectory.extend(moments(states, context.scope, spec.along_training))
            for mask in masks:
                for found in _masks(context, mask, states_at(seed, mask.learning_rate or rate)):
                    rows = _sparse_trials(states, arms, found)
                    trials.extend(rows)
                    measured.extend(measurements.sparse_pairs(states, context.scope, found, _by_arm(rows)))
    return _assembled(context, tuple(trials), tuple(measured), tuple(trajectory))


def narrowed(whole: Plan, asked: Collection[PlannedQuantity]) -> Plan:
    """The part of a plan that these quantities rest on, with the moments that the whole study keeps of its trainings.

    An audit of the study finds its dense runs stored; arms, masks and other measurements are left out.
    """
    steps = graph.closure([quantity.step for quantity in asked])
    keys = {step.key for step in steps}
    trials = tuple(trial for trial in whole.trials if trial.step.key in keys)
    return _part(whole, steps, trials, tuple(asked), whole.snapshots)


def joined(plans: Sequence[Plan], trials: Sequence[PlannedTrial], more: Iterable[Step] = ()) -> Plan:
    """The part of several plans, of one model and data, that these trials and `more` steps rest on."""
    moments: dict[str, frozenset[TrainingTime]] = {}
    for plan in plans:
        for key, points in plan.snapshots.items():  # a training that two plans share keeps what either reads
            moments[key] = moments.get(key, frozenset()) | points
    steps = graph.closure([*(trial.step for trial in trials), *more])
    return _part(plans[0], steps, tuple(trials), (), moments)


def _part(
    whole: Plan,
    steps: Sequence[Step],
    trials: tuple[PlannedTrial, ...],
    asked: tuple[PlannedQuantity, ...],
    snapshots: Mapping[str, frozenset[TrainingTime]],
) -> Plan:
    keys = {step.key for step in steps}
    priority = graph.longest_below(steps, graph.epochs_of)
    trainings, epochs = graph.trainings(steps), graph.total_epochs(steps)
    return replace(
        whole,
        steps=graph.by_priority(steps, priority),
        trials=trials,
        correlations=(),
        connections=(),
        trajectory=(),
        quantities=asked,
        snapshots={key: points for key, points in snapshots.items() if key in keys},
        notes=(),
        trainings=trainings,
        epochs=epochs,
        separate_trainings=trainings,
        separate_epochs=epochs,
        priority=priority,
    )


def every_cell(spec: Spec, seeds: int) -> dict[Cell, int]:
    """The same number of seeds for every learning rate and mask algorithm."""
    return {(rate, mask.label): seeds for rate in spec.learning_rates for mask in spec.masks}


def _masks(context: StudyContext, mask: MaskSpec, states: DenseStates) -> Iterator[MaskAt]:
    """The masks of one algorithm, one for every sparsity of the study, found on `states`."""
    sparsities = context.spec.sparsities
    choice = Choice(
        criterion=mask.criterion,
        allocation=mask.allocation,
        pattern=mask.pattern,
        scope=context.scope,
        seed=derive(states.trainer.seed, "prune"),
        probe=mask.shown(states, context.facts),
        sequences=context.sequences,
        heads=context.heads,
        round_to=mask.round_to,
        losses=_losses(context, mask, states),
    )
    prunes = mask.algorithm.emit(states, choice, [round(1 - sparsity, DIGITS) for sparsity in sparsities])
    for sparsity, prune in zip(sparsities, prunes, strict=True):
        yield MaskAt(mask.label, sparsity, prune)


def _losses(context: StudyContext, mask: MaskSpec, states: DenseStates) -> MeasureSensitivity | None:
    """The step that measures by what the mask's allocation spreads a sparsity, if it is that one."""
    if mask.allocation != SENSITIVITY:
        return None
    if (most := context.spec.sparsities[-1]) > SENSITIVITIES[-1]:
        what = f"allocation '{SENSITIVITY}' of '{mask.label}' must be at most {SENSITIVITIES[-1]:g}"
        raise ConfigError(f"sparsities: {most:g}; {what}, to which layers are measured")
    of = states.theta_t
    recipe, device = (of.step.recipe, of.step.device) if isinstance(of.step, Train | Import) else (states.recipe, "cpu")
    return sensitivity_of(of, recipe, mask.pattern, context.scope, context.data, device, context.heads)


def _dense_trials(states: DenseStates, longer: int) -> Iterator[PlannedTrial]:
    """The dense run, and where `longer` is not 0 the one of so many times the epochs, from the same θ0."""
    step = states.theta_t.step
    if isinstance(step, Init):
        raise RuntimeError("the final state of a dense run is one of initial weights: a fault of prunetune")
    dense = PlannedTrial(
        arm=DENSE,
        mask=None,
        learning_rate=states.recipe.learning_rate,
        sparsity=0.0,
        seed=states.trainer.seed,
        step=step,
    )
    yield dense
    if longer:
        recipe = states.recipe.without_teacher
        step = states.trainer.train(recipe.lasting(recipe.epochs * longer), states.theta_0)
        yield replace(dense, arm=DENSE_LONGER, step=step)


def _sparse_trials(states: DenseStates, arms: Mapping[str, Arm], found: MaskAt) -> list[PlannedTrial]:
    rate, seed = states.recipe.learning_rate, states.trainer.seed
    rows = []
    for name, arm in arms.items():
        rows.append(PlannedTrial(name, found.label, rate, found.sparsity, seed, arm.train(states, found.prune)))
    return rows


def _by_arm(rows: Iterable[PlannedTrial]) -> dict[str, Train]:
    return {row.arm: row.step for row in rows if isinstance(row.step, Train)}


def _assembled(
    context: StudyContext,
    trials: tuple[PlannedTrial, ...],
    measured: tuple[PlannedCorrelation, ...],
    trajectory: tuple[PlannedMoment, ...],
) -> Plan:
    joined = tuple(measurements.connections(trials, context.spec.connectivity))
    asked = tuple(quantities(context.spec, context.scope, context.heads, trials, measured))
    steps = graph.closure([row.step for row in (*trials, *measured, *trajectory, *joined, *asked)])
    priority = graph.longest_below(steps, graph.epochs_of)
    alone = [graph.closure([trial.step]) for trial in trials]
    sibling_runs = [connection.sibling_run for connection in joined]
    has_theta_0 = context.spec.pretrained is None or context.spec.pretrained.theta_0 is not None
    return Plan(
        spec=context.spec,
        steps=graph.by_priority(steps, priority, frozenset(_answer(context.spec, trials))),
        trials=trials,
        correlations=measured,
        connections=joined,
        trajectory=trajectory,
        quantities=asked,
        snapshots=_snapshots(steps),
        notes=(
            *measurements.left_out(context.spec.named_arms, context.spec.sparsities, has_theta_0),
            *measurements.connection_notes(joined),
            *_notes_of_baselines(context.spec, trials),
        ),
        model=context.model,
        data=context.data,
        input_shape=context.facts.input_shape,
        outputs=context.facts.outputs,
        recipes=_recipes(context),
        trainings=graph.trainings(steps),
        epochs=graph.total_epochs(steps),
        separate_trainings=sum(map(graph.trainings, (*alone, sibling_runs))),
        separate_epochs=sum(map(graph.total_epochs, (*alone, sibling_runs))),
        priority=priority,
    )


def _notes_of_baselines(spec: Spec, trials: Iterable[PlannedTrial]) -> Iterator[str]:
    """What arms with a recipe or a network of their own differ in, an arm a line."""
    shared = spec.recipe.epochs
    for name, arm in spec.named_arms.items():
        steps = [(row.sparsity, row.step) for row in trials if row.arm == name and isinstance(row.step, Train)]
        if not arm.shares_recipe:
            epochs = sorted({step.recipe.epochs for _, step in steps})
            lasting = counted(epochs[0], "epoch") if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]} epochs"
            yield f"{name} has a recipe of its own: {lasting} where the other arms train for {shared}"
        dense = [(sparsity, step.start.step) for sparsity, step in steps if step.mask is None]
        widths = {sparsity: argument(init.model, "width") for sparsity, init in dense if isinstance(init, Init)}
        if widths:
            listed = ", ".join(f"{width} at sparsity {sparsity:g}" for sparsity, width in widths.items())
            yield f"{name} is a dense network of another width: {listed}"


def _recipes(context: StudyContext) -> tuple[RecipeSummary, ...]:
    recipe = context.spec.recipe
    steps = steps_per_epoch(recipe, context.facts.train)
    return tuple(summarise(recipe, rate, steps) for rate in sorted(context.spec.dense_rates))


def _answer(spec: Spec, trials: Iterable[PlannedTrial]) -> tuple[Step, ...]:
    return graph.closure([trial.step for trial in trials if trial.sparsity in (0.0, spec.asked_sparsity)])


def _snapshots(steps: Iterable[Step]) -> dict[str, frozenset[TrainingTime]]:
    """The moments of each training, by its key, that some step reads."""
    moments: dict[str, set[TrainingTime]] = {}
    for step in steps:
        for state in step.states:
            if state.at is not None:
                moments.setdefault(state.step.key, set()).add(state.at)
    return {key: frozenset(points) for key, points in moments.items()}


def labels(plan: Plan) -> dict[str, str]:
    """Key -> `ticket iterative 50.0% lr 0.1 seed 0`, for a plan's trials, their sibling runs, and what is measured."""
    overlaps = {c.step.key: f"R_p of {c.pair} {_place(c)}" for c in plan.correlations}
    moments = {m.step.key: f"R_p along dense lr {m.learning_rate:g} seed {m.seed}" for m in plan.trajectory}
    lines = {line.step.key: f"connectivity of {line}" for line in plan.connections}
    measured = {q.step.key: f"{q.kind} of {q.of} {_place(q)}" for q in plan.quantities}
    names = {t.step.key: f"{t.arm} {_place(t)}" for t in plan.trials}
    siblings = {line.sibling_run.key: f"sibling run of {names[line.step.first.step.key]}" for line in plan.connections}
    return names | siblings | moments | overlaps | lines | measured


def step_names(plan: Plan) -> dict[str, str]:
    """The labels, and those of the masks and the initial weights that the plan's trainings start with."""
    trainings = [(trial, trial.step) for trial in plan.trials if isinstance(trial.step, Train)]
    masks = {step.mask.key: f"mask {_place(trial)}" for trial, step in trainings if step.mask}
    starts = {
        step.start.step.key: f"start of {trial.arm} seed {trial.seed}"
        for trial, step in reversed(trainings)  # the first, which is a dense run's, has the last word
        if isinstance(step.start.step, Init)
    }
    return starts | masks | labels(plan)


def _place(row: PlannedTrial | PlannedCorrelation | PlannedQuantity) -> str:
    return f"{f'{row.mask} {row.sparsity:.1%} ' if row.mask else ''}lr {row.learning_rate:g} seed {row.seed}"


def look_words(plan: Plan) -> str:
    """`look 2 of 4: 10 seeds for iterative masks at learning rate 0.1, not decided by 5`; empty for a fixed number."""
    looks = plan.spec.looks
    if len(looks) == 1:
        return ""
    reached = max(trial.seed for trial in plan.trials) + 1
    number = looks.index(reached)
    look = f"look {number + 1} of {len(looks)}: {reached} seeds"
    if number == 0:
        return f"{look}, and up to {looks[-1]} where they do not decide"
    grown = sorted({(t.learning_rate, t.mask) for t in plan.trials if t.mask and t.seed == reached - 1})
    named = ", ".join(f"{mask} masks at learning rate {rate:g}" for rate, mask in grown)
    return f"{look} for {named}, not decided by {looks[number - 1]}"
