"""The verdict: does a winning ticket exist, and was pre-training sufficient (docs/explanation/verdict.md)?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from prunetune.analysis.comparison import Comparison, Question, beats, compare, figures, matches, sample_of
from prunetune.analysis.pairing import Answer, Chance, Evidence, Pairs, percent
from prunetune.analysis.pretraining import Pretraining, Sufficiency, dense, pretraining
from prunetune.analysis.statistics import USUAL_RULE, Look, Rule, Sample, holm, plan_looks, shrink, taken
from prunetune.core.metric import Metric
from prunetune.rows import Correlation, Missing, Trial

__all__ = ["Comparison", "Rule", "SparsityTest", "Verdict", "judge"]

Winning = Literal["holds", "fails", "inconclusive"]
Cell = tuple[float, str]  # what a verdict is about: a learning rate and a mask algorithm

MOST_SEEDS = 20  # more than these are not asked of anybody
USUAL_SEEDS = 5  # asked where one seed shows no spread to plan by
PLANNING_SLACK = 0.8416  # standard errors: four of five means to come are better than that


@dataclass(frozen=True)
class SparsityTest:
    """Both halves of the winning property at one non-trivial sparsity."""

    sparsity: float
    dense: Comparison  # ticket - dense: does the ticket match the dense network?
    reinit: Comparison  # ticket - reinit: does it beat random reinitialisation?
    p: float  # the larger of the two (intersection-union); 1 where one has none
    p_holm: float  # corrected over the tests of the rule's family
    answer: Answer  # yes: the property holds here; no: one of the two halves is a no
    exceeds: bool = False  # the ticket is better than the dense network by surely more than the margin


@dataclass(frozen=True)
class Verdict:
    """The answer for one learning rate and mask algorithm; every figure is a difference of test scores."""

    learning_rate: float
    mask: str
    winning_property: Winning
    sparsity: float | None  # the highest at which it holds
    pretraining: Sufficiency
    reasons: tuple[str, ...]
    seeds_needed: int | None  # in total; None when decided, or where the reasons say why there is no number
    tests: tuple[SparsityTest, ...] = ()
    outlook: str = ""  # what would decide an inconclusive property; empty when decided
    dense: Pretraining | None = None  # what `pretraining` rests on
    alpha: float = USUAL_RULE.alpha  # the level of its bounds: the rule's, or that of the look it was reached at
    looks: tuple[Look, ...] = ()  # that were taken, where seeds may be added
    open: bool = False  # undecided, and more seeds could decide it
    unasked: tuple[str, ...] = ()  # arms of the property that the study does not have
    corrected_for: int = 0  # tests that Holm's correction ran over

    @property
    def exceeds_dense(self) -> tuple[float, ...]:
        """Sparsities at which the ticket exceeds the dense network, which is then not converged."""
        return tuple(test.sparsity for test in self.tests if test.exceeds)

    @property
    def shown(self) -> str:
        """The answer in a word: `winning_property`, or `not asked`."""
        return "not asked" if self.unasked else self.winning_property


@dataclass(frozen=True)
class _Pair:
    """The paired differences that answer both questions at one sparsity."""

    sparsity: float
    dense: Pairs
    reinit: Pairs


def judge(
    trials: Sequence[Trial],
    rule: Rule = USUAL_RULE,
    *,
    correlations: Sequence[Correlation] = (),
    missing: Sequence[Missing] = (),
    outputs: int | None = None,
    test_images: int = 10_000,
    chance: float | None = None,
) -> tuple[Verdict, ...]:
    """The verdicts of a study, one per learning rate and mask algorithm, sorted by both.

    Where the rule has looks, each is reached at the first look that decides it, at that look's level and by the seeds
    up to it alone, and rests there whatever came later; pre-training is judged by the seeds that all rates have.

    Guessing reaches `chance` percent, the share of the most frequent class among the test labels, or where that is not
    known 100 / `outputs` (classes), with three standard deviations of so many `test_images`: baselines no better than
    that are named and left out. Of another metric than accuracy `chance` is what guessing scores, and what is not
    better by the margin is no better. Without both nothing counts as guessing. Raises ConfigError when a trial stands
    there twice with different results.
    """
    rows = _Rows(trials, missing, Chance.of(outputs, test_images, chance, rule.metric), rule.metric)
    cells = sorted({(row.learning_rate, row.mask) for row in [*trials, *missing] if row.mask is not None})
    if rule.looks:
        found = _judge_in_looks(rows, rule, cells, _common_pretraining(rows, rule, correlations))
    else:
        evidence = rows.evidence()
        found = _judge_together(evidence, rule, cells, pretraining(evidence, rule, correlations))
    return tuple(found[cell] for cell in cells)


@dataclass(frozen=True)
class _Rows:
    """A study's rows, of which a look sees the first so many seeds."""

    trials: Sequence[Trial]
    missing: Sequence[Missing]
    chance: Chance | None
    metric: Metric

    def evidence(self, seeds: float = math.inf) -> Evidence:
        """What is known by the first `seeds` seeds."""
        trials = [row for row in self.trials if row.seed < seeds]
        missing = [row for row in self.missing if row.seed < seeds]
        return Evidence(trials, missing, self.chance, seeds < math.inf, self.metric)

    def reached(self, rate: float, mask: str | None) -> int:
        """How many seeds have rows at a rate, under a mask algorithm or (None) of the dense run."""
        rows = [*self.trials, *self.missing]
        return max((row.seed + 1 for row in rows if (row.learning_rate, row.mask) == (rate, mask)), default=0)


