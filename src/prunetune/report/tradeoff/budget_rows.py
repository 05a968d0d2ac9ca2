"""What a search within a budget found: the candidates that were tried, the one that is returned, and `budget.json`."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunetune.analysis.pairing import percent
from prunetune.core.metric import Metric
from prunetune.errors import counted
from prunetune.report.results_files import decode, json_text, read_object
from prunetune.report.table_format import number
from prunetune.report.tradeoff.tradeoff_rows import ModelRow, Timing, onnxruntime_text, ratio, sparse_text
from prunetune.spec.compression_budget import Quantity, Target, amount

BUDGET, SCHEMA_VERSION = "budget.json", 1
WITHIN, NOT_SHOWN = "within", "not shown"


@dataclass(frozen=True)
class Candidate:
    """A network that was tried: how it was pruned, its drop on the held-out data over seeds, and its answer.

    Drops, one per seed, are above 0 where it scores worse than the dense network of that seed. `high` is the upper
    bound of their mean at `level`. Of `network`, scores are of the held-out data; None where nothing could be measured.
    """

    mask: str  # the mask's label, which says pattern and allocation where they are not the default
    pattern: str
    allocation: str
    sparsity: float
    drops: tuple[float, ...]
    drop: float | None
    high: float | None
    level: float
    of_seeds: float | None  # standard error of the mean that the seeds bring
    of_examples: float | None  # and the choice of the held-out examples
    answer: str  # `within`, or `not shown`
    reaches: bool  # the target, if there is one
    seeds_needed: int | None  # in all, to show that it is within; None where that is shown, or not to be expected
    why: str  # where no drop is known
    file_bytes: int | None  # of its weights with zeros as bits (`bitmask`)
    network: ModelRow | None

    @property
    def label(self) -> str:
        """`one_shot-channel 50 %`."""
        return f"{self.mask} {percent(self.sparsity)}"

    @property
    def qualifies(self) -> bool:
        """Whether it keeps the whole budget."""
        return self.answer == WITHIN and self.reaches


@dataclass(frozen=True)
class FinalScore:
    """The one look at the test data: scores by seed of the chosen network and the dense one, and the drop between them.

    The bounds hold with 1 - alpha for whichever of the candidates was chosen; None without a spread.
    """

    scores: tuple[float, ...]
    dense: tuple[float, ...]
    drop: float
    low: float | None
    high: float | None
    candidates: int  # that the bounds account for


@dataclass(frozen=True)
class BudgetSearch:
    """All that one search found. Candidates stand in the order in which they were tried."""

    name: str
    model: str
    data: str
    learning_rate: float
    epochs: int
    seeds: int
    held_out: int  # examples, on which the search is decided
    max_drop: float
    quantity: str | None  # of the target
    limit: float | None
    alpha: float
    chains: tuple[str, ...]  # labels of the masks among which alpha is shared
    rule: str  # in words
    dense: ModelRow | None
    dense_file_bytes: int | None
    candidates: tuple[Candidate, ...]
    chosen: int | None  # a place among the candidates
    test: FinalScore | None
    left_out: tuple[str, ...]  # what was not tried, and why
    missing: tuple[str, ...]
    study: dict[str, Any]
    environment: dict[str, Any]
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def metric(self) -> Metric:
        """What the networks are scored by."""
        return Metric.of(self.study)

    @property
    def target(self) -> Target | None:
        """What was asked for beside the drop."""
        quantity: Any = self.quantity
        return None if quantity is None or self.limit is None else Target(quantity, self.limit)

    @property
    def best(self) -> Candidate | None:
        """The candidate that is returned."""
        return None if self.chosen is None else self.candidates[self.chosen]


def budget_json(found: BudgetSearch) -> str:
    """The content of `budget.json`: strict JSON."""
    return json_text(found) + "\n"


def canonical(found: BudgetSearch) -> BudgetSearch:
    """The same as a reader of `budget.json` gets it."""
    return decode(json.loads(budget_json(found)), BudgetSearch, BUDGET)


def read_budget_search(path: Path) -> BudgetSearch:
    """Read `budget.json`; ConfigError with one line for a file that is none."""
    return decode(read_object(path, (SCHEMA_VERSION,)), BudgetSearch, str(path))


def reached(quantity: Quantity, row: ModelRow, dense: ModelRow, file_bytes: int) -> float:
    """What a network comes to, in the unit of the target, of times the cautious end.

    Times are those of a call with one example: of a speed-up the lower bound of its median, of a latency the upper
    quartile.
    """
    alone = row.timings[0]
    return {
        "speedup": alone.speedup_low,
        "latency": alone.high,
        "macs": row.macs / dense.macs if dense.macs else 1.0,
        "size": float(file_bytes),
        "params": row.nonzeros / dense.parameters,
    }[quantity]


def reaches(target: Target | None, value: float) -> bool:
    """Whether that is what was asked for; without a target anything is."""
    if target is None:
        return True
    return value >= target.limit if target.quantity == "speedup" else value <= target.limit


def budget_headline(found: BudgetSearch) -> str:
    """What the returned network costs and wins, in a few words; or that there is none."""
    best, asked = found.best, budget_text(found)
    if best is None or best.network is None:
        return f"No network tried keeps the budget: {asked}"
    high = round(best.high or 0.0, found.metric.digits)
    bound = f"{'worse by at most' if high >= 0 else 'better by at least'} {found.metric.amount(abs(high))}"
    return f"{best.label}: {won_text(found, best)}, and {bound} on held-out examples"


def won_text(found: BudgetSearch, candidate: Candidate) -> str:
    """What a candidate wins: in the quantity of the target, else in weights."""
    row, dense = candidate.network, found.dense
    if row is None or dense is None:
        return "not measured"
    timing: Timing = row.timings[0]
    sparse = f" with {counted(len(row.sparse_layers), 'layer')} run sparse" if row.sparse_layers else ""
    return {
        "speedup": f"{ratio(timing)} as fast at batch {timing.batch}{sparse}",
        "latency": f"{amount('latency', timing.high)} for three calls of four at batch {timing.batch}{sparse}",
        "macs": f"{percent(row.macs / dense.macs if dense.macs else 1.0)} of the multiply-accumulates",
        "size": f"{amount('size', candidate.file_bytes or 0)} of weights",
        "params": f"{percent(row.nonzeros / dense.parameters)} of the parameters",
    }[found.quantity or "params"]


def budget_text(found: BudgetSearch) -> str:
    """What was asked for: `at most 0.5 points worse, --speedup 2`."""
    most = f"at most {found.metric.amount(found.max_drop)} worse"
    return most if found.target is None else f"{most}, {found.target.text}"


def budget_summary(found: BudgetSearch) -> list[str]:
    """What the search came to, in sentences: the answer, the test score, what more seeds would show, and the rule."""
    row = found.best.network if found.best else None
    runtime = [*sparse_text(row), *onnxruntime_text(found.metric, row)] if row else []
    what = [*_answer(found), *_test_text(found), *_undertrained(found), *runtime]
    return [*what, *_seeds_text(found), found.rule, *_limits(found)]


def _answer(found: BudgetSearch) -> list[str]:
    best, metric = found.best, found.metric
    if best is not None:
        drop, high = metric.text_difference(-metric.oriented(best.drop or 0.0)), _signed_high(found, best)
        return [
            f"Returned: {best.label}, {won_text(found, best)}; on {found.held_out} held-out examples and "
            f"{counted(found.seeds, 'seed')} its {metric.name} is {drop} against the dense network's, and with "
            f"confidence {percent(1 - found.alpha)} no worse than {high}."
        ]
    within = [one for one in found.candidates if one.answer == WITHIN]
    lines = [f"No network that was tried keeps the budget ({budget_text(found)}); none is returned."]
    if within:
        best_won = min(within, key=lambda one: cost(found, one))
        lines.append(f"Within the drop, the furthest is {best_won.label}: {won_text(found, best_won)}.")
    near = [one for one in found.candidates if one.reaches and one.answer != WITHIN and one.drop is not None]
    if near:
        least = min(near, key=lambda one: one.drop or 0.0)
        what = metric.text_difference(-metric.oriented(least.drop or 0.0))
        reach = "that reach the target " if found.target else ""
        lines.append(f"Of those {reach}whose drop was not shown to be small enough, {least.label} loses least: {what}.")
    return lines


def cost(found: BudgetSearch, candidate: Candidate) -> float:
    """What is made least among the candidates that keep the budget: time, MACs, bytes, or parameters."""
    row, dense = candidate.network, found.dense
    if row is None or dense is None:
        return float("inf")
    if found.quantity in ("speedup", "latency"):
        return row.timings[0].median
    return reached(found.target.quantity if found.target else "params", row, dense, candidate.file_bytes or 0)


def chosen_place(found: BudgetSearch) -> int | None:
    """The place of the candidate that is returned: of those that keep the whole budget the cheapest, then the best."""
    qualified = [i for i, one in enumerate(found.candidates) if one.qualifies]
    drops = [one.drop or 0.0 for one in found.candidates]
    return min(qualified, key=lambda i: (cost(found, found.candidates[i]), drops[i], i), default=None)


def _signed_high(found: BudgetSearch, candidate: Candidate) -> str:
    return found.metric.text_difference(-found.metric.oriented(candidate.high or 0.0))


def _test_text(found: BudgetSearch) -> list[str]:
    test, metric = found.test, found.metric
    if test is None:
        return []
    score, dense = (metric.text(sum(scores) / len(scores)) for scores in (test.scores, test.dense))
    drop = metric.text_difference(-metric.oriented(test.drop))
    if test.low is None or test.high is None:
        between = "no interval, as all seeds agree"
    else:
        ends = sorted((-metric.oriented(test.low), -metric.oriented(test.high)))
        between = " to ".join(metric.text_difference(end) for end in ends)
    lines = [
        f"On the test examples, looked at once and for this network alone: {score} against {dense}, {drop} "
        f"({between}, an interval of {percent(1 - found.alpha)} for whichever of "
        f"{counted(test.candidates, 'candidate')} was chosen)."
    ]
    if test.drop > found.max_drop:
        lines.append("That mean is worse than the budget allows: these examples differ from the held-out ones.")
    return lines


def _undertrained(found: BudgetSearch) -> list[str]:
    """What a network says of the dense one that is surely better than it."""
    if found.best is None or found.best.high is None or found.best.high >= 0:
        return []
    return [
        f"It is surely better than the dense network, which it fine-tunes for {counted(found.epochs, 'epoch')} more: "
        "that training, and not the pruning, may be what it gained by. Train the dense network for longer to compare."
    ]


def _seeds_text(found: BudgetSearch) -> list[str]:
    """What it would take to show that a candidate is within, of those that reach the target and may be."""
    open_ones = [one for one in found.candidates if one.reaches and one.answer != WITHIN and one.high is not None]
    return [_outlook(found, one) for one in open_ones if (one.drop or 0.0) < found.max_drop]


def _outlook(found: BudgetSearch, one: Candidate) -> str:
    if one.seeds_needed is not None:
        seeds = counted(one.seeds_needed, "seed")
        return f"{one.label} may be within the drop: {seeds} in all would probably show it; {found.seeds} were run."
    errors = [
        found.metric.amount(round(error or 0.0, found.metric.digits)) for error in (one.of_seeds, one.of_examples)
    ]
    return (
        f"{one.label} may be within the drop, and more seeds alone would not show it: the choice of {found.held_out} "
        f"held-out examples leaves a standard error of {errors[1]}, the seeds {errors[0]}; hold out more."
    )


def _limits(found: BudgetSearch) -> list[str]:
    if not found.candidates:
        return []
    return [
        "The bounds cover seeds and the choice of the held-out examples; they do not cover a second budget "
        "that is asked after this answer was seen, nor other data, recipes or networks."
    ]


def drop_text(found: BudgetSearch, value: float | None) -> str:
    """A drop or bound as a number, above 0 where worse."""
    return number(value, found.metric.digits).replace("-", "−")
