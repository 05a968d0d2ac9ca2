"""Regimes: study × learning rate × mask algorithm × sparsity, each with what its trainings differ by, seed by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from prunetune.analysis.comparison import compare, matches, sample_of
from prunetune.analysis.pairing import Answer, Evidence, Pairs, Place, mean_of, percent
from prunetune.analysis.pretraining import NEAR_CHANCE, USUAL_P, dense
from prunetune.analysis.statistics import Rule, plain
from prunetune.core.metric import ACCURACY, Metric
from prunetune.rows import Results

LEADS = {  # name -> the arms that it is the difference of
    "ticket − reinit": ("ticket", "reinit"),
    "ticket − dense": ("ticket", "dense"),
    "finetune − ticket": ("finetune", "ticket"),
}
LEAD, TO_DENSE = "ticket − reinit", "ticket − dense"
SAME_SPARSITY = 0.005  # rounds of iterative pruning meet 80 % as 80.3 %
DENSE_PAIR = "theta_0/theta_T"


class Axis(NamedTuple):
    """A quantity that regimes can be ordered by: of which networks it is, and its words on an axis."""

    of: str  # of a pair of the dense run, which all of its masks and sparsities share, or of the regime's own ticket
    label: str


QUANTITIES = {  # `kind.figure` of the rows `quantities` of results.json; `kind` is the entry of `measure`
    "movement.sign_flips": Axis(DENSE_PAIR, "share of signs that flip from θ_0 to θ_T"),
    "movement.distance": Axis(DENSE_PAIR, "‖θ_T − θ_0‖ / ‖θ_0‖"),
    "movement.cosine": Axis(DENSE_PAIR, "cosine of θ_0 and θ_T"),
    "barriers.loss_barrier": Axis("theta_T/ticket_T", "loss barrier from θ_T to the ticket's final"),
    "barriers.accuracy_barrier": Axis("theta_T/ticket_T", "accuracy barrier from θ_T to the ticket's final, points"),
    "barriers.score_barrier": Axis("theta_T/ticket_T", "score barrier from θ_T to the ticket's final, points"),
    "curvature.largest": Axis("ticket_T", "largest Hessian eigenvalue at the ticket's final"),
    "curvature.trace": Axis("ticket_T", "Hessian trace at the ticket's final"),
}

Answers = Mapping[tuple[float, str, float], Answer]  # by rate, mask and sparsity: does the winning property hold?


@dataclass(frozen=True)
class Study:
    """A study as a comparison reads it: what it is called there, its results, and its verdicts by sparsity."""

    name: str
    results: Results
    rule: Rule
    evidence: Evidence
    answers: Answers = field(default_factory=dict)

    @property
    def task(self) -> str:
        """The network and the data: dense accuracies of one task can be compared."""
        spec = self.results.study
        arguments = [_settings(spec.get(name)) for name in ("model_args", "data_args")]
        return f"{spec.get('model')}{arguments[0]} on {spec.get('data')}{arguments[1]}"


@dataclass(frozen=True)
class Regime:
    """One point of the comparison: scores by seed, and leads, by how much an arm is better than another."""

    study: str
    task: str
    learning_rate: float
    mask: str
    sparsity: float
    epochs: int
    kappa: float | None  # how far the recipe's weight decay takes θ0 back: what is left of it is exp(-kappa)
    p: float  # of the R_p that is read: the measured one nearest to 0.2
    excess: Mapping[int, float]  # R_p(θ0, θT) of the dense run less chance
    dense: Mapping[int, float]
    leads: Mapping[str, Pairs]
    arms: Mapping[str, Mapping[int, float]]  # score of every arm
    keys: frozenset[str]  # of the trainings of dense, ticket and reinit, which make it the regime that it is
    winning: Answer | None  # does the winning property hold here, by the study's verdict?
    shortfall: float | None = None  # by how much the best dense score of the task is better than this one
    dense_matches: bool = False  # shown to be no more than the margin below the best of the task
    quantities: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # those of QUANTITIES measured, by seed
    metric: Metric = ACCURACY  # of its scores

    @property
    def setting(self) -> tuple[str, float]:
        """The dense run that the regime rests on: R_p, kappa and dense accuracy are its."""
        return self.study, self.learning_rate

    @property
    def label(self) -> str:
        """`thesis, rate 0.1, iterative, 80 %`."""
        return f"{self.study}, rate {self.learning_rate:g}, {self.mask}, {100 * self.sparsity:.4g} %"

    @property
    def mean_excess(self) -> float:
        """The mean over seeds."""
        return math.fsum(self.excess.values()) / len(self.excess)

    @property
    def near_chance(self) -> bool:
        """Whether R_p is about chance, as a study's page calls it."""
        return abs(self.mean_excess) < NEAR_CHANCE

    def mean(self, lead: str) -> float | None:
        """The mean difference, None without a seed that has both."""
        return mean_of(dict(enumerate(self.leads[lead].differences)))