def _common_pretraining(rows: _Rows, rule: Rule, correlations: Sequence[Correlation]) -> dict[float, Pretraining]:
    """By the seeds that the dense runs of all rates have, at the level of that look."""
    rates = {row.learning_rate for row in [*rows.trials, *rows.missing]}
    look = taken(rule, min((rows.reached(rate, None) for rate in rates), default=0))[-1]
    return pretraining(rows.evidence(look.seeds), replace(rule, alpha=look.alpha), correlations)


def _judge_in_looks(
    rows: _Rows, rule: Rule, cells: Sequence[Cell], before: Mapping[float, Pretraining]
) -> dict[Cell, Verdict]:
    """Each cell at the first look that decides it, else at the last that it has the seeds for."""
    looks = plan_looks(rule.alpha, rule.looks)
    found: dict[Cell, Verdict] = {}
    for count, look in enumerate(looks, start=1):
        going = [cell for cell in cells if _goes_on(found.get(cell), rows, cell, look)]
        settled = [_settled(test) for cell, verdict in found.items() if cell not in going for test in verdict.tests]
        at = replace(rule, alpha=look.alpha)
        now = _judge_together(rows.evidence(look.seeds), at, going, before, settled)
        found |= {cell: replace(verdict, looks=looks[:count]) for cell, verdict in now.items()}
    return found


def _goes_on(before: Verdict | None, rows: _Rows, cell: Cell, look: Look) -> bool:
    return before is None or (before.winning_property == "inconclusive" and rows.reached(*cell) >= look.seeds)


def _settled(test: SparsityTest) -> float:
    """The p-value of a test that is not asked again: what was rejected stays so, what was not is never rejected."""
    return 0.0 if test.answer == "yes" else 1.0


def _judge_together(
    evidence: Evidence,
    rule: Rule,
    cells: Sequence[Cell],
    before: Mapping[float, Pretraining],
    settled: Sequence[float] = (),
) -> dict[Cell, Verdict]:
    family = _Family({cell: _pairs(evidence, rule, *cell) for cell in cells}, rule, tuple(settled))
    return {cell: _judge_cell(evidence, family, cell, before[cell[0]]) for cell in cells}


