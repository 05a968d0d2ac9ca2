"""Trials with planted differences, for the tests of the verdict."""

from collections.abc import Mapping, Sequence

from prunetune.analysis.statistics import USUAL_RULE, Rule
from prunetune.analysis.verdict import Verdict, judge
from prunetune.rows import Correlation, Missing, Trial

Differences = Mapping[float, Sequence[float]]  # by sparsity, one value a seed
LEVEL = 90.0


def trial(
    arm: str,
    seed: int,
    accuracy: float | None,
    sparsity: float = 0.0,
    rate: float = 0.1,
    mask: str | None = "iterative",
    diverged: bool = False,
) -> Trial:
    return Trial(
        key=f"{arm}{rate}{mask}{sparsity}{seed}",
        arm=arm,
        mask=None if arm == "dense" else mask,
        learning_rate=rate,
        sparsity=sparsity,
        density=1.0 - sparsity,
        seed=seed,
        epochs=6,
        steps=942,
        test_accuracy=accuracy,
        test_loss=0.5,
        diverged=diverged,
        cached=False,
        seconds=1.0,
        start_digest="s",
        mask_digest=None if arm == "dense" else "m",
        data_order_digest="o",
    )


def study(
    against_dense: Differences,
    against_reinit: Differences,
    rate: float = 0.1,
    mask: str = "iterative",
    dense: Sequence[float] | None = None,
) -> list[Trial]:
    """Dense, ticket and reinit trials in which ticket - dense and ticket - reinit are as given."""
    seeds = max(len(values) for values in against_dense.values())
    level = list(dense) if dense is not None else [LEVEL + 0.3 * seed for seed in range(seeds)]
    rows = [trial("dense", seed, level[seed], rate=rate) for seed in range(seeds)]
    for sparsity, differences in against_dense.items():
        for seed, difference in enumerate(differences):
            ticket = level[seed] + difference
            rows.append(trial("ticket", seed, ticket, sparsity, rate, mask))
            if seed < len(against_reinit[sparsity]):
                rows.append(trial("reinit", seed, ticket - against_reinit[sparsity][seed], sparsity, rate, mask))
    return rows


def spread(mean: float, width: float, seeds: int = 5) -> list[float]:
    """Values with this mean, evenly spaced from mean - width to mean + width."""
    return [mean + width * (2 * seed / (seeds - 1) - 1) for seed in range(seeds)]


def overlap(rate: float, value: float, p: float = 0.2, seed: int = 0) -> Correlation:
    return Correlation("theta_0/theta_T", rate, None, 0.0, seed, p, value, p)


def missing(arm: str, seed: int, sparsity: float, failed: bool, rate: float = 0.1) -> Missing:
    why = "failed: disk full" if failed else "diverged source: ticket at 0.5"
    return Missing(arm, "iterative", rate, sparsity, seed, why, failed)


# With five seeds, spread(m, 0.3) has standard deviation 0.2372, so one sparsity alone has bounds m -+ 2.1318 * 0.1061
# = m -+ 0.2262. These means then answer each question clearly:
DENSE = {"yes": 0.0, "undecided": -0.5, "no": -1.0}  # no worse than -0.5?
REINIT = {"yes": 2.0, "undecided": 0.5 - 0.1, "no": 0.0}  # 0.5 or more?


def one(trials: Sequence[Trial], rule: Rule = USUAL_RULE, **more: object) -> Verdict:
    [verdict] = judge(trials, rule, **more)  # type: ignore[arg-type]
    return verdict


def planted(cells: dict[float, tuple[str, str]]) -> list[Trial]:
    """A study in which the two questions have the given answers at each sparsity."""
    return study(
        {sparsity: spread(DENSE[cell[0]], 0.3) for sparsity, cell in cells.items()},
        {sparsity: spread(REINIT[cell[1]], 0.3) for sparsity, cell in cells.items()},
    )


def said(verdict: Verdict) -> str:
    return "\n".join(verdict.reasons)


def substance(verdict: Verdict) -> tuple[object, ...]:
    answers = [(test.dense.answer, test.reinit.answer, test.answer) for test in verdict.tests]
    return verdict.winning_property, verdict.sparsity, verdict.pretraining, verdict.seeds_needed, answers