def regimes_of(studies: Sequence[Study], rule: Rule) -> tuple[tuple[Regime, ...], tuple[str, ...]]:
    """All regimes that have R_p of the dense pair and both ticket and reinit, and what was left out and why.

    A regime whose dense, ticket and reinit are the very trainings of an earlier study's is that regime, and counted
    once; arms that only the later study has are added to it.
    """
    found: dict[frozenset[str], Regime] = {}
    notes: list[str] = []
    for study in studies:
        here = [regime for cell in _cells(study) if (regime := _regime(study, *cell)) is not None]
        if known := sum(regime.keys in found for regime in here):
            notes.append(f"{study.name}: {known} regimes are the trainings of an earlier study")
        if not here:
            notes.append(f"{study.name}: no regime; it lacks ticket, reinit, or R_p(θ0, θT) of the dense runs")
        for regime in here:
            earlier = found.get(regime.keys)
            found[regime.keys] = regime if earlier is None else _with_arms_of(earlier, regime)
    return tuple(_with_shortfall(list(found.values()), rule)), tuple(notes)


def _with_arms_of(regime: Regime, other: Regime) -> Regime:
    """The regime with what `other`, the same trainings in another study, has besides."""
    leads = {name: pairs if pairs.differences else other.leads[name] for name, pairs in regime.leads.items()}
    quantities = {**other.quantities, **regime.quantities}
    return replace(regime, arms={**other.arms, **regime.arms}, leads=leads, quantities=quantities)


def pick(regimes: Sequence[Regime], mask: str, sparsity: float) -> list[Regime]:
    """The regimes of one mask algorithm and one sparsity: at most one for every dense run."""
    return [row for row in regimes if row.mask == mask and abs(row.sparsity - sparsity) <= SAME_SPARSITY]


def usual_mask(regimes: Sequence[Regime]) -> str | None:
    """The mask algorithm that most dense runs have; of several the first by name."""
    runs = {mask: len({row.setting for row in regimes if row.mask == mask}) for mask in {r.mask for r in regimes}}
    return min(runs, key=lambda mask: (-runs[mask], mask), default=None)


