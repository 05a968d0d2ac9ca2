"""The smallest or fastest network whose drop is within a budget with confidence: what `prune --max-drop` does.

Mask algorithms, patterns and allocations compete, each a chain of growing sparsities (docs/explanation/budget.md).
Every training is a stored step of a study with the one arm `finetune`, so that another budget trains only what is new.
The search is decided on held-out data; the test data are looked at once, for the network that it returns.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from prunetune.analysis.noninferiority import Drop, interval, seeds_needed
from prunetune.analysis.pairing import percent
from prunetune.api import Prepared, under_way
from prunetune.compression.budget_plan import Part, Search, blocks_of, narrowed_to, on_device, written_formats
from prunetune.compression.compress_models import missing_of
from prunetune.compression.exported_files import BEST, DENSE_STEM, exported, exported_with, forget_best
from prunetune.compression.measured_networks import (
    Network,
    failure_line,
    inputs_of,
    network_of,
    row_of,
    sparse_form,
    timings_of,
)
from prunetune.core.metric import Metric
from prunetune.data import facts, load_examples
from prunetune.data.examples import Nest
from prunetune.deploy.bitmask import pack
from prunetune.errors import given
from prunetune.execution.events import Done, Event, Failed
from prunetune.execution.executors.local import LocalExecutor
from prunetune.plan.compile import joined
from prunetune.plan.measurements import PlannedTrial
from prunetune.report.tradeoff.budget_page import BudgetReport, write_budget
from prunetune.report.tradeoff.budget_rows import (
    NOT_SHOWN,
    WITHIN,
    BudgetSearch,
    Candidate,
    FinalScore,
    chosen_place,
    reached,
    reaches,
)
from prunetune.report.tradeoff.tradeoff_rows import SPARSE, ModelRow
from prunetune.results.collect import collect
from prunetune.rows import DENSE, Results, Trial
from prunetune.spec.compression_budget import Quantity, Target

Scores = Mapping[str, Any]  # the metrics of a MeasureBlocks
Tell = Callable[[str], None]
Follow = Callable[[Prepared], AbstractContextManager[Callable[[Event], None]]]
"""Shows one part of the search while it runs: called with what is about to run, it gives what hears of its events."""


@dataclass(frozen=True)
class Found:
    """A finished search: its page and rows, and what failed."""

    report: BudgetReport
    failures: tuple[str, ...]


def run_search(
    search: Search,
    folder: Path,
    formats: Sequence[str] = (),
    *,
    jobs: int | None = None,
    follow: Follow,
    tell: Tell = lambda line: None,
    command: str | None = None,
) -> Found:
    """Try the chains' candidates in turn, measure those that were tried, and write report and network to `folder`.

    `folder` is what `preflight_search` returned for the same formats. `tell` hears a line for every candidate.
    """
    with under_way(search.prepared, search.asked):  # between two rounds, too, when no step is being done
        tried = _Tried(search, jobs, follow, tell)
        tried.run()
        return _finished(search, tried, folder, formats, command)


def _finished(search: Search, tried: "_Tried", folder: Path, formats: Sequence[str], command: str | None) -> Found:
    """The tried candidates measured, and the network that is returned exported, with the report."""
    found, dense, networks = _measured(search, tried, command)
    found = replace(found, environment=found.environment | exported_with(formats))
    forget_best(folder)
    write_budget(found, folder)  # before anything is exported, which may fail in many ways
    failed: list[str] = []
    if found.chosen is not None:
        found, failed = _with_files(search, found, dense, networks[found.chosen], formats, folder)
    return Found(write_budget(found, folder), (*dict.fromkeys(tried.failures.values()), *failed))


class _Tried:
    """The candidates that have been tried, chain by chain: one sparsity of all chains that are open at a time."""

    def __init__(self, search: Search, jobs: int | None, follow: Follow, tell: Tell) -> None:
        self.search = search
        self.failures: dict[str, str] = {}
        self.candidates: list[tuple[Prepared, Candidate]] = []
        self.trials: dict[PlannedTrial, None] = {}
        self._jobs, self._follow, self._tell = jobs, follow, tell

    def run(self) -> None:
        """Go on until every chain is closed or at its end."""
        open_chains, rank = list(self.search.chains), 0
        while open_chains:
            wanted = [
                trial
                for chain in open_chains
                for trial in chain.plan.trials
                if trial.sparsity in (0.0, chain.spec.sparsities[rank])
            ]
            self._do(open_chains, wanted, "validation")
            asked = [(chain, self._judged(chain, chain.spec.sparsities[rank])) for chain in open_chains]
            for _, candidate in asked:
                self._tell(_line(self.search, candidate))
            self.candidates += asked
            rank += 1
            open_chains = [c for c, one in asked if one.answer == WITHIN and rank < len(c.spec.sparsities)]

    def final(self, chain: Prepared, chosen: Candidate) -> FinalScore | None:
        """The one look at the test data; None where they could not be scored, which is among the failures."""
        wanted = [trial for trial in chain.plan.trials if trial.sparsity in (0.0, chosen.sparsity)]
        self._do([chain], wanted, "test")
        pairs = scores_of(chain, chosen.sparsity, "test")
        if isinstance(pairs, str):
            return None
        drops, left_out = _drops(pairs, chain.spec.metric)
        alpha, tries = chain.spec.verdict.alpha, len(self.candidates)
        low, high = interval(drops, alpha, tries, left_out) or (None, None)
        dense, own = (tuple(pair[side]["whole"] for pair in pairs) for side in (0, 1))
        return FinalScore(own, dense, fmean(drops), low, high, tries)

    def _do(self, chains: Sequence[Prepared], wanted: Sequence[PlannedTrial], part: Part) -> None:
        """Train what these trials lack, and score their networks on a part of the data."""
        self.trials |= dict.fromkeys(wanted)
        plan = joined([chain.plan for chain in chains], wanted, [blocks_of(trial, part) for trial in wanted])
        prepared = narrowed_to(self.search.prepared, plan)
        with self._follow(prepared) as hear, closing(LocalExecutor(self._jobs).run(plan, prepared.store)) as events:
            for event in events:
                if isinstance(event, Failed):
                    self.failures[event.key] = event.message
                hear(_of_held_out(event))

    def _judged(self, chain: Prepared, sparsity: float) -> Candidate:
        """The candidate with its drop and answer; what it costs is measured when the search is over."""
        mask, level, max_drop = chain.spec.masks[0], self.search.level, self.search.budget.max_drop
        pairs = scores_of(chain, sparsity, "validation")
        known = Candidate(
            mask=mask.label,
            pattern=mask.pattern,
            allocation=mask.allocation,
            sparsity=sparsity,
            drops=(),
            drop=None,
            high=None,
            level=level,
            of_seeds=None,
            of_examples=None,
            answer=NOT_SHOWN,
            reaches=False,
            seeds_needed=None,
            why=pairs if isinstance(pairs, str) else "",
            file_bytes=None,
            network=None,
        )
        if isinstance(pairs, str):
            return known
        drops, left_out = _drops(pairs, chain.spec.metric)
        drop = Drop.of(drops, level, left_out)
        within = drop.within(max_drop)
        return replace(
            known,
            drops=drops,
            drop=drop.mean,
            high=drop.high,
            of_seeds=drop.of_seeds,
            of_examples=drop.of_examples,
            answer=WITHIN if within else NOT_SHOWN,
            seeds_needed=None if within else seeds_needed(drops, level, max_drop, left_out),
            why="all seeds agree: there is no spread to judge by" if drop.high is None else "",
        )


def scores_of(chain: Prepared, sparsity: float, part: Part) -> list[tuple[Scores, Scores]] | str:
    """By seed, what the dense and the pruned network score, as `MeasureBlocks` found it; why that is not known."""
    dense = {trial.seed: trial for trial in chain.plan.trials if trial.arm == DENSE}
    found: list[tuple[Scores, Scores]] = []
    for trial in chain.plan.trials:
        if trial.sparsity == sparsity:
            pair = [scores_by_blocks(chain, one, part) for one in (dense[trial.seed], trial)]
            if pair[0] is None or pair[1] is None:
                what = "dense network" if pair[0] is None else "network"
                return f"its {what} of seed {trial.seed} has no finite score: it diverged, or failed"
            found.append((pair[0], pair[1]))
    return found


def scores_by_blocks(chain: Prepared, trial: PlannedTrial, part: Part) -> Scores | None:
    """What a trial's network scores whole and without each block; None where that is not stored, or not finite."""
    try:
        found = chain.store.metrics(blocks_of(trial, part).key)
    except KeyError:
        return None
    return None if None in (found["whole"], *found["left_out"]) else found


