"""How many training steps a study takes, and how many separate experiments would. Counted by the plan, not timed."""

from itertools import product
from typing import Any

from benchmarks.findings import Findings, Goal, Table
from benchmarks.rounds import Options
from prunetune.data import facts
from prunetune.plan.compile import Plan, plan
from prunetune.plan.context import training_steps
from prunetune.spec.load import load_spec

ROUNDS = 1
MOST = 0.5
RATES: tuple[list[float], ...] = ([0.1], [0.01, 0.1])
SEEDS = (1, 5)
MASKS = (["one_shot"], ["iterative"], ["iterative", "one_shot"], ["iterative", "one_shot", "admm"])
HEADER = ("rates", "seeds", "mask algorithms", "trials", "steps shared", "steps separate", "ratio")


def run(options: Options) -> Findings:
    """R rates x S seeds x M mask algorithms x four arms, ResNet-20 on CIFAR-10 at ten sparsities."""
    studies = [study(*grid) for grid in product(RATES, SEEDS, MASKS)][: 2 if options.quick else None]
    worst = max(found.epochs / found.separate_epochs for found in studies)
    title = "Training steps of a study, ten rounds of 15 %, four arms, 15 epochs a training"
    return Findings(
        tables=(Table(title, HEADER, tuple(_row(found) for found in studies)),),
        goals=(Goal("training steps, of those that separate experiments need (worst row)", worst, most=MOST),),
    )


def study(rates: list[float], seeds: int, masks: list[str]) -> Plan:
    """A plan of the grid."""
    spec: dict[str, Any] = {
        "model": "resnet20",
        "data": "cifar10",
        "learning_rates": rates,
        "seeds": seeds,
        "masks": masks,
        "sparsities": {"per_round": 0.15, "rounds": 10},
        "arms": ["ticket", "reinit", "rewind", "finetune"],
        "recipe": {"epochs": 15},
    }
    return plan(load_spec(spec))


def _row(found: Plan) -> tuple[str, ...]:
    spec = found.spec
    an_epoch = training_steps(spec, facts(found.data)) // spec.recipe.epochs
    return (
        str(len(spec.learning_rates)),
        str(spec.seeds),
        ", ".join(mask.label for mask in spec.masks),
        str(len(found.trials)),
        f"{found.epochs * an_epoch:,}",
        f"{found.separate_epochs * an_epoch:,}",
        f"{found.epochs / found.separate_epochs:.2f}",
    )