def middle_sparsity(regimes: Sequence[Regime], mask: str, least: float) -> float | None:
    """The middle one (of two the higher) of the non-trivial sparsities that most dense runs have under the mask."""
    rows = [row for row in regimes if row.mask == mask and row.sparsity >= least - SAME_SPARSITY]
    listed: list[float] = []
    for sparsity in sorted(row.sparsity for row in rows):
        if not listed or sparsity - listed[-1] > SAME_SPARSITY:
            listed.append(sparsity)
    runs = {sparsity: len({row.setting for row in pick(rows, mask, sparsity)}) for sparsity in listed}
    common = [sparsity for sparsity in listed if runs[sparsity] == max(runs.values())]
    return common[len(common) // 2] if common else None


def sparsity_names(regimes: Sequence[Regime]) -> dict[float, str]:
    """The name of every sparsity; those that rounds of pruning meet a little beside (80.3 % for 80 %) share one."""
    names: dict[float, str] = {}
    first = -1.0
    for sparsity in sorted({row.sparsity for row in regimes}):
        first = sparsity if sparsity - first > SAME_SPARSITY else first
        names[sparsity] = percent(first)
    return names


def _cells(study: Study) -> list[tuple[float, str, float]]:
    return sorted({(rate, mask, at) for arm, mask, rate, at in study.evidence.places if arm == "ticket" and mask})


def _regime(study: Study, rate: float, mask: str, sparsity: float) -> Regime | None:
    p, excess = _excess(study.results, rate)
    leads = {name: _pairs(study.evidence, arms, rate, mask, sparsity) for name, arms in LEADS.items()}
    if not excess or not leads[LEAD].differences:
        return None
    places = [place for place in study.evidence.places if place[1:] == (mask, rate, sparsity)]
    arms = {place[0]: values for place in sorted(places) if (values := study.evidence.scores(place))}
    own = [dense(rate), *(_place(arm, mask, rate, sparsity) for arm in LEADS[LEAD])]
    return Regime(
        study=study.name,
        task=study.task,
        learning_rate=rate,
        mask=mask,
        sparsity=sparsity,
        epochs=_epochs(study.results, rate),
        kappa=_kappa(study.results, rate),
        p=p,
        excess=excess,
        dense=study.evidence.scores(dense(rate)),
        leads=leads,
        arms=arms,
        keys=frozenset(key for place in own for key in study.evidence.keys(place)),
        winning=study.answers.get((rate, mask, sparsity)),
        quantities=_quantities(study.results, rate, mask, sparsity),
        metric=study.rule.metric,
    )


def _pairs(evidence: Evidence, arms: tuple[str, str], rate: float, mask: str, sparsity: float) -> Pairs:
    first, second = (dense(rate) if arm == "dense" else _place(arm, mask, rate, sparsity) for arm in arms)
    return evidence.pairs(first, second)


def _place(arm: str, mask: str, rate: float, sparsity: float) -> Place:
    return arm, mask, rate, sparsity


def _excess(results: Results, rate: float) -> tuple[float, dict[int, float]]:
    """R_p of the dense pair less chance, by seed, at the measured p nearest to the paper's."""
    rows = [
        row
        for row in results.correlations
        if (row.pair, row.learning_rate) == (DENSE_PAIR, rate) and math.isfinite(row.value)
    ]
    p = min((row.p for row in rows), key=lambda p: (abs(p - USUAL_P), p), default=USUAL_P)
    return p, {row.seed: row.value - row.expected for row in rows if row.p == p}


def _quantities(results: Results, rate: float, mask: str, sparsity: float) -> dict[str, dict[int, float]]:
    """What of QUANTITIES is measured of the regime, by seed; a figure that is not finite is left out."""
    places = {DENSE_PAIR: (None, 0.0)}
    found: dict[str, dict[int, float]] = {}
    for name, axis in QUANTITIES.items():
        kind, figure = name.split(".")
        place = kind, axis.of, rate, *places.get(axis.of, (mask, sparsity))
        rows = (r for r in results.quantities if (r.kind, r.of, r.learning_rate, r.mask, r.sparsity) == place)
        values = {row.seed: value for row in rows if (value := row.values.get(figure)) is not None}
        if values := {seed: value for seed, value in sorted(values.items()) if math.isfinite(value)}:
            found[name] = values
    return found


def _epochs(results: Results, rate: float) -> int:
    runs = [row.epochs for row in results.trials if (row.arm, row.learning_rate) == ("dense", rate)]
    return runs[0] if runs else int((results.study.get("recipe") or {}).get("epochs") or 0)


def _kappa(results: Results, rate: float) -> float | None:
    return next((row.kappa for row in results.recipes if row.learning_rate == rate), None)


def _settings(given: Any) -> str:
    shown = {name: value for name, value in (given or {}).items() if name != "root"}
    return f" ({', '.join(f'{name} {value}' for name, value in sorted(shown.items()))})" if shown else ""


def _with_shortfall(regimes: Sequence[Regime], rule: Rule) -> list[Regime]:
    """Every regime with its distance from the best dense network of its task."""
    best: dict[str, Regime] = {}
    for row in regimes:
        known = best.get(row.task)
        if row.dense and (known is None or _level(row) > _level(known)):
            best[row.task] = row
    return [_placed(row, best[row.task], rule) if row.dense else row for row in regimes]


def _placed(row: Regime, best: Regime, rule: Rule) -> Regime:
    shortfall = round(_level(best) - _level(row), 9)
    return replace(row, shortfall=shortfall, dense_matches=row.setting == best.setting or _matches(row, best, rule))


def _matches(row: Regime, best: Regime, rule: Rule) -> bool:
    seeds = tuple(sorted(row.dense.keys() & best.dense.keys()))
    differences = tuple(row.metric.oriented(round(row.dense[seed] - best.dense[seed], 9)) for seed in seeds)
    pairs = Pairs("dense", "best dense", seeds, differences, metric=row.metric)
    return compare(pairs, plain(sample_of(pairs)), matches(rule), rule.alpha).answer == "yes"


def _level(row: Regime) -> float:
    """The mean dense score, more being better."""
    return row.metric.oriented(math.fsum(row.dense.values()) / len(row.dense))