def _drops(pairs: Sequence[tuple[Scores, Scores]], metric: Metric) -> tuple[tuple[float, ...], list[float]]:
    """By seed, by how much the pruned network is worse; and the mean over seeds without each block of the examples."""
    drops = tuple(round(metric.oriented(dense["whole"] - own["whole"]), 9) for dense, own in pairs)
    blocks = zip(*(zip(dense["left_out"], own["left_out"], strict=True) for dense, own in pairs), strict=True)
    return drops, [fmean(metric.oriented(dense - own) for dense, own in block) for block in blocks]


def _of_held_out(event: Event) -> Event:
    """The event with held-out scores in the place of those of the test data, which nobody is to look at."""
    if not isinstance(event, Done) or "test_accuracy" not in event.metrics or "data_order_digest" not in event.metrics:
        return event
    hidden = {"test_accuracy": event.metrics.get("validation_accuracy"), "score": event.metrics.get("validation_score")}
    return replace(event, metrics=event.metrics | hidden)


def _line(search: Search, candidate: Candidate) -> str:
    metric = search.spec.metric
    if candidate.drop is None or candidate.high is None:
        return f"{candidate.label}: {candidate.answer}: {candidate.why}"
    drop, high = (f"{value:.{metric.digits}f}" for value in (candidate.drop, candidate.high))
    return f"{candidate.label}: held-out drop{metric.in_unit} {drop}, at most {high}: {candidate.answer}"