class _Family:
    """The pairs of the cells that are judged at one look, and the p-values of tests that are settled already."""

    def __init__(self, pairs: Mapping[Cell, Sequence[_Pair]], rule: Rule, settled: Sequence[float]) -> None:
        self.pairs = pairs
        self.rule = rule
        self._settled = settled
        self._known: dict[tuple[int, float], dict[Cell, tuple[SparsityTest, ...]]] = {}

    def size(self, cell: Cell) -> int:
        """How many tests Holm's correction runs over in a cell's verdict."""
        together = self.pairs.values() if self.rule.family == "study" else [self.pairs[cell]]
        return sum(map(len, together)) + (len(self._settled) if self.rule.family == "study" else 0)

    def tests(self, cell: Cell, more: int = 0, slack: float = 0.0) -> tuple[SparsityTest, ...]:
        """Both questions at every sparsity; `more` seeds and `slack` are for planning (see `compare`)."""
        if (more, slack) not in self._known:
            self._known[more, slack] = self._all_tests(more, slack)
        return self._known[more, slack][cell]

    def _all_tests(self, more: int, slack: float) -> dict[Cell, tuple[SparsityTest, ...]]:
        halves = {cell: _both(pairs, self.rule, more, slack) for cell, pairs in self.pairs.items()}
        p_values = {cell: [_larger(*both) for both in found] for cell, found in halves.items()}
        corrected = self._corrected(p_values)
        return {
            cell: tuple(
                _tested(pair.sparsity, both, p, p_holm, self.rule)
                for pair, both, p, p_holm in zip(pairs, halves[cell], p_values[cell], corrected[cell], strict=True)
            )
            for cell, pairs in self.pairs.items()
        }

    def _corrected(self, p_values: Mapping[Cell, Sequence[float]]) -> dict[Cell, list[float]]:
        """Holm's p-values, over each cell's own tests or over those of the whole study."""
        if self.rule.family == "cell":
            return {cell: holm(values) for cell, values in p_values.items()}
        rest = iter(holm([*(value for values in p_values.values() for value in values), *self._settled]))
        return {cell: list(islice(rest, len(values))) for cell, values in p_values.items()}


def _judge_cell(evidence: Evidence, family: _Family, cell: Cell, before: Pretraining) -> Verdict:
    rate, mask = cell
    rule, pairs, tests = family.rule, family.pairs[cell], family.tests(cell)
    winning = _outcome(tests)
    needed, outlook = (None, "") if winning != "inconclusive" else _seeds_needed(evidence, family, cell)
    notes = dict.fromkeys(note for test in tests for note in (*test.dense.notes, *test.reinit.notes))
    return Verdict(
        learning_rate=rate,
        mask=mask,
        winning_property=winning,
        sparsity=max((test.sparsity for test in tests if test.answer == "yes"), default=None),
        pretraining=before.answer,
        reasons=tuple(filter(None, dict.fromkeys([*map(_reason, tests), outlook, *notes, *before.reasons]))),
        seeds_needed=needed,
        tests=tests,
        outlook=outlook,
        dense=before,
        alpha=rule.alpha,
        open=winning == "inconclusive" and _can_grow(pairs),
        unasked=_unasked(evidence) if winning == "inconclusive" else (),
        corrected_for=family.size(cell),
    )


def _pairs(evidence: Evidence, rule: Rule, rate: float, mask: str) -> list[_Pair]:
    sparsities = sorted({at for _, name, lr, at in evidence.places if (name, lr) == (mask, rate)})
    return [
        _Pair(
            sparsity,
            evidence.pairs(("ticket", mask, rate, sparsity), dense(rate)),
            evidence.pairs(("ticket", mask, rate, sparsity), ("reinit", mask, rate, sparsity)),
        )
        for sparsity in sparsities
        if sparsity >= rule.nontrivial_sparsity
    ]


def _both(pairs: Sequence[_Pair], rule: Rule, more: int, slack: float) -> list[tuple[Comparison, Comparison]]:
    against_dense = _compare_all([pair.dense for pair in pairs], matches(rule), rule, more, slack)
    against_reinit = _compare_all([pair.reinit for pair in pairs], beats(rule), rule, more, slack)
    return list(zip(against_dense, against_reinit, strict=True))


def _larger(*halves: Comparison) -> float:
    return max(1.0 if half.p is None else half.p for half in halves)


def _tested(
    sparsity: float, halves: tuple[Comparison, Comparison], p: float, p_holm: float, rule: Rule
) -> SparsityTest:
    dense = halves[0]
    exceeds = dense.answer == "yes" and dense.least_lead is not None and dense.least_lead > rule.margin
    return SparsityTest(sparsity, *halves, p, p_holm, _combined(halves, p_holm, rule), exceeds)


