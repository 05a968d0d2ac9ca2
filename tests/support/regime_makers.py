"""Regimes with planted leads and R_p."""

from collections.abc import Sequence

from prunetune.analysis.pairing import Answer, Pairs
from prunetune.analysis.regimes import LEAD, LEADS, Regime

WOBBLE = (-0.1, 0.05, 0.0, -0.05, 0.1)  # of five seeds, with mean 0


def regime(
    number: int,
    excess: float,
    lead: float,
    epochs: int = 6,
    sparsity: float = 0.8,
    rate: float = 0.1,
    dense: float = 85.0,
    matches: bool = True,
    wobble: Sequence[float] = WOBBLE,
    blocked_answers: frozenset[Answer] = frozenset(),
    mask: str = "iterative",
) -> Regime:
    """One regime of study `s{number}`; the lead is ticket − reinit."""
    seeds = range(len(wobble))
    pairs = Pairs("ticket", "reinit", tuple(seeds), tuple(lead + w for w in wobble), blocked_answers=blocked_answers)
    return Regime(
        study=f"s{number}",
        task="small on fashion-mini",
        learning_rate=rate,
        mask=mask,
        sparsity=sparsity,
        epochs=epochs,
        kappa=1.0 - excess,
        p=0.2,
        excess={seed: excess + 0.001 * seed - 0.002 for seed in seeds},
        dense={seed: dense + 0.7 * wobble[seed] + 0.01 * (number % 3) for seed in seeds},
        leads={name: pairs if name == LEAD else Pairs("", "", (), ()) for name in LEADS},
        arms={},
        keys=frozenset({f"{number}-{rate}-{sparsity}-{mask}"}),
        winning=None,
        shortfall=0.0,
        dense_matches=matches,
    )


def rising(most: float = 2.0, at_chance: float = 0.0, **more: float) -> list[Regime]:
    """Two lengths of six dense runs each; the lead rises with R_p from `at_chance` to `most`."""
    excesses = (0.0, 0.02, 0.12, 0.22, 0.35, 0.5)
    rows = []
    for length, epochs in enumerate((6, 12)):
        for place, excess in enumerate(excesses):
            lead = at_chance if excess < 0.05 else at_chance + (most - at_chance) * excess / 0.5
            rows.append(regime(6 * length + place, excess, lead + 0.01 * length, epochs, **more))  # type: ignore[arg-type]
    return rows