def _measured(
    search: Search, tried: _Tried, command: str | None
) -> tuple[BudgetSearch, Network | None, list[tuple[Prepared, Network] | None]]:
    """The search with every candidate that trained measured, all in turns, and the one that is chosen; the networks."""
    base = joined([chain.plan for chain in search.chains], [*tried.trials]) if tried.trials else search.prepared.plan
    results = collect(base, search.prepared.store, search.prepared.cached, tried.failures)
    failures: list[str] = []
    images = inputs_of(load_examples(base.data))
    dense = _shown(search.chains[0], 0.0, results, images, failures) if search.chains else None
    networks = [_shown(chain, one.sparsity, results, images, failures) for chain, one in tried.candidates]
    chains = [chain for chain, _ in tried.candidates]
    networks = [_quickest(search, *pair, images, failures) for pair in zip(chains, networks, strict=True)]
    sound = [network for network in (dense, *networks) if network is not None] if dense else []
    device = search.prepared.device
    times = dict(zip(map(id, sound), timings_of(sound, on_device(device, images)), strict=True))
    rows = [
        None if network is None or id(network) not in times else row_of(chain, network, times[id(network)], images)
        for (chain, _), network in zip(tried.candidates, networks, strict=True)
    ]
    dense_row = row_of(search.chains[0], dense, times[id(dense)], images) if dense else None
    dense_bytes = len(pack(dense.whole.state_dict())) if dense else None
    candidates = tuple(
        _costed(search.budget.target, one, row, network, dense_row)
        for (_, one), row, network in zip(tried.candidates, rows, networks, strict=True)
    )
    found = _found(search, results, candidates, dense_row, dense_bytes, command)
    found = replace(found, missing=(*found.missing, *failures))
    chosen = chosen_place(found)
    if chosen is not None:
        found = replace(found, chosen=chosen, test=tried.final(*tried.candidates[chosen]))
    pairs = zip(tried.candidates, networks, strict=True)
    return found, dense, [None if network is None else (chain, network) for (chain, _), network in pairs]