def _compare_all(pairs: Sequence[Pairs], question: Question, rule: Rule, more: int, slack: float) -> list[Comparison]:
    estimates = shrink([_grown(sample_of(pair), more) for pair in pairs])
    return [
        compare(pair, estimate, question, rule.alpha, slack) for pair, estimate in zip(pairs, estimates, strict=True)
    ]


def _grown(sample: Sample | None, more: int) -> Sample | None:
    """The sample as it would look with `more` seeds of the same mean and spread."""
    return None if sample is None else Sample(sample.n + more, sample.mean, sample.variance)


def _combined(halves: tuple[Comparison, Comparison], p_holm: float, rule: Rule) -> Answer:
    answers = {half.answer for half in halves}
    if "no" in answers:
        return "no"
    return "yes" if answers == {"yes"} and p_holm < rule.alpha else "undecided"


def _outcome(tests: Sequence[SparsityTest]) -> Winning:
    if any(test.answer == "yes" for test in tests):
        return "holds"
    return "fails" if tests and all(test.answer == "no" for test in tests) else "inconclusive"


def _seeds_needed(evidence: Evidence, family: _Family, cell: Cell) -> tuple[int | None, str]:
    """The smallest total number of seeds that would probably decide, and a sentence about it.

    Means and spreads are taken to stay as they are, those of the other cells too; the decision must stand with every
    mean 0.84 standard errors less favourable to it, so that it comes about in four of five repetitions of a single
    comparison.
    """
    rule, pairs = family.rule, family.pairs[cell]
    if unasked := _unasked(evidence):
        return None, f"To have it judged, add to the study's arms: {', '.join(unasked)}."
    if not pairs:
        return None, f"No sparsity of at least {percent(rule.nontrivial_sparsity)} was tried."
    now = len(evidence.seeds)
    if rule.looks and _can_grow(pairs):
        return None, _next_look(now, rule)
    for seeds in range(now + 1, MOST_SEEDS + 1):
        if _outcome(family.tests(cell, seeds - now, PLANNING_SLACK)) != "inconclusive":
            return seeds, f"In all, {seeds} seeds would probably decide it; {now} were run."
    return _no_forecast(now, [half for pair in pairs for half in (pair.dense, pair.reinit)])


def _can_grow(pairs: Sequence[_Pair]) -> bool:
    """Whether more seeds could decide: whether `holds` or `fails` is still within what results and bars allow."""
    halves = [(pair.dense, pair.reinit) for pair in pairs]
    holds = any(all(_may(half, "yes") for half in both) for both in halves)
    fails = bool(halves) and all(any(_may(half, "no") for half in both) for both in halves)
    return holds or fails


def _may(half: Pairs, answer: Answer) -> bool:
    return bool(half.seeds) and answer not in half.blocked_answers


def _unasked(evidence: Evidence) -> tuple[str, ...]:
    return tuple(arm for arm in ("ticket", "reinit") if arm not in evidence.arms)


def _next_look(now: int, rule: Rule) -> str:
    if now < rule.looks[-1]:
        return f"Undecided by {now} seeds; up to {rule.looks[-1]} may be added."
    return f"Undecided by {now} seeds, the most that were to be added."


def _no_forecast(now: int, halves: Sequence[Pairs]) -> tuple[int | None, str]:
    if any(half.blocked_answers for half in halves):
        return None, "More seeds do not help while trainings diverge or a baseline is stuck at chance."
    if any(not half.seeds for half in halves):
        return (
            None,
            "To decide it, the arms ticket and reinit and the dense run need results for the same seeds.",
        )
    if any(len(half.seeds) < 2 for half in halves) and now < USUAL_SEEDS:
        return USUAL_SEEDS, f"One seed is never a verdict, for it shows no spread; {USUAL_SEEDS} seeds are usual."
    if any(len(half.seeds) < 2 for half in halves):
        return None, f"One seed is never a verdict; of the {now} seeds the others have no result somewhere."
    return None, "Seeds needed: more than 20: the difference sits at the margin."


def _reason(test: SparsityTest) -> str:
    halves = [f"{half.first} − {half.second}: {figures(half)}, {half.answer}" for half in (test.dense, test.reinit)]
    return (
        f"at sparsity {percent(test.sparsity)}: {'; '.join(halves)}; Holm p {test.p_holm:.2g}; together {test.answer}"
    )