def _shown(chain: Prepared, sparsity: float, results: Results, images: Nest, failures: list[str]) -> Network | None:
    """The network of the first seed, with the held-out scores of all; None where none trained."""
    planned = {trial.step.key: trial for trial in chain.plan.trials if trial.sparsity == sparsity}
    scored: list[Trial] = []
    for trial in results.trials:
        found = scores_by_blocks(chain, planned[trial.key], "validation") if trial.key in planned else None
        if found is not None:
            scored.append(replace(trial, score=found["whole"], test_accuracy=None, validation_accuracy=None))
    return network_of(chain, scored, images, failures) if scored else None


def _quickest(
    search: Search, chain: Prepared, network: Network | None, images: Nest, failures: list[str]
) -> Network | None:
    """The network as it meets a target in time: with layers that run sparse, where that is faster."""
    if network is None or not search.runs_sparse(chain):
        return network
    try:
        return replace(network, sparse=sparse_form(network.whole, images))
    except Exception as error:  # calls of a network of somebody's
        failures.append(failure_line(f"{percent(network.trial.sparsity)}: its layers stay dense", error))
        return network


def _costed(
    target: Target | None, one: Candidate, row: ModelRow | None, network: Network | None, dense: ModelRow | None
) -> Candidate:
    if row is None or network is None or dense is None:
        return one
    size = len(pack(network.whole.state_dict()))
    quantity: Quantity = target.quantity if target else "params"
    return replace(one, network=row, file_bytes=size, reaches=reaches(target, reached(quantity, row, dense, size)))


def _found(
    search: Search,
    results: Results,
    candidates: tuple[Candidate, ...],
    dense: ModelRow | None,
    dense_bytes: int | None,
    command: str | None,
) -> BudgetSearch:
    spec, target = search.spec, search.budget.target
    environment = results.environment | ({"command": command} if command is not None else {})
    labels = tuple(chain.spec.masks[0].label for chain in search.chains)
    return BudgetSearch(
        name=spec.name,
        model=spec.model,
        data=spec.data,
        learning_rate=spec.learning_rates[0],
        epochs=spec.recipe.epochs,
        seeds=spec.looks[0],
        held_out=facts(search.prepared.plan.data).validation,
        max_drop=search.budget.max_drop,
        quantity=target.quantity if target else None,
        limit=target.limit if target else None,
        alpha=spec.verdict.alpha,
        chains=labels,
        rule=_rule(search),
        dense=dense,
        dense_file_bytes=dense_bytes,
        candidates=candidates,
        chosen=None,
        test=None,
        left_out=search.left_out,
        missing=missing_of(results),
        study=results.study,
        environment=environment,
    )


def _rule(search: Search) -> str:
    alpha, chains = search.spec.verdict.alpha, len(search.chains)
    if not chains:
        return "Nothing was trained: no way of pruning can reach the target at any of the sparsities."
    shared = (
        f"alpha {alpha:g}"
        if chains == 1
        else f"alpha {alpha:g} is shared among {chains} chains, {search.level:.3g} each"
    )
    return (
        f"Rule: {shared}; within a chain sparsities are tried from low to high, each by the upper one-sided t bound of "
        "the paired drop at that level, up to the first that is not shown to be within "
        f"{search.spec.metric.amount(search.budget.max_drop)}."
    )


def _with_files(
    search: Search,
    found: BudgetSearch,
    dense: Network | None,
    chosen: tuple[Prepared, Network] | None,
    formats: Sequence[str],
    folder: Path,
) -> tuple[BudgetSearch, list[str]]:
    """The search with the files of the returned network, and a line for every file that could not be made."""
    chain, network = given(chosen, "a chosen candidate was measured")
    place = given(found.chosen, "there is a chosen one")
    measured = [
        (given(dense, "a candidate has a drop from it"), given(found.dense, "it was measured")),
        (network, given(found.candidates[place].network, "a chosen candidate was measured")),
    ]
    written = [name for name in written_formats(search, formats) if name != SPARSE or network.sparse or name in formats]
    rows, failed = exported(chain, measured, [DENSE_STEM, BEST], written, folder)
    candidates = [replace(one, network=rows[1]) if i == place else one for i, one in enumerate(found.candidates)]
    missing = (*found.missing, *failed)
    return replace(found, dense=rows[0], candidates=tuple(candidates), missing=missing), failed
